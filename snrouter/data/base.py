"""Images on their levels.

Data x lies in [-1, 1]; an image of L levels sits at the bin centres 2 (k + 1/2) / L - 1, k = 0 ... L - 1.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from snrouter.errors import DataError

CHUNK = 2**22
"""Pixels at a time where a pass over all of them needs more than their own bytes."""


def to_levels(x: Tensor, levels: int) -> Tensor:
    """The level, 0 ... levels - 1, whose bin centre is nearest to each value of x (the argmax of p(x | z_0)); int64."""
    return ((x.double() + 1) * levels / 2 - 0.5).round().long().clamp(0, levels - 1)


def from_levels(level: Tensor, levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bin centres 2 (k + 1/2) / levels - 1 of level indices, in [-1, 1]."""
    return ((2 * level.double() + 1) / levels - 1).to(dtype)


def check_images(images: Tensor, levels: int | None, source: str = "images") -> None:
    """Check that images are finite, within [-1, 1] and, when `levels` is given, on its bin centres.

    Raises:
        DataError: naming what was found and what to do.
    """
    if not isinstance(images, Tensor) or images.ndim < 2:
        raise DataError(f"{source}: expected a tensor [B, ...], got {type(images).__name__} {list(getattr(images, 'shape', []))}")
    if len(images) == 0:
        raise DataError(f"{source}: no images; expected at least one")
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{source}: NaN or infinite pixels; expected finite values in [-1, 1]")
    if levels is None:
        return
    lo, hi = float(images.min()), float(images.max())
    if lo < -1 or hi > 1:
        raise DataError(
            f"{source}: pixels span [{lo:g}, {hi:g}], expected [-1, 1]; map level k of {levels} to 2 (k + 1/2)/{levels} - 1"
        )
    offset = float((images.double() - from_levels(to_levels(images, levels), levels, torch.float64)).abs().max())
    if offset > 1e-3 / levels + 1e-6:
        raise DataError(
            f"{source}: pixels lie up to {offset:.2g} off the {levels} levels, expected bin centres "
            f"2 (k + 1/2)/{levels} - 1; is levels={levels} right, or are these pixels k/127.5 - 1 (another grid)?"
        )


class Items(Protocol):
    """A map-style dataset, as torch.utils.data has it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class ImageData:
    """A named set of images.

    Attributes:
        pixels: level indices, integer [N, C, H, W] (or finite floats in their own range when `levels` is None).
        levels: L, or None for continuous data.
        labels: class labels [N], or None.
        name: what it is, e.g. "digits/test".
        protocol: what numbers measured on it must say beside its name, as plain data: source, version, changes to the pixels.
        names: of each image's file, relative to the data's root, with `/` between folders; None where no image has a file.
        attributes: what is known of each image, by name, bool [N].
    """

    pixels: Tensor
    levels: int | None
    labels: Tensor | None
    name: str
    protocol: Mapping[str, Any] = field(default_factory=dict, compare=False)
    names: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    attributes: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.pixels.ndim < 2 or len(self.pixels) == 0:
            raise DataError(f"dataset {self.name}: no images (shape {list(self.pixels.shape)}); expected [N, C, H, W]")
        if self.levels is not None:
            lo, hi = int(self.pixels.min()), int(self.pixels.max())
            if lo < 0 or hi >= self.levels:
                raise DataError(f"dataset {self.name}: levels span {lo} to {hi}, expected 0 to {self.levels - 1}")
        if self.names is not None and len(self.names) != len(self.pixels):
            raise DataError(f"dataset {self.name}: {len(self.names)} names of {len(self.pixels)} images; expected one an image")
        for name, values in self.attributes.items():
            if values.dtype != torch.bool or values.shape != (len(self.pixels),):
                got = f"{values.dtype} {list(values.shape)}"
                raise DataError(f"dataset {self.name}: attribute {name!r} is {got}, expected bool [{len(self.pixels)}]")

    @classmethod
    def from_dataset(cls, dataset: Items, levels: int = 256, name: str = "dataset") -> ImageData:
        """The images of a torch Dataset, each read once.

        Args:
            dataset: its items are images or pairs (image, label). An image is a PIL image (RGB or gray), level indices
                [C, H, W] of an integer type, or floats [C, H, W] at k/(levels - 1) in [0, 1], as torchvision's ToTensor makes them.
            levels: number of levels L.
            name: what results call it.

        Raises:
            DataError: naming the item, what it is and what to do.
        """
        if len(dataset) == 0:
            raise DataError(f"dataset {name}: no items; expected at least one")
        pixels, labels = None, []
        for i in range(len(dataset)):
            image, label = _pair(dataset[i], f"dataset {name}: item {i}")
            image = _item_levels(image, levels, f"dataset {name}: item {i}")
            if pixels is None:
                pixels = image.new_empty((len(dataset), *image.shape))
            if image.shape != pixels.shape[1:]:
                raise DataError(
                    f"dataset {name}: item {i} is {list(image.shape)}, item 0 {list(pixels.shape[1:])}; expected one shape"
                )
            pixels[i] = image
            labels += [] if label is None else [label]
        if len(labels) not in (0, len(dataset)):
            raise DataError(f"dataset {name}: {len(labels)} of {len(dataset)} items have a label; expected all or none")
        assert pixels is not None
        return cls(pixels, levels, torch.tensor(labels) if labels else None, name, {"source": "torch dataset"})

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.pixels.shape[1:])

    def images(self, indices: Sequence[int] | slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Images [B, C, H, W] at the bin centres, in [-1, 1]."""
        chosen = self.pixels[indices]
        if self.levels is None:
            return chosen.to(dtype)
        images = torch.empty(chosen.shape, dtype=dtype)
        for part, levels in zip(chunks(images), chunks(chosen), strict=True):
            part.copy_(from_levels(levels, self.levels, dtype))
        return images

    def take(self, places: Tensor) -> ImageData:
        """Those images alone, in that order, with all that is known of them.

        Args:
            places: indices [m], or bool [N].
        """
        indices = places.nonzero().flatten() if places.dtype == torch.bool else places
        return replace(
            self,
            pixels=self.pixels[indices],
            labels=None if self.labels is None else self.labels[indices],
            names=None if self.names is None else tuple(self.names[i] for i in indices.tolist()),
            attributes={name: values[indices] for name, values in self.attributes.items()},
        )

    def content_hash(self) -> str:
        """SHA-256 of pixels, labels, shape and levels; computed once."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256(f"{list(self.pixels.shape)} {self.pixels.dtype} {self.levels}".encode())
        for part in chunks(self.pixels):
            digest.update(part.contiguous().numpy().data)
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def statistics(self) -> Mapping[str, Any]:
        """Mean and standard deviation of each channel in [-1, 1], and the lowest and highest level; computed once.

        Levels are summed exactly; without levels all is in the data's own units.
        """
        total = squares = torch.zeros(self.pixels.shape[1], dtype=torch.float64)
        for part in chunks(self.pixels):
            values = part.transpose(0, 1).flatten(1).double()
            total, squares = total + values.sum(1), squares + (values * values).sum(1)
        count = self.pixels[:, 0].numel()
        mean, deviation = total / count, (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
        if self.levels is not None:
            mean, deviation = (2 * mean + 1) / self.levels - 1, 2 * deviation / self.levels
        return {
            "mean": [round(value, 6) for value in mean.tolist()],
            "standard_deviation": [round(value, 6) for value in deviation.tolist()],
            "min": self.pixels.min().item(),
            "max": self.pixels.max().item(),
        }

    @cached_property
    def found(self) -> dict[str, Tensor]:
        """What was found of each image [N], by name; kept here by what would else compute it again."""
        return {}

    def level_histogram(self) -> Tensor:
        """How many pixels of each channel are on each level, int64 [C, L].

        Raises:
            DataError: when the data has no levels.
        """
        if self.levels is None:
            raise DataError(f"dataset {self.name}: continuous pixels have no histogram of levels; expected level indices")
        channels = self.pixels.shape[1]
        counts = torch.zeros(channels * self.levels, dtype=torch.int64)
        first = self.levels * torch.arange(channels)[:, None]
        for part in chunks(self.pixels):
            counts += torch.bincount((part.transpose(0, 1).flatten(1).long() + first).flatten(), minlength=len(counts))
        return counts.reshape(channels, self.levels)


def chunks(pixels: Tensor) -> Sequence[Tensor]:
    """Views of images [N, ...], of at most CHUNK pixels where an image has no more."""
    return torch.split(pixels, max(1, CHUNK // math.prod(pixels.shape[1:])))


def _pair(item: Any, where: str) -> tuple[Any, int | None]:
    """Image and label of an item."""
    if not isinstance(item, (tuple, list)):
        return item, None
    if len(item) != 2:
        raise DataError(f"{where} has {len(item)} parts; expected an image, or a pair (image, label)")
    try:
        return item[0], operator.index(item[1])
    except TypeError:
        raise DataError(f"{where} has the label {item[1]!r:.60}; expected a whole number, or items that are images alone") from None


def _item_levels(image: Any, levels: int, where: str) -> Tensor:
    """Level indices [C, H, W] of an item's image."""
    if isinstance(image, Image.Image):
        if image.mode not in ("RGB", "L"):
            raise DataError(f"{where} is a PIL image of mode {image.mode!r}; expected RGB or L, e.g. image.convert('RGB')")
        array = np.array(image)
        image = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
    if not isinstance(image, Tensor) or image.ndim != 3:
        got = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(f"{where} is {got}; expected a PIL image or a tensor [C, H, W]")
    kept = torch.uint8 if levels <= 256 else torch.int32
    if not image.is_floating_point():
        lo, hi = int(image.long().min()), int(image.long().max())
        if lo < 0 or hi >= levels:
            raise DataError(f"{where} has levels from {lo} to {hi}, expected 0 to {levels - 1}")
        return image.to(kept)
    level = (image.double() * (levels - 1)).round()
    offset = float((image.double() - level / (levels - 1)).abs().nan_to_num(nan=torch.inf).max())
    if offset > 1e-4 or level.min() < 0 or level.max() >= levels:
        span = f"[{float(image.min()):.4g}, {float(image.max()):.4g}]"
        raise DataError(
            f"{where} spans {span} and lies up to {offset:.2g} off the levels k/{levels - 1}; expected floats in [0, 1] as "
            f"ToTensor makes them: leave Normalize and augmentation out, or give level indices"
        )
    return level.to(kept)
