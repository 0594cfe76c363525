"""CelebA-HQ (Karras et al. 2018, arXiv:1710.10196), as in CelebAMask-HQ (Lee et al. 2020) or any folder of its images.

Its 30,000 images are faces of CelebA (Liu et al. 2015), aligned by eyes and mouth, cropped square and filtered to 1024 x 1024
pixels when they were published; here they are resized as a whole. CelebA-HQ has no splits of its own: an image is in the split that
its original has in CelebA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from snrouter.data.base import ImageData
from snrouter.data.celeba_lists import MAPPING, attributes_of, looked_up, read_mapping, read_partition
from snrouter.data.copies import absent, incomplete
from snrouter.data.pictures import Changes, find_pictures
from snrouter.data.splits import Duplicates, Leaks, Part, read_part
from snrouter.errors import DataError

PUBLISHED = {"train": 24_183, "valid": 2_993, "test": 2_824, "all": 30_000}
"""Images of each split of CelebA that are in CelebA-HQ."""

FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}

PARTITION = "list_eval_partition.txt"

ATTRIBUTES = ("CelebAMask-HQ-attribute-anno.txt", "list_attr_celeba.txt")
"""Lists of attributes that are found in the root."""

LAST = {"train": 162_770, "valid": 182_637, "test": 202_599}
"""The last file of CelebA in each of its splits, which follow each other."""

SOURCE = "get CelebAMask-HQ.zip at https://github.com/switchablenorms/CelebAMask-HQ and unpack it"


def celeba_hq(
    root: Path,
    size: int,
    split: Literal["train", "valid", "test", "all"] = "test",
    resize: Literal["box", "bilinear", "bicubic", "lanczos"] = "box",
    crop: Literal["center"] | None = None,
    partition: Path | None = None,
    attributes: Path | None = None,
    duplicates: Duplicates = "drop",
    leaks: Leaks = "drop",
) -> ImageData:
    """CelebA-HQ, [N, 3, size, size] with 256 levels and CelebA's 40 attributes, from image files.

    Args:
        root: the folder that holds `CelebA-HQ-img`, or images at any depth, in `train`, `valid` and `test` or not.
        size: height and width, that each image is resized to where it has another.
        split: which part; that of CelebA by `CelebA-HQ-to-CelebA-mapping.txt` in the root, unless a partition or folders say it.
        resize: Pillow's filter, antialiased.
        crop: "center" takes the largest centred square of images that are not square; without it they are refused.
        partition: a list of images and 0, 1, 2 or `train`, `valid`, `test`, by names of CelebA or of these files; the root's
            `list_eval_partition.txt`, where there is one, when left out.
        attributes: a list in CelebA's format; the root's `CelebAMask-HQ-attribute-anno.txt` or `list_attr_celeba.txt` when left
            out.
        duplicates: of images that are alike afterwards "drop" leaves the first by name, "keep" all.
        leaks: images of `valid` and `test` that are also in `train` are left out by "drop", an error by "refuse"; "unchecked" reads
            no training images.

    Raises:
        DataError: when files are absent, cannot be read, have no split or no line in a list, or leak.
    """
    folder = root / "CelebA-HQ-img" if (root / "CelebA-HQ-img").is_dir() else root
    names = find_pictures(folder) if folder.is_dir() else []
    if not names:
        raise absent("celeba_hq", root, ["CelebA-HQ-img/*.jpg", "images at any depth"], SOURCE)
    originals = read_mapping(root / MAPPING) if (root / MAPPING).is_file() else None
    splits, rule = _splits(root, names, partition, originals) if split != "all" else (["all"] * len(names), "all")
    part, training = (Part(folder, [n for n, s in zip(names, splits, strict=True) if s == which]) for which in (split, "train"))
    if not part.names:
        raise DataError(f"celeba_hq: {root} has no image of split {split!r} by {rule}; it has {', '.join(sorted(set(splits)))}")
    whole = incomplete(len(part.names), PUBLISHED[split]) if partition is None or split == "all" else ""
    protocol = {
        "published": "CelebA-HQ, 1024 x 1024 (Karras et al. 2018)",
        "alignment": "as published, by eyes and mouth; none here",
        "split": rule,
    }
    changes = Changes("rgb", size, resize, crop or "square")
    compared = training if split in ("valid", "test") else None
    data = read_part(f"celeba_hq/{split}{whole}", part, changes, protocol, duplicates=duplicates, training=compared, leaks=leaks)
    return _with_attributes(
        data, attributes or next((root / name for name in ATTRIBUTES if (root / name).is_file()), None), originals
    )


_OF_CELEBA = f"that of CelebA, by {MAPPING}"


def _splits(root: Path, names: list[str], partition: Path | None, originals: Mapping[int, str] | None) -> tuple[list[str], str]:
    """The split of each file, and by which rule."""
    listed = partition or (root / PARTITION if (root / PARTITION).is_file() else None)
    if listed is not None:
        return looked_up(names, read_partition(listed), originals, listed.name)
    folders = {folder: split for split, known in FOLDERS.items() for folder in known}
    firsts = [name.partition("/")[0] for name in names]
    if all(first in folders for first in firsts):
        return [folders[first] for first in firsts], "folders"
    if originals is None:
        raise DataError(
            f"celeba_hq: nothing tells the splits of {root}; add {MAPPING} or {PARTITION}, give a partition, part the images into "
            f"train/ and test/, or set split: all"
        )
    rows = {stem: next((split for split, last in LAST.items() if int(stem) <= last), "none") for stem in originals.values()}
    return looked_up(names, rows, originals, MAPPING)[0], _OF_CELEBA


def _with_attributes(data: ImageData, path: Path | None, originals: Mapping[int, str] | None) -> ImageData:
    if path is None:
        return data
    known, told = attributes_of(data.names or (), path, originals)
    return replace(data, attributes=known, protocol=dict(data.protocol) | {"attributes": told})
