"""Reference statistics as a file: the .npz of NVlabs/edm, whose `mu` and `sigma` are mean and covariance of features.

Files written here say beside them what they are of, in keys that other readers pass over: `n`, `features`, `features_key`,
`reference`, `reference_sha256`. Nothing in a file is run.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snrouter.data.base import ImageData
from snrouter.errors import DataError
from snrouter.files import write
from snrouter.metrics.features.base import Extractor
from snrouter.metrics.references import Moments, moments


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
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in ("mu", "sigma", "n", "features", "features_key") if name in archive}
    except Exception as error:  # zipfile, numpy and zlib each have their own
        raise DataError(f"statistics {path}: cannot be read as .npz ({' '.join(str(error).split())}); copy it again") from None
    if missing := [name for name in ("mu", "sigma") if name not in held]:
        raise DataError(f"statistics {path}: no {' and no '.join(missing)}; expected mu [F] and sigma [F, F], as NVlabs/edm writes")
    mean, covariance = held["mu"], held["sigma"]
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        got = f"{mean.dtype} {list(mean.shape)} and {covariance.dtype} {list(covariance.shape)}"
        raise DataError(f"statistics {path}: expected floats mu [F] and sigma [F, F], got {got}")
    n = int(held["n"]) if "n" in held else None
    found = Moments(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance.astype(np.float64)), n)
    largest = float(found.covariance.abs().max())
    if not (torch.isfinite(found.mean).all() and torch.isfinite(found.covariance).all()):
        raise DataError(f"statistics {path}: NaN or infinite values; make the file again")
    if float((found.covariance - found.covariance.T).abs().max()) > 1e-6 * largest or float(found.covariance.diagonal().min()) < 0:
        raise DataError(f"statistics {path}: sigma is no covariance, which is symmetric with no negative variance")
    if "features_key" in held and str(held["features_key"]) != extractor.key:
        raise DataError(
            f"statistics {path}: of other features ({held.get('features')}) than {extractor.name}; make them with these"
        )
    return found


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
