"""Metric: what an `evaluate` entry of a spec becomes.

A data metric measures a route on each image of a data set; a sample metric summarises images the route drew. Both end in one number
with a per-index influence, whose standard deviation over sqrt(n) is the standard error: differences between routes measured on
common indices and common noise are then paired index by index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.solvers.base import Solver


class Context(NamedTuple):
    """What a metric may use of the run: interval, solver, data with its levels, reference images, seed."""

    bounds: GammaInterval
    solver: Solver
    data: ImageData | None
    reference: ImageData | None
    seed: int

    def need(self, what: str) -> ImageData:
        """The data or the reference.

        Raises:
            SpecError: when the spec gives none.
        """
        images: ImageData | None = getattr(self, what)
        if images is None:
            raise SpecError(f"this metric needs the spec's `{what}`, e.g. {what}: {{type: digits, split: test}}")
        return images


@dataclass(frozen=True)
class Summary:
    """A metric's number.

    Attributes:
        value: the number.
        standard_error: its standard error.
        influence: per-index influences [n], mean zero up to a constant; None when the number has none.
        columns: columns of the result row that name the variant, e.g. the estimator.
        protocol: how the number was made.
        terms: additive parts, each with value and standard_error.
    """

    value: float
    standard_error: float
    influence: Tensor | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Metric(ABC):
    """Base of both kinds."""

    @abstractmethod
    def count(self, context: Context) -> int:
        """How many images or samples it asks for."""

    @abstractmethod
    def summarise(self, context: Context, measured: Mapping[str, Tensor]) -> Summary:
        """The number, from per-index tensors [n, ...] in index order.

        Args:
            context: of the run.
            measured: what `measure` returned for every image, or `{"images": ...}` for samples.
        """


class DataMetric(Metric):
    """Measured image by image."""

    @abstractmethod
    def measure(
        self, context: Context, expert: Expert, images: Tensor, indices: Sequence[int], condition: Tensor | None
    ) -> dict[str, Tensor]:
        """Per-image tensors [B, ...]; those named `nfe/<expert>` are network calls.

        Args:
            context: of the run.
            expert: a single expert or a route.
            images: [B, C, H, W] at the bin centres.
            indices: which images these are.
            condition: one row an image, or None.
        """


class SampleMetric(Metric):
    """Summarised over samples [n, C, H, W] in [-1, 1]."""
