"""Images that are in two sets at once, for what was trained on and is measured on leaks; and more than once in one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from snrouter.data.base import ImageData


def identical(images: ImageData, among: ImageData) -> Tensor:
    """Which images of one set are also in another, every value alike: bool [N].

    Images of other levels or another shape are not alike.
    """
    if images.levels != among.levels or images.shape != among.shape:
        return torch.zeros(len(images), dtype=torch.bool)
    kept = torch.promote_types(images.pixels.dtype, among.pixels.dtype)
    known = set(_hashes(among, kept))
    return torch.tensor([each in known for each in _hashes(images, kept)])


def distinct(images: ImageData) -> Tensor:
    """Places of the first of each image, ascending [m]: those that are like one before them in every value are left out."""
    places: dict[bytes, int] = {}
    for place, each in enumerate(_hashes(images, images.pixels.dtype)):
        places.setdefault(each, place)
    return torch.tensor(list(places.values()))


def _hashes(data: ImageData, kept: torch.dtype) -> list[bytes]:
    return [
        hashlib.blake2b(image.to(kept).contiguous().numpy().data, digest_size=16).digest()  # by chance alike: 1e-26 in 1e6 images
        for image in data.pixels
    ]
