"""Pictures: images as PNG, inline or as a file.

A page holds many: the side of an image in it follows from how many share a budget of bytes.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snrouter.errors import DataError
from snrouter.files import write

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 12
"""Columns of a sample grid at most."""

_LARGE = 96
"""Pixels of a side at most: larger images are reduced."""

_SMALL = 32
"""Pixels of a side at least, about: smaller images are enlarged by a whole factor. A picture that is a file has large ones."""

_BYTES = 4.3
"""Of a coloured pixel of noise in a page: three, something for the transparency between images, and a third more as base64."""


def side(images: int, budget: int) -> int:
    """Pixels of a side that so many images may have in a page within a budget of bytes, even if nothing can be compressed."""
    return min(max(int(math.sqrt(budget / (_BYTES * max(images, 1)))), 8), _LARGE)


def pictured(images: Any) -> bool:
    """Whether these are grey or colour images [n, C, H, W]."""
    shape = np.shape(images)
    return len(shape) == 4 and shape[1] in (1, 3) and 0 not in shape


def strip(images: Any, most: int = _LARGE) -> str | None:
    """Images [n, C, H, W] in [-1, 1] side by side, as a PNG in a data URI; None for what is no grey or colour image."""
    return grid([images], most)


def grid(rows: Sequence[Any], most: int = _LARGE) -> str | None:
    """Rows of images [n, C, H, W] as one PNG in a data URI; None for what is no grey or colour image."""
    if not rows or not all(pictured(row) for row in rows):
        return None
    tiles = [_beside([_tile(image, _SMALL, most) for image in np.asarray(row)], 1) for row in rows]
    return "data:image/png;base64," + base64.b64encode(_png(_beside(tiles, 0))).decode()


def save_grid(images: Any, path: Path) -> Path:
    """Write images [n, 1 or 3, H, W] in [-1, 1] as one PNG, about as many rows as columns, and return its path.

    Raises:
        DataError: for anything but grey or colour images.
        OutputError: when it cannot be written.
    """
    pixels = np.asarray(images)
    if not pictured(pixels):
        raise DataError(f"images: expected grey or colour images [n, 1 or 3, H, W], got {list(pixels.shape)}")
    tiles = [_tile(image, _LARGE, _LARGE) for image in pixels]
    across = math.ceil(math.sqrt(len(tiles)))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % across)
    rows = [_beside(tiles[start : start + across], 1) for start in range(0, len(tiles), across)]
    write(path, _png(_beside(rows, 0)))
    return path


def _tile(image: NDArray[Any], least: int, most: int) -> NDArray[np.uint8]:
    """One image as [h, w, 4] bytes, enlarged or reduced by a whole factor."""
    levels = np.nan_to_num((image.astype(np.float64) + 1) * 127.5).clip(0, 255)
    longer = max(levels.shape[1:])
    if longer > most:
        factor = math.ceil(longer / most)
        height, width = (max(n // factor, 1) * min(factor, n) for n in levels.shape[1:])
        cut = levels[:, :height, :width]
        rows, columns = (min(factor, n) for n in (height, width))
        levels = cut.reshape(len(levels), height // rows, rows, width // columns, columns).mean((2, 4))
    else:
        factor = max(least // longer, 1)
        levels = levels.repeat(factor, 1).repeat(factor, 2)
    coloured = np.broadcast_to(levels.round().astype(np.uint8), (3, *levels.shape[1:]))
    return np.concatenate([coloured, np.full_like(coloured[:1], 255)]).transpose(1, 2, 0)


def _beside(tiles: Sequence[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Tiles joined along an axis, with transparent gaps."""
    gap = np.zeros_like(tiles[0].take(range(max(min(tiles[0].shape[:2]) // 16, 1)), axis))
    joined = [part for tile in tiles for part in (gap, tile)][1:]
    return np.concatenate(joined, axis)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave

    stream = io.BytesIO()
    metadata: Any = {"Software": None}  # matplotlib's default names itself and its address
    imsave(stream, pixels, format="png", metadata=metadata)
    return stream.getvalue()
