"""Image files as levels, read strictly: what would change a pixel is an error, or is asked for and stated."""

from __future__ import annotations

import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile
from torch import Tensor

from snrouter.errors import DataError

FORMATS = {"PNG": "PNG files", "JPEG": "JPEG files (lossy)", "WEBP": "WebP files (may be lossy)"}
"""What is read, as Pillow and as a protocol call it."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

REFUSED = (".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".heic")
"""Images that are not read; they are an error and not passed over."""

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters; all widen with the step when they shrink, that is, none aliases."""

LONG = 20_000
"""Files from which reading shows its progress."""

_MODES = {"rgb": "RGB", "gray": "L"}

_FAULTS = {
    "1": "has one bit a pixel",
    "P": "has a palette",
    "LA": "has an alpha channel",
    "PA": "has an alpha channel",
    "RGBA": "has an alpha channel",
    "I": "has more than 8 bits a channel",
    "I;16": "has more than 8 bits a channel",
    "F": "has more than 8 bits a channel",
}


@dataclass(frozen=True)
class Changes:
    """What may be done to images; each is done only where an image needs it.

    Args:
        mode: repeat gray in three channels, or take the ITU-R 601 luma of colour.
        size: the height and width that every image must have, or get.
        resize: how to get it.
        crop: "center" takes the largest centred square first; "none" stretches what is not square, which "square" refuses.
    """

    mode: Literal["rgb", "gray"] | None = None
    size: int | None = None
    resize: Literal["box", "bilinear", "bicubic", "lanczos"] | None = None
    crop: Literal["center", "none", "square"] | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"size: expected at least 1, got {self.size}")
        if (self.resize is None) != (self.crop is None) or (self.resize is not None and self.size is None):
            raise DataError("resize needs size, resize and crop together, e.g. size: 32, resize: box, crop: center")


def find_pictures(root: Path) -> list[str]:
    """Image files at any depth, relative to `root`, sorted by their parts; hidden files and those of other kinds are passed over.

    Raises:
        DataError: for an image of a kind that is not read, or a folder that a link leads to a second time.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None

    found, seen = [], set()
    for folder, folders, files in os.walk(root, onerror=stop, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            raise DataError(f"{here}: a link leads here a second time; remove it")
        seen.add(here.resolve())
        folders[:] = [name for name in folders if not name.startswith(".")]
        start = here.relative_to(root).as_posix()
        for name in files:
            suffix = PurePosixPath(name).suffix.lower()
            if name.startswith(".") or suffix not in (*SUFFIXES, *REFUSED):
                continue
            if suffix in REFUSED:
                raise DataError(f"{here / name}: {suffix} is not read; convert it to PNG, or take it out of the folder")
            found.append(name if start == "." else f"{start}/{name}")
    return sorted(found, key=lambda path: path.split("/"))


def read_pictures(root: Path, names: Sequence[str], changes: Changes | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Images uint8 [N, C, H, W] of files, and for the protocol what they were and what was done to them.

    Args:
        root: the folder that `names` are relative to.
        names: at least one.
        changes: what may be done; nothing by default.

    Raises:
        DataError: naming the file that cannot be read, is not 8-bit RGB or gray, or differs from the first.
    """
    changes = changes or Changes()
    done: Counter[str] = Counter()
    pixels: npt.NDArray[np.uint8] | None = None
    for i, name in enumerate(tracked(names, "reading images")):
        path = root / name
        image = _changed(_open(path, done), path, changes, done)
        levels = np.asarray(image)
        levels = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
        if pixels is None:
            pixels = np.empty((len(names), *levels.shape), dtype=np.uint8)
        if levels.shape != pixels.shape[1:]:
            raise DataError(
                f"{path}: {_told(levels)}, unlike {root / names[0]} of {_told(pixels[0])}; make them alike by "
                + ("mode: rgb, or gray" if levels.shape[1:] == pixels.shape[2:] else "e.g. size: 32, resize: box, crop: center")
            )
        pixels[i] = levels
    formats = [told for kind, told in FORMATS.items() if done.pop(kind, 0)]
    protocol = {"source": ", ".join(formats)} | {what: f"{count} of {len(names)} images" for what, count in done.items()}
    return torch.from_numpy(pixels), protocol


def tracked(items: Sequence[Any], what: str, each: int = 1) -> Iterable[Any]:
    """The items, with a progress bar on standard error where there are many and a person looks.

    Args:
        items: what is read.
        what: stands beside the bar.
        each: how many files' work an item is.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = console.is_terminal and len(items) * each >= LONG
    return track(items, what, console=console, transient=True) if shown else items


def _open(path: Path, done: Counter[str]) -> Image.Image:
    """An image in memory, 8-bit RGB or gray; its format is counted."""
    if not path.is_file():
        raise DataError(f"{path}: is no file, or a link that leads nowhere; remove it")
    bomb = Image.DecompressionBombWarning
    try:
        with warnings.catch_warnings(action="error", category=bomb), Image.open(path, formats=list(FORMATS)) as image:
            fault = _fault(image)
            if fault is None:
                image.load()
                done[str(image.format)] += 1
                return image
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, bomb, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}); replace or remove it") from None
    raise DataError(f"{path}: {fault}; expected an 8-bit RGB or gray image: convert it")


def _fault(image: ImageFile.ImageFile) -> str | None:
    if getattr(image, "is_animated", False):
        return "is animated"
    if image.mode not in _MODES.values():
        return _FAULTS.get(image.mode, f"is {image.mode}")
    if "transparency" in image.info:
        return "has a transparent colour"
    if image.format == "PNG" and image.tile[0][3] not in _MODES.values():
        return f"has other than 8 bits a channel ({image.tile[0][3]})"  # Pillow would scale them to 8, silently
    return None


def _changed(image: Image.Image, path: Path, changes: Changes, done: Counter[str]) -> Image.Image:
    if changes.mode is not None and image.mode != _MODES[changes.mode]:
        done["gray repeated to rgb" if changes.mode == "rgb" else "rgb to luma"] += 1
        image = image.convert(_MODES[changes.mode])
    width, height = image.size
    if changes.size is None or (width, height) == (changes.size, changes.size):
        return image
    if changes.resize is None:
        raise DataError(
            f"{path}: {height} x {width} pixels, expected {changes.size} x {changes.size}; "
            f"type folder changes them, by e.g. size: {changes.size}, resize: box, crop: center"
        )
    if changes.crop == "square" and width != height:
        raise DataError(f"{path}: {height} x {width} pixels, expected a square; add crop: center to take the largest in its middle")
    done[f"resized to {changes.size} x {changes.size} by {changes.resize}, crop {changes.crop}"] += 1
    if changes.crop == "center":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return image.resize((changes.size, changes.size), FILTERS[changes.resize])


def _told(levels: npt.NDArray[np.uint8]) -> str:
    channels, height, width = levels.shape
    return f"{height} x {width} {'gray' if channels == 1 else 'rgb'}"
