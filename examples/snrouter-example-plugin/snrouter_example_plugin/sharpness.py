"""Sharpness: how much neighbouring pixels of samples differ.

Of an image: the mean square of all differences between vertical and between horizontal neighbours; of a run: its mean over samples.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from snrouter.errors import SpecError
from snrouter.metrics.base import Context, SampleMetric, Summary
from snrouter.metrics.likelihood.estimate import standard_error
from torch import Tensor


@dataclass(frozen=True)
class Sharpness(SampleMetric):
    """Mean sharpness of samples, beside that of the reference when the spec has one.

    Args:
        samples: how many samples.
    """

    title = "sharpness"  # what reports call it; without `better`, as neither way is

    samples: int = 256

    def count(self, context: Context) -> int:
        """The samples asked for."""
        if self.samples < 2:
            raise SpecError(f"samples: expected at least 2 for a standard error, got {self.samples}")
        return self.samples

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The mean over the first `samples` images; an image's influence is its distance from it."""
        each = sharpness(measured["images"][: self.samples])
        protocol: dict[str, Any] = {"definition": "mean squared difference of neighbouring pixels"}
        if context.reference is not None:
            protocol |= {"reference": context.reference.name, "of_reference": float(sharpness(context.reference.images()).mean())}
        return Summary(float(each.mean()), standard_error(each), each - each.mean(), protocol=protocol)


def sharpness(images: Tensor) -> Tensor:
    """Sharpness [B] of images [B, C, H, W], float64."""
    down, across = (images.double().diff(dim=axis).flatten(1).square() for axis in (2, 3))
    return (down.sum(1) + across.sum(1)) / (down.shape[1] + across.shape[1])
