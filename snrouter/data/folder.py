"""A folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.data.pictures import Changes, find_pictures, read_pictures
from snrouter.errors import DataError


def folder(
    root: Path,
    labels: Literal["folders"] | None = None,
    mode: Literal["rgb", "gray"] | None = None,
    size: int | None = None,
    resize: Literal["box", "bilinear", "bicubic", "lanczos"] | None = None,
    crop: Literal["center", "none"] | None = None,
) -> ImageData:
    """All PNG, JPEG and WebP images under a folder, sorted by relative path, 256 levels; unchanged unless told.

    Args:
        root: the folder; images may lie at any depth.
        labels: "folders" numbers the first-level sub-folders in alphabetical order, and every image must lie in one.
        mode: what every image becomes: gray repeated in three channels, or the ITU-R 601 luma of colour; without it images must
            be alike.
        size: height and width that every image must have; with `resize` and `crop`, that images of another size get.
        resize: Pillow's filter, antialiased.
        crop: "center" takes the largest centred square first; "none" stretches what is not square.

    Raises:
        DataError: naming the file that cannot be read, is not 8-bit RGB or gray, or differs from the others.
    """
    if not root.is_dir():
        raise DataError(f"folder {root}: no such folder")
    names = find_pictures(root)
    if not names:
        raise DataError(f"folder {root}: no images; looked for .png, .jpg, .jpeg and .webp files at any depth")
    classes, protocol = None, {}
    if labels == "folders":
        classes, count = folder_labels(root, names)
        protocol = {"labels": f"{count} folders"}
    pixels, told = read_pictures(root, names, Changes(mode, size, resize, crop))
    return ImageData(pixels, 256, classes, f"folder:{root.name}", told | protocol, tuple(names))


def folder_labels(root: Path, names: list[str]) -> tuple[Tensor, int]:
    """Labels [N] of images by their first-level folder, in alphabetical order, and how many folders there are.

    Raises:
        DataError: when an image lies in none.
    """
    firsts = []
    for name in names:
        first, inside, _ = name.partition("/")
        if not inside:
            raise DataError(f"{root / name}: lies in no sub-folder that could be its label; move it into one, or leave labels out")
        firsts.append(first)
    classes = {first: label for label, first in enumerate(sorted(set(firsts)))}
    return torch.tensor([classes[first] for first in firsts]), len(classes)
