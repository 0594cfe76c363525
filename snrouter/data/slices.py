r"""Named parts of a data set, as declarative filters.

A part is chosen by labels, attributes or folders, or by a statistic of each image x [C, H, W] in [-1, 1], with y the luma:

    colour variance  (1/C) sum_c Var(x_c), over the pixels of a channel
    texture          mean (y_{i+1,j} - y_{ij})^2 + mean (y_{i,j+1} - y_{ij})^2
    brightness       mean y

`low` is below the median of the reference and `high` at or above it, so that the two together are all images. Luma is that of
ITU-R 601, y = 0.299 R + 0.587 G + 0.114 B, and the mean of the channels where there are not three. Sums over levels are of whole
numbers, exact in any order: an image falls on the same side of the median on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from snrouter.data.base import ImageData, chunks
from snrouter.errors import DataError, SpecError, suggestion

_LUMA = (299, 587, 114)
"""Thousandths of red, green and blue, so that the luma of levels is a whole number."""

Side = Literal["low", "high"]


class Slice(BaseModel):
    """A part of a data set; of several keys all must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    classes: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    """Labels, any of which an image must have."""
    colour_variance: Side | None = None
    """`low` or `high`: variance of each channel over an image's pixels, mean over channels, below the reference's median or not."""
    texture: Side | None = None
    """`low` or `high`: mean squared difference of the luma of neighbouring pixels, below the reference's median or not."""
    brightness: Side | None = None
    """`low` or `high`: mean luma, below the reference's median or not."""
    attributes: dict[str, bool] | None = Field(default=None, min_length=1)
    """What the data's attributes must be, e.g. `{Blond_Hair: true, Male: false}`."""
    folders: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(default=None, min_length=1)
    """Folders below the data's root, in any of which, at any depth, an image's file must lie."""

    @model_validator(mode="after")
    def _not_of_nothing(self) -> Slice:
        if not self.told:
            raise SpecError(f"expected at least one of {', '.join(type(self).model_fields)}, e.g. {{classes: [0, 6]}}")
        return self

    @property
    def told(self) -> dict[str, Any]:
        """The keys that are given, as plain data; what tells two slices apart."""
        return self.model_dump(mode="json", exclude_none=True)

    def members(self, data: ImageData, reference: ImageData | None = None) -> Tensor:
        """Which images are in it, bool [N].

        Args:
            data: the images.
            reference: whose medians statistics are compared with; the data's own without it.

        Raises:
            DataError: when no image is in it, when the data lack the labels, attributes or names it asks for, or when the
                reference's images are of another kind than the data's.
        """
        parts = []
        if self.classes is not None:
            parts.append(torch.isin(_labels(data), torch.tensor(self.classes)))
        if self.folders is not None:
            parts.append(_inside(data, self.folders))
        for name, wanted in (self.attributes or {}).items():
            parts.append(_attribute(data, name) == wanted)
        for name in STATISTICS:
            side: Side | None = getattr(self, name)
            if side is not None:
                parts.append(_beside_median(name, data, reference) == (side == "low"))
        found = reduce(torch.logical_and, parts)
        if not found.any():
            raise DataError(f"no image of {data.name} has {self.told}; expected at least one: ask for less, or leave the slice out")
        return found


def colour_variance(data: ImageData) -> Tensor:
    """Variance over pixels of each channel of an image in [-1, 1], mean over channels, float64 [N]; own units without levels."""

    def of(pixels: Tensor) -> Tensor:
        count = pixels[0, 0].numel()
        sums, squares = pixels.flatten(2).sum(2), (pixels * pixels).flatten(2).sum(2)
        return (count * squares - sums * sums).sum(1).double() / (pixels.shape[1] * count**2)

    return _each(data, of) * _unit(data) ** 2


def texture(data: ImageData) -> Tensor:
    """Mean squared difference of the luma of neighbours, down plus across, of images in [-1, 1], float64 [N]."""

    def of(pixels: Tensor) -> Tensor:
        luma = _luma(pixels)
        total = torch.zeros(len(luma), dtype=torch.float64)
        for differences in (luma.diff(dim=1), luma.diff(dim=2)):
            if differences[0].numel():
                wide = differences.double() if data.levels is None else differences.long()
                total += (wide * wide).flatten(1).sum(1).double() / differences[0].numel()
        return total

    return _each(data, of) * (_unit(data) / _whole(data)) ** 2


def brightness(data: ImageData) -> Tensor:
    """Mean luma of images in [-1, 1], float64 [N]; own units without levels."""

    def of(pixels: Tensor) -> Tensor:
        return _luma(pixels).flatten(1).sum(1).double() / pixels[0, 0].numel()

    mean = _each(data, of) / _whole(data)
    return mean if data.levels is None else (2 * mean + 1) / data.levels - 1


STATISTICS: Mapping[str, Callable[[ImageData], Tensor]] = {
    "colour_variance": colour_variance,
    "texture": texture,
    "brightness": brightness,
}
"""What an image may be compared by, under the key of a slice."""


def _each(data: ImageData, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """A statistic of every image [n, C, H, W], whole numbers where there are levels."""
    few = data.levels is not None and data.levels <= 256  # squares of levels and luma of three channels fit 32 bits
    kept = torch.float64 if data.levels is None else torch.int32 if few else torch.int64
    return torch.cat([statistic(part.to(kept)) for part in chunks(data.pixels)])


def _luma(pixels: Tensor) -> Tensor:
    """Luma [n, H, W] times `_whole`: whole numbers stay whole."""
    weights = _LUMA if pixels.shape[1] == len(_LUMA) else (1,) * pixels.shape[1]
    luma = weights[0] * pixels[:, 0]
    for channel, weight in enumerate(weights[1:], 1):
        luma += weight * pixels[:, channel]
    return luma


def _whole(data: ImageData) -> int:
    """Sum of the luma's weights."""
    return sum(_LUMA) if data.shape[0] == len(_LUMA) else data.shape[0]


def _unit(data: ImageData) -> float:
    """Distance of two levels in [-1, 1]; 1 of continuous data."""
    return 1.0 if data.levels is None else 2 / data.levels


def _beside_median(name: str, data: ImageData, reference: ImageData | None) -> Tensor:
    """Whether the statistic of an image is below its median over the reference, bool [N]."""
    reference = data if reference is None else reference
    kinds = [f"{list(images.shape)}{'' if images.levels else ' without levels'}" for images in (data, reference)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"images of {data.name} are {kinds[0]}, those of the reference {reference.name} {kinds[1]}; make them alike"
        )
    return _found(data, name) < _found(reference, name).quantile(0.5)


def _found(data: ImageData, name: str) -> Tensor:
    """That statistic of every image, computed once for all slices."""
    if name not in data.found:
        data.found[name] = STATISTICS[name](data)
    return data.found[name]


def _labels(data: ImageData) -> Tensor:
    if data.labels is None:
        raise DataError(f"{data.name} has no labels; give data with labels, or leave classes out of the slice")
    return data.labels


def _attribute(data: ImageData, name: str) -> Tensor:
    if name not in data.attributes:
        known = f"it has {', '.join(data.attributes)[:200]}" if data.attributes else "give data that have, e.g. type: celeba_hq"
        raise DataError(f"{data.name} has no attribute {name!r}{suggestion(name, data.attributes)}; {known}")
    return data.attributes[name]


def _inside(data: ImageData, folders: tuple[str, ...]) -> Tensor:
    if data.names is None:
        raise DataError(f"{data.name} does not tell its files; give data of type folder or lsun_church, or leave folders out")
    starts = tuple(f"{folder.strip('/')}/" for folder in folders)
    lacking = [start for start in starts if not any(name.startswith(start) for name in data.names)]
    if lacking:
        known = sorted({name.partition("/")[0] for name in data.names if "/" in name})
        raise DataError(f"{data.name} has no folder {lacking[0][:-1]!r} with images; it has {', '.join(known)[:200] or 'none'}")
    return torch.tensor([name.startswith(starts) for name in data.names])
