"""What samples are compared with: features of reference images, and their mean and covariance, computed once.

Both are kept for the process, and under the hash of extractor and images in a folder on disk, so that other runs find them: the
folder that SNROUTER_CACHE names, else `snrouter` in the user's cache. A file there that cannot be read is made again, and a folder
that cannot be written is done without. Moments are accumulated in blocks, in float64, so that the features of a large set are never
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
from safetensors.torch import load_file, save
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.errors import OutputError
from snrouter.files import write
from snrouter.metrics.features.base import Extractor

BLOCK = 8000
"""Reference images that are floats at a time; a multiple of the extractors' batches."""

HELD = 2**27
"""The most numbers of a set whose features stay in memory when only its moments were asked for."""


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


def features(extractor: Extractor, reference: ImageData, n: int | None = None) -> Tensor:
    """Features of the first n reference images, of all when left out; float64 [n, F].

    Raises:
        CheckpointError: when the extractor cannot take them.
    """
    n = len(reference) if n is None else min(n, len(reference))
    key = _key(extractor, reference, n)
    if key is None:
        return torch.cat(list(_blocks(extractor, reference, n)))
    if key not in _FEATURES:
        kept = _read(key, "features", lambda found: found["features"].ndim == 2 and len(found["features"]) == n)
        _FEATURES[key] = kept["features"] if kept else _compact(torch.cat(list(_blocks(extractor, reference, n))))
    _write(key, "features", {"features": _FEATURES[key]})
    return _FEATURES[key].double()


def moments(extractor: Extractor, reference: ImageData) -> Moments:
    """Mean and covariance of the features of all reference images.

    Raises:
        CheckpointError: when the extractor cannot take them.
    """
    n = len(reference)
    key = _key(extractor, reference, n)
    if key is None:
        return accumulate(_blocks(extractor, reference, n))
    if key not in _MOMENTS:
        kept = _read(key, "moments", lambda found: found["covariance"].shape == (len(found["mean"]),) * 2)
        _MOMENTS[key] = Moments(kept["mean"], kept["covariance"], n) if kept else accumulate(_blocks(extractor, reference, n))
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


def told_reference(reference: ImageData, n: int | None = None) -> dict[str, Any]:
    """What a result row's protocol says of reference images, of which the first n were used."""
    return {
        "reference": reference.name,
        "reference_n": len(reference) if n is None else min(n, len(reference)),
        "reference_protocol": dict(reference.protocol) or None,
        "reference_sha256": reference.content_hash(),
    }


def cache_folder() -> Path:
    """Where reference features and moments are kept on disk."""
    if own := os.environ.get("SNROUTER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snrouter"


_FEATURES: dict[str, Tensor] = {}
_MOMENTS: dict[str, Moments] = {}
"""What this process has found: every route of a sweep is compared with the same."""


def _key(extractor: Extractor, reference: ImageData, n: int) -> str | None:
    if extractor.key is None:
        return None
    return hashlib.sha256(f"{extractor.key} {reference.content_hash()} {n}".encode()).hexdigest()


def _blocks(extractor: Extractor, reference: ImageData, n: int) -> Iterator[Tensor]:
    """Features of the first n images, float64 [b, F] at a time; once seen, those of a small set are held."""
    key = _key(extractor, reference, n)
    if key in _FEATURES:
        yield from (part.double() for part in torch.split(_FEATURES[key], BLOCK))
        return
    held = []
    for start in range(0, n, BLOCK):
        found = extractor.outputs(reference.images(slice(start, min(start + BLOCK, n))))["features"]
        if n * found.shape[1] <= HELD:
            held.append(_compact(found))
        yield found
    if key is not None and held:
        _FEATURES[key] = torch.cat(held)


def _compact(values: Tensor) -> Tensor:
    """As float32 where that loses nothing, which is so of networks that compute in it."""
    return small if torch.equal((small := values.float()).double(), values) else values


def _place(key: str, what: str) -> Path:
    return cache_folder() / what / f"{key[:32]}.safetensors"


def _read(key: str, what: str, fits: Callable[[Mapping[str, Tensor]], bool]) -> dict[str, Tensor] | None:
    """What lies on disk; a damaged file is removed."""
    path = _place(key, what)
    if not path.is_file():
        return None
    try:
        kept = load_file(path)
        whole = fits(kept) and all(bool(torch.isfinite(values).all()) for values in kept.values())
    except Exception:
        whole = False
    if whole:
        return kept
    with suppress(OSError):
        path.unlink()
    return None


def _write(key: str, what: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep on disk what is not there yet, where it can be."""
    path = _place(key, what)
    if not path.is_file():
        with suppress(OutputError):
            write(path, save({name: values.contiguous() for name, values in tensors.items()}))
