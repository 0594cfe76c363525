"""The lists that come with CelebA and CelebA-HQ: attributes, partitions, and which image of one is which of the other.

An image of CelebA-HQ is known by its number, 0 to 29,999, and one of CelebA by its file, 000001.jpg to 202599.jpg; a list may use
either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from torch import Tensor

from snrouter.errors import DataError

MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"

SPLITS = {"0": "train", "1": "valid", "2": "test", "train": "train", "valid": "valid", "val": "valid", "test": "test"}
"""What a partition may call a split."""

_VALUES = {"1": True, "-1": False}

T = TypeVar("T")


def read_attributes(path: Path) -> tuple[list[str], dict[str, list[bool]]]:
    """Names of the attributes, and by image (its file's name without suffix) whether each holds.

    The format is CelebA's: a line with the number of images, a line of names, then a line for each image with 1 or -1 an attribute.

    Raises:
        DataError: naming the line that is something else.
    """
    lines = _lines(path)
    if len(lines) < 3 or not lines[0].isdecimal():
        raise DataError(f"{path}: expected CelebA's format: a line with the number of images, one of names, and one an image")
    names, rows = lines[1].split(), dict[str, list[bool]]()
    for number, line in enumerate(lines[2:], 3):
        image, *values = line.split()
        if len(values) != len(names) or not set(values) <= set(_VALUES):
            raise DataError(f"{path}:{number}: expected an image and {len(names)} values 1 or -1, got {line[:60]!r}")
        rows[PurePosixPath(image).stem] = [_VALUES[value] for value in values]
    if len(rows) != int(lines[0]):
        raise DataError(f"{path}: its first line says {lines[0]} images, and {len(rows)} follow; is the file whole?")
    return names, rows


def read_partition(path: Path) -> dict[str, str]:
    """The split of each image (its file's name without suffix): `train`, `valid` or `test`.

    A line is an image and 0, 1 or 2, as in CelebA's list_eval_partition.txt, or the split's name.

    Raises:
        DataError: naming the line that is something else.
    """
    rows = {}
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in SPLITS:
            raise DataError(f"{path}:{number}: expected an image and one of {', '.join(SPLITS)}; got {line[:60]!r}")
        rows[PurePosixPath(words[0]).stem] = SPLITS[words[1]]
    return rows


def read_mapping(path: Path) -> dict[int, str]:
    """The file of CelebA, without suffix, that each image of CelebA-HQ was made from, by its number.

    Raises:
        DataError: naming the line that is something else.
    """
    rows = {}
    for number, line in enumerate(_lines(path)[1:], 2):
        words = line.split()
        if len(words) != 3 or not words[0].isdecimal() or not PurePosixPath(words[2]).stem.isdecimal():
            raise DataError(f"{path}:{number}: expected the columns idx, orig_idx and orig_file, got {line[:60]!r}")
        rows[int(words[0])] = PurePosixPath(words[2]).stem
    return rows


def looked_up(names: Sequence[str], rows: Mapping[str, T], originals: Mapping[int, str] | None, source: str) -> tuple[list[T], str]:
    """What a list says of each file, and in words how the files were found in it.

    Tried in this order, and taken where it finds all: the file of CelebA that CelebA-HQ's mapping gives, the file's own name, its
    number.

    Args:
        names: files, with folders and suffix.
        rows: the list, by name without suffix.
        originals: of CelebA-HQ's mapping, where there is one.
        source: the list's name.

    Raises:
        DataError: naming the first file that the list does not have.
    """
    stems = [PurePosixPath(name).stem for name in names]
    ways: dict[str, Callable[[str], str | None]] = {"by name": lambda stem: stem, "by number": _number}
    if originals is not None:
        ways = {f"by {MAPPING}": lambda stem: originals.get(int(_number(stem) or -1))} | ways
    for way, key in ways.items():
        keys = [key(stem) for stem in stems]
        if all(key in rows for key in keys):
            return [rows[key] for key in keys if key is not None], f"{source}, {way}"
    lacking = next(name for name, stem in zip(names, stems, strict=True) if stem not in rows and _number(stem) not in rows)
    raise DataError(
        f"{source} has no line for {lacking}; expected one for every image, by file or CelebA-HQ's number: "
        + ("name the files so" if originals is not None else f"add {MAPPING} if the list is CelebA's")
    )


def attributes_of(names: Sequence[str], path: Path, originals: Mapping[int, str] | None) -> tuple[dict[str, Tensor], str]:
    """Attributes of files by name, bool [N], and in words where they are from."""
    known, rows = read_attributes(path)
    values, told = looked_up(names, rows, originals, path.name)
    table = torch.tensor(values, dtype=torch.bool)
    return {name: table[:, i] for i, name in enumerate(known)}, told


def _number(stem: str) -> str | None:
    """The number in CelebA-HQ that a file is named by; files of CelebA have six digits."""
    return str(int(stem)) if stem.isdecimal() and len(stem) != 6 else None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]})") from None
