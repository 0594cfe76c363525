"""The `ssim` and `psnr` metrics, and what every metric that compares images two by two shares.

Images are compared as such numbers are published: in [0, 1], the lowest of L levels at 0 and the highest at 1, as uint8 / 255 has
them. Each pair gives a number, and the metric is their mean.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from snrouter.data.base import ImageData
from snrouter.errors import SpecError
from snrouter.metrics.base import Context, PairMetric, Summary
from snrouter.metrics.likelihood.estimate import standard_error

SAMPLES = 2000
"""Pairs of samples that are compared when a spec does not say how many."""

BLOCK = 256
"""Pairs that are compared at a time."""

ROUNDING = 2.0**-24
"""Half of float32's precision: values in [0, 1] that differ by no more are the same."""

WINDOW = 11
"""Side of SSIM's window (Wang et al. 2004), for images that hold it."""


@dataclass(frozen=True, kw_only=True)
class ImagePairs(PairMetric):
    """The mean over pairs of images of a number that each pair gives.

    Args:
        pairs: "reconstruction", an image of the data with what the flow makes of it, encoded and decoded again; or "same_noise", a
            sample with the one that the route `against` draws from the same noise.
        against: label of that route, e.g. an expert's name in a sweep with `singles: true`.
        images: how many pairs; when left out, all images of the data, or 2000 samples.
    """

    pairs: Literal["reconstruction", "same_noise"] = "reconstruction"
    against: str | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.pairs == "same_noise" and self.against is None:
            raise SpecError("pairs: same_noise needs the route to compare with; add e.g. against: quality, a label of the sweep")
        if self.pairs == "reconstruction" and self.against is not None:
            raise SpecError(f"against: {self.against}: a reconstruction has its original; leave it out, or set pairs: same_noise")
        if self.images is not None and self.images < 1:
            raise SpecError(f"images: expected at least 1, got {self.images}")

    @abstractmethod
    def compare(self, images: Tensor, others: Tensor, levels: int) -> Tensor:
        """A number a pair, float64 [n] on the CPU.

        Args:
            images: float64 [n, C, H, W] on the CPU, the level k of L at k/(L - 1).
            others: what each is compared with, the same.
            levels: L; 256 where the data have none.
        """

    @abstractmethod
    def described(self, shape: tuple[int, ...]) -> Mapping[str, Any]:
        """What the protocol must say of it for images of this shape."""

    def variant(self) -> Mapping[str, Any]:
        """Columns of the row that name its variant, e.g. the network it looks with."""
        return {}

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images [C, H, W] that it cannot compare, or files that are not what they should be."""

    def count(self, context: Context) -> int:
        """The pairs asked for."""
        if self.pairs == "same_noise":
            if (source := context.data or context.reference) is not None:
                _check_range(source)
            if context.shape is not None:
                self.check(context.shape)
            return self.images or SAMPLES
        data = context.need("data")
        _check_range(data)
        self.check(data.shape)
        if self.images is not None and self.images > len(data):
            raise SpecError(f"images: expected 1 to {len(data)}, the size of the data; got {self.images}")
        return self.images or len(data)

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The mean over the first `count` pairs."""
        source, count = context.data or context.reference, self.count(context)
        levels = (source.levels if source else None) or 256
        images, others = measured["images"][:count], measured["others"][:count]
        shape = tuple(images.shape[1:])
        self.check(shape)
        found, identical = [], 0
        for block in zip(torch.split(images, BLOCK), torch.split(others, BLOCK), strict=True):
            ours, theirs = (_unit(part, levels) for part in block)
            found.append(self.compare(ours, theirs, levels))
            identical += int(((ours - theirs).abs() <= ROUNDING).flatten(1).all(1).sum())
        values = torch.cat(found)
        value = float(values.mean())
        return Summary(
            value=value,
            standard_error=standard_error(values),
            influence=values - value,
            columns={
                **self.variant(),
                "pairs": self.pairs,
                **({"against": self.against} if self.against is not None else {}),
                "identical": identical,
            },
            protocol={"pixels": f"level k of {levels} at k/{levels - 1}", **self.described(shape)},
        )


def _check_range(data: ImageData) -> None:
    """Data without levels must lie where images do."""
    if data.levels is None:
        lo, hi = (float(bound) for bound in torch.aminmax(data.pixels))
        if not (lo >= -1 and hi <= 1):
            raise SpecError(f"{data.name}: values from {lo:g} to {hi:g}; pairs are compared in [-1, 1], map the data there")


def _unit(images: Tensor, levels: int) -> Tensor:
    """Images in [-1, 1] with level k of L at k/(L - 1); float64 on the CPU."""
    return ((images.double().cpu() + 1) * levels / 2 - 0.5) / (levels - 1)


@dataclass(frozen=True, kw_only=True)
class SSIM(ImagePairs):
    """Structural similarity, 1 for identical images; higher is better. Arguments beside `window` are those of `ImagePairs`.

    Borders are reflected, and the mean is over all pixels and channels, as torchmetrics has it.

    Args:
        window: side of the Gaussian window, an odd number of pixels; its standard deviation is 1.5/11 of it. When left out, 11,
            or the largest that a smaller image holds.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004.
    """

    title = "SSIM"
    better = "higher"

    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and not (3 <= self.window <= 41 and self.window % 2):
            raise SpecError(f"window: expected an odd number from 3 to 41, got {self.window}")

    def check(self, shape: tuple[int, ...]) -> None:
        """The window must fit into the image."""
        side = min(shape[-2:])
        if side < (self.window or 3):
            held = f"an odd number up to {side}" if side >= 3 else "a larger image"
            raise SpecError(f"window: images {list(shape)} do not hold a window of {self.window or 3}; expected {held}")

    def compare(self, images: Tensor, others: Tensor, levels: int) -> Tensor:
        """Mean over the image of the similarity at each pixel."""
        deviation = 1.5 / WINDOW * self._side(images.shape)  # from which torchmetrics takes the window's side
        values = structural_similarity_index_measure(images, others, sigma=deviation, data_range=1.0, reduction="none")
        assert isinstance(values, Tensor)
        return values

    def described(self, shape: tuple[int, ...]) -> Mapping[str, Any]:
        """The window."""
        return {"window": self._side(shape), "data_range": 1.0}

    def _side(self, shape: tuple[int, ...]) -> int:
        side = min(WINDOW, *shape[-2:])
        return self.window or side - (side + 1) % 2


@dataclass(frozen=True, kw_only=True)
class PSNR(ImagePairs):
    """Peak signal-to-noise ratio in dB, the mean over pairs; higher is better. Arguments are those of `ImagePairs`.

    Between identical images it would be infinite. They count as if they differed by the least that they can: by one level in one
    value where both are on their levels, 10 log10((L - 1)^2 C H W); else by float32's rounding, 144.5 dB.
    """

    title = "PSNR, dB"
    better = "higher"

    def compare(self, images: Tensor, others: Tensor, levels: int) -> Tensor:
        """10 log10 of 1 over the mean squared error."""
        values = peak_signal_noise_ratio(images, others, data_range=1.0, reduction="none", dim=(1, 2, 3))
        both = torch.cat([images, others], 1)
        on_levels = ((both - (both * (levels - 1)).round() / (levels - 1)).abs() <= ROUNDING).flatten(1).all(1)
        one_level, rounding = 10 * math.log10((levels - 1) ** 2 * images[0].numel()), -20 * math.log10(ROUNDING)
        return torch.where(on_levels, values.clamp(max=one_level), values.clamp(max=rounding))

    def described(self, shape: tuple[int, ...]) -> Mapping[str, Any]:
        """The peak, and what identical images count."""
        return {"data_range": 1.0, "identical_images": "as if one value were one level off; off levels, 144.5"}
