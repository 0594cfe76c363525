"""Sets of image files parted into splits: duplicates found by content, and what a test split shares with training.

Images are compared after all that is done to them, every level alike. That finds copies of a file and files that differ in what
resizing takes away. It does not find what is nearly alike: another compression, crop, or brightness of one photograph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from snrouter.data.base import ImageData
from snrouter.data.overlap import distinct, identical
from snrouter.data.pictures import Changes, read_pictures, tracked
from snrouter.errors import DataError

BLOCK = 1024
"""Training images in memory at a time while they are compared."""

Duplicates = Literal["drop", "keep"]
Leaks = Literal["drop", "refuse", "unchecked"]


@dataclass(frozen=True)
class Part:
    """Image files of a split.

    Attributes:
        root: what names are relative to.
        names: of the files, in order.
    """

    root: Path
    names: Sequence[str]


def read_part(
    name: str,
    part: Part,
    changes: Changes,
    protocol: Mapping[str, Any],
    *,
    duplicates: Duplicates = "drop",
    training: Part | None = None,
    leaks: Leaks = "drop",
) -> ImageData:
    """The images of a split, 256 levels, without duplicates and leaks unless told otherwise.

    Args:
        name: of the data.
        part: its files, at least one.
        changes: what is done to them.
        protocol: what more the data say of themselves.
        duplicates: of images that are alike "drop" leaves the first by name; "keep" only counts the others.
        training: files of the training split, which may be none; left out where this is the training split, or no split.
        leaks: images that are also among the training images are left out by "drop", an error by "refuse".

    Raises:
        DataError: naming the file that cannot be read or that leaks; or when no image is left.
    """
    pixels, told = read_pictures(part.root, part.names, changes)
    data = ImageData(pixels, 256, None, name, told | dict(protocol), tuple(part.names))
    first = distinct(data)
    told = {"duplicates": f"{len(data) - len(first)} of {len(data)} images, {_KEPT[duplicates]}"}
    data = data.take(first) if duplicates == "drop" else data
    if training is not None and (leaks == "unchecked" or not training.names):
        told["leaks"] = "unchecked" if training.names else "unchecked, as there are no training images"
    elif training is not None:
        leaked = _leaked(data, training, changes)
        _refuse(data, leaked, leaks)
        told["leaks"] = f"{int(leaked.sum())} of {len(data)} images also in train, {_LEFT[leaks]}"
        data = data.take(~leaked)
    return replace(data, protocol=dict(data.protocol) | told)


_KEPT = {"drop": "of which the first by name is kept", "keep": "kept"}
_LEFT = {"drop": "left out", "refuse": "none allowed"}


def _leaked(data: ImageData, training: Part, changes: Changes) -> torch.Tensor:
    """Which images are also among the training images, which are read block by block: bool [N]."""
    found = torch.zeros(len(data), dtype=torch.bool)
    blocks = [training.names[start : start + BLOCK] for start in range(0, len(training.names), BLOCK)]
    for names in tracked(blocks, "comparing with train", each=BLOCK):
        pixels, _ = read_pictures(training.root, names, changes)
        found |= identical(data, ImageData(pixels, 256, None, "train"))
    return found


def _refuse(data: ImageData, leaked: torch.Tensor, leaks: Leaks) -> None:
    """Raise where a leak is refused, or where nothing would be left."""
    count = int(leaked.sum())
    if count and (leaks == "refuse" or count == len(data)):
        first = (data.names or ())[int(leaked.nonzero()[0])]
        remedy = "leaks: drop leaves them out" if count < len(data) else "are these two splits?"
        raise DataError(f"{data.name}: {count} of {len(data)} images are also in train, the first {first}; {remedy}")
