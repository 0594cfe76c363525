"""Reference statistics as a file: the .npz of NVlabs/edm, whose `mu` and `sigma` are mean and covariance of features.

Files written here say beside them what they are of, in keys that other readers pass over: `n`, `features`, `features_key`,
`reference`, `reference_sha256`. Nothing in a file is run.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snrouter.data.base import ImageData
from snrouter.errors import DataError
from snrouter.files import write
from snrouter.metrics.features.base import Extractor
from snrouter.metrics.references import Moments, moments

ROUNDING = 1e-6
"""The part of the largest entry by which a covariance may fail to be one, as float32 leaves it."""


def read_statistics(path: Path, extractor: Extractor) -> Moments:
    """Mean and covariance in a file.

    Args:
        path: the .npz file.
        extractor: of the features to compare with; a file that says which features it is of must name these.

    Raises:
        DataError: when it is missing or damaged, holds no `mu` [F] and `sigma` [F, F], or is of other features.
    """
    if not path.is_file():
        raise DataError(f"statistics {path}: no such file; give an .npz file with mu and sigma, e.g. by `snrouter statistics`")
    found, features, key = _read(path, path.stat().st_mtime_ns)
    if key not in (None, extractor.key):
        raise DataError(f"statistics {path}: of other features ({features}) than {extractor.name}; make them with these")
    return found


@lru_cache(maxsize=2)
def _read(path: Path, modified: int) -> tuple[Moments, str | None, str | None]:
    """What a file holds, and the name and the key of the features it is of, where it says them."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in ("mu", "sigma", "n", "features", "features_key") if name in archive}
    except Exception as error:  # zipfile, numpy and zlib each have their own
        raise DataError(f"statistics {path}: cannot be read as .npz ({' '.join(str(error).split())}); copy it again") from None
    if missing := [name for name in ("mu", "sigma") if name not in held]:
        raise DataError(f"statistics {path}: no {' and no '.join(missing)}; expected mu [F] and sigma [F, F], as NVlabs/edm writes")
    mean, covariance = held["mu"], held["sigma"]
    square = mean.ndim == 1 and covariance.shape == (len(mean), len(mean)) and len(mean) > 0
    if not square or mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        got = f"{mean.dtype} {list(mean.shape)} and {covariance.dtype} {list(covariance.shape)}"
        raise DataError(f"statistics {path}: expected floats mu [F] and sigma [F, F], got {got}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"statistics {path}: NaN or infinite values; make the file again")
    mu, sigma = (torch.from_numpy(part.astype(np.float64)) for part in (mean, covariance))
    rounding = ROUNDING * float(sigma.abs().max())
    if float((sigma - sigma.T).abs().max()) > rounding or float(torch.linalg.eigvalsh(sigma)[0]) < -rounding * len(mu):
        raise DataError(f"statistics {path}: sigma is no covariance, which is symmetric with no negative eigenvalue")
    features, key = (str(held[name]) if name in held else None for name in ("features", "features_key"))
    return Moments(mu, sigma, _count(path, held.get("n"))), features, key


def _count(path: Path, n: np.ndarray | None) -> int | None:
    """Of how many images, where a file says it."""
    if n is None:
        return None
    if n.shape != () or n.dtype.kind not in "iuf" or not 2 <= n < 2**53 or n != int(n):
        raise DataError(f"statistics {path}: expected n, of images, to be a whole number of at least 2, got {n.tolist()!r:.60}")
    return int(n)


def write_statistics(path: Path, extractor: Extractor, reference: ImageData) -> Moments:
    """Write mean and covariance of the features of all reference images, atomically, and return them.

    Raises:
        CheckpointError: when the extractor cannot take them.
        OutputError: when the file cannot be written.
    """
    found = moments(extractor, reference)
    arrays: dict[str, Any] = {"mu": found.mean.numpy(), "sigma": found.covariance.numpy(), "n": len(reference)}
    arrays |= {"features": extractor.name, "reference": reference.name, "reference_sha256": reference.content_hash()}
    if extractor.key is not None:
        arrays["features_key"] = extractor.key
    content = io.BytesIO()
    np.savez(content, **arrays)
    write(path, content.getvalue())
    return found
