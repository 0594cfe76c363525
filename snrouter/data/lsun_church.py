"""LSUN church outdoor (Yu et al. 2015, arXiv:1506.03365), from exported image files.

Published as photographs whose smaller side is 256 pixels, compressed as JPEG: 126,227 to train on and 300 to validate. Here the
largest centred square of each is resized.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from snrouter.data.base import ImageData
from snrouter.data.copies import absent, incomplete
from snrouter.data.pictures import Changes, find_pictures
from snrouter.data.splits import Duplicates, Leaks, Part, read_part
from snrouter.errors import DataError

PUBLISHED = {"train": 126_227, "valid": 300}
"""Images of each split."""

FOLDERS = {"train": ("church_outdoor_train", "train"), "valid": ("church_outdoor_val", "val", "valid")}
"""Of exported files, under the root."""

HELD_OUT = 5
"""Percent of the images of a folder without splits that are its `valid`."""

SOURCE = "get church_outdoor_train_lmdb.zip at https://github.com/fyu/lsun, and export it by `python data.py export`"


def lsun_church(
    root: Path,
    size: int,
    split: Literal["train", "valid", "all"] = "valid",
    resize: Literal["box", "bilinear", "bicubic", "lanczos"] = "box",
    duplicates: Duplicates = "drop",
    leaks: Leaks = "drop",
) -> ImageData:
    """LSUN church outdoor, [N, 3, size, size] with 256 levels, from files that were exported of its databases.

    Args:
        root: the folder that holds `church_outdoor_train` and `church_outdoor_val`, or `train` and `val`, with images at any depth;
            or images in sub-folders of any other names, of which a digest of the path makes one in twenty `valid`.
        size: height and width, that the largest centred square of each image is resized to.
        split: which part; `all` of a folder without splits.
        resize: Pillow's filter, antialiased.
        duplicates: of images that are alike afterwards "drop" leaves the first by name, "keep" all.
        leaks: images of `valid` that are also in `train` are left out by "drop", an error by "refuse"; "unchecked" reads no
            training images.

    Raises:
        DataError: when files are absent, cannot be read, or leak.
    """
    parts, rule = _parts(root)
    part = parts.get(split)
    if part is None or not part.names:
        raise DataError(f"lsun_church: {root} has no split {split!r}; it has {', '.join(parts)}")
    published = rule == "folders"
    name = f"lsun_church/{split}{incomplete(len(part.names), PUBLISHED[split]) if published else ''}"
    protocol = {
        "published": "photographs of smaller side 256, JPEG (Yu et al. 2015)",
        "alignment": "none",
        "split": "all" if split == "all" else rule,
    }
    changes = Changes(size=size, resize=resize, crop="center", mode="rgb")
    training = parts.get("train", Part(root, ())) if split == "valid" else None
    return read_part(name, part, changes, protocol, duplicates=duplicates, training=training, leaks=leaks)


def _parts(root: Path) -> tuple[dict[str, Part], str]:
    """The image files of each split, and the rule that parts them."""
    databases = [path for path in (root, *sorted(root.glob("*"))) if (path / "data.mdb").is_file()]
    if databases:
        raise DataError(f"lsun_church: {databases[0]} is an LMDB; export its images by LSUN's `python data.py export`")
    found = {
        split: folder
        for split, names in FOLDERS.items()
        if (folder := next((root / name for name in names if (root / name).is_dir()), None))
    }
    if found:
        return {split: Part(folder, find_pictures(folder)) for split, folder in found.items()}, "folders"
    names = find_pictures(root) if root.is_dir() else []
    if not names:
        raise absent("lsun_church", root, [f"{FOLDERS['train'][0]}/**/*.webp", "<folder>/**/*.jpg"], SOURCE)
    parts = {
        "train": [name for name in names if not _held_out(name)],
        "valid": [name for name in names if _held_out(name)],
        "all": names,
    }
    return {split: Part(root, part) for split, part in parts.items()}, f"SHA-256 of the path modulo 100, valid below {HELD_OUT}"


def _held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % 100 < HELD_OUT
