"""Images in a NumPy .npz archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from snrouter.data.base import ImageData
from snrouter.errors import DataError


def npz(path: Path, key: str = "images", labels: str | None = None, levels: int = 256) -> ImageData:
    """Integer images [N, C, H, W] of an archive.

    Args:
        path: the .npz file.
        key: name of the array of level indices.
        labels: name of the array of class labels, if there is one.
        levels: number of levels L.

    Raises:
        DataError: when the file or an array is missing, or the array is no integer [N, C, H, W].
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in (key, labels) if name is not None and name not in archive.files]
            if missing:
                raise DataError(f"dataset {path}: no array {missing[0]!r}; it holds {', '.join(archive.files)}")
            pixels = archive[key]
            classes = archive[labels] if labels is not None else None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"dataset {path}: cannot be read as .npz ({error})") from None
    if pixels.ndim != 4 or not np.issubdtype(pixels.dtype, np.integer):
        raise DataError(f"dataset {path}: {key!r} is {pixels.dtype} {list(pixels.shape)}, expected integers [N, C, H, W]")
    return ImageData(
        pixels=torch.from_numpy(pixels),
        levels=levels,
        labels=None if classes is None else torch.from_numpy(classes.astype(np.int64)),
        name=f"{path.name}:{key}",
    )
