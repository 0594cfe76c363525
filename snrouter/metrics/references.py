"""What samples are compared with: features of reference images, and their mean and covariance, computed once.

Both are kept for the process, and under the hash of extractor, images and device in a folder on disk, so that other runs find them:
the folder that SNROUTER_CACHE names, else `snrouter` in the user's cache. A file there that is damaged is made again, and a folder
that cannot be used is done without. Moments are accumulated in blocks, in float64, so that the features of a large set are never
held together:

    n = a + b,   d = m_b - m_a,   m = m_a + d b/n,   S = S_a + S_b + d d^T ab/n,   C = S / (n - 1)

Source: Chan, Golub and LeVeque 1979.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import OutputError, SpecError
from snrouter.files import write
from snrouter.metrics.blocks import device
from snrouter.metrics.features.base import Extractor, compact

BLOCK = 8000
"""Reference images that are floats at a time; a multiple of the extractors' batches."""

HELD = 2**27
"""The most numbers of a set whose features stay in memory when only its moments were asked for, and are kept on disk."""

LARGEST = 2**29
"""The most numbers of a set whose features are held at all."""


class Moments(NamedTuple):
    """Of features, float64.

    Attributes:
        mean: [F].
        covariance: [F, F], with n - 1.
        n: of how many images; None where a file does not say it.
    """

    mean: Tensor
    covariance: Tensor
    n: int | None


def drawn(reference: ImageData, n: int | None = None, seed: int = 0) -> Tensor:
    """Which reference images are compared with: all, or n drawn by the seed; ascending."""
    if n is None or n >= len(reference):
        return torch.arange(len(reference))
    return Draws(seed).uniform("reference", range(len(reference)), ()).argsort()[:n].sort().values


def features(extractor: Extractor, reference: ImageData, n: int | None = None, seed: int = 0) -> Tensor:
    """Features of reference images, of all or of n drawn by the seed; [n, F], float32 where that loses nothing, else float64.

    Raises:
        CheckpointError: when the extractor cannot take them.
    """
    key = _key(extractor, reference, n, seed)
    found = _features(key, extractor, reference, n, seed)
    if found.numel() <= HELD:
        _write(key, "features", {"features": found})
    return found


def once(
    what: str, make: Callable[[Tensor], Tensor], extractor: Extractor, reference: ImageData, n: int | None = None, seed: int = 0
) -> Tensor:
    """What follows from the features of reference images alone, made once a process: every route of a sweep has the same.

    Args:
        what: names what is made, with all else that it depends on.
        make: of the features.
        extractor: as for `features`.
        reference: as for `features`.
        n: as for `features`.
        seed: as for `features`.
    """
    key = _key(extractor, reference, n, seed)
    if key is None:
        return make(features(extractor, reference, n, seed))
    if (key, what) not in _MADE:
        _MADE[key, what] = make(features(extractor, reference, n, seed))
    return _MADE[key, what]


def moments(extractor: Extractor, reference: ImageData) -> Moments:
    """Mean and covariance of the features of all reference images.

    Raises:
        CheckpointError: when the extractor cannot take them.
    """
    key = _key(extractor, reference)
    if key is None:
        return accumulate(_blocks(extractor, reference))
    if key not in _MOMENTS:
        if kept := _read(key, "moments"):
            _MOMENTS[key] = Moments(kept["mean"], kept["covariance"], len(reference))
        else:
            small = len(reference) * extractor.width(reference.images(slice(2))) <= HELD
            held = _features(key, extractor, reference) if small or key in _FEATURES else None
            _MOMENTS[key] = accumulate(_blocks(extractor, reference) if held is None else torch.split(held, BLOCK))
    _write(key, "moments", {"mean": _MOMENTS[key].mean, "covariance": _MOMENTS[key].covariance})
    return _MOMENTS[key]


def accumulate(blocks: Iterable[Tensor]) -> Moments:
    """Moments of features that come in blocks [b, F]; the covariance of a single one is NaN."""
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        block = block.double()
        own = block.mean(0)
        centred, shift = block - own, own - mean
        n = count + len(block)
        mean = mean + shift * (len(block) / n)
        scatter = scatter + centred.T @ centred + torch.outer(shift, shift) * (count * len(block) / n)
        count = n
    return Moments(mean, scatter / (count - 1 if count > 1 else torch.nan), count)


def check_size(n: int, width: int) -> None:
    """Refuse to hold the features of too many images.

    Raises:
        SpecError: naming how many would do.
    """
    if n * width > LARGEST:
        raise SpecError(
            f"reference: {n:,} images of {width:,} features are too many to compare each with each; "
            f"set reference_samples to at most {LARGEST // width:,}"
        )


def told_reference(reference: ImageData, n: int | None = None, seed: int = 0) -> dict[str, Any]:
    """What a result row's protocol says of reference images, all or n drawn by the seed."""
    part = n is not None and n < len(reference)
    return {
        "reference": reference.name,
        "reference_n": n if part else len(reference),
        "reference_drawn": f"from {len(reference):,} by seed {seed}" if part else None,
        "reference_protocol": dict(reference.protocol) or None,
        "reference_sha256": reference.content_hash(),
    }


def cache_folder() -> Path | None:
    """Where reference features and moments are kept on disk; None for a user without a home."""
    if own := os.environ.get("SNROUTER_CACHE"):
        return Path(own)
    with suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snrouter"
    return None


_FEATURES: dict[str, Tensor] = {}
_MADE: dict[tuple[str, str], Tensor] = {}
_MOMENTS: dict[str, Moments] = {}
"""What this process has found: every route of a sweep is compared with the same."""


def _key(extractor: Extractor, reference: ImageData, n: int | None = None, seed: int = 0) -> str | None:
    """Of features on this kind of device: rounding differs between them."""
    if extractor.key is None:
        return None
    drawn = (n, seed) if n is not None and n < len(reference) else "all"
    parts = (extractor.key, reference.content_hash(), drawn, device().type, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _features(key: str | None, extractor: Extractor, reference: ImageData, n: int | None = None, seed: int = 0) -> Tensor:
    """Those of `features`, from memory, from disk, or anew."""
    if key is None:
        return _joined(extractor, reference, n, seed)
    if key not in _FEATURES:
        kept = _read(key, "features")
        _FEATURES[key] = kept["features"] if kept else _joined(extractor, reference, n, seed)
    return _FEATURES[key]


def _joined(extractor: Extractor, reference: ImageData, n: int | None, seed: int) -> Tensor:
    """Features of the images, block by block into one tensor."""
    joined, start = torch.empty(0), 0
    for block in map(compact, _blocks(extractor, reference, n, seed)):
        if start == 0:
            joined = block.new_empty((min(n or len(reference), len(reference)), block.shape[1]))
        if block.dtype != joined.dtype:
            joined = joined.double()
        joined[start : start + len(block)] = block
        start += len(block)
    return joined


def _blocks(extractor: Extractor, reference: ImageData, n: int | None = None, seed: int = 0) -> Iterator[Tensor]:
    """Features of the images, float64 [b, F] at a time."""
    for part in torch.split(drawn(reference, n, seed), BLOCK):
        yield extractor.outputs(reference.images(part.tolist()))["features"]


def _place(key: str, what: str) -> Path | None:
    folder = cache_folder()
    return folder and folder / what / f"{key[:32]}.safetensors"


def _read(key: str, what: str) -> dict[str, Tensor] | None:
    """What lies on disk; a damaged file is removed."""
    if (path := _place(key, what)) is None:
        return None
    with suppress(Exception), safe_open(path, framework="pt") as file:  # damage, or a folder that is closed to us
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        if (file.metadata() or {}).get("sha256") == _digest(kept):
            return kept
    with suppress(OSError):
        path.unlink()
    return None


def _write(key: str | None, what: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep on disk what is not there yet, where it can be."""
    path = _place(key, what) if key else None
    with suppress(OSError, OutputError):
        if path and not path.is_file():
            whole = {name: values.contiguous() for name, values in tensors.items()}
            write(path, save(whole, metadata={"sha256": _digest(whole)}))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()
