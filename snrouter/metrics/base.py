"""Metric: what an `evaluate` entry of a spec becomes.

A data metric measures a route on each image of a data set; a sample metric summarises images the route drew; a pair metric compares
images two by two; a route metric watches the route itself at work. Each ends in one number, as a rule with a per-index influence,
whose standard deviation over sqrt(n) is the standard error: differences between routes measured on common indices and common noise
are then paired index by index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.metrics.features.base import Extractor, What
from snrouter.solvers.base import Solution, Solver


class Context(NamedTuple):
    """What a metric may use of the run.

    Attributes:
        bounds: the route's interval of gamma.
        solver: how samples are drawn.
        data: images that likelihoods are measured on, with their levels.
        reference: the training images.
        seed: of every draw.
        draw: draws the samples of these indices with an expert, exactly as the run does; None outside of one.
        shape: of a sample [C, H, W]; None where nothing tells it.
        slices: named parts of the data: which of its images each holds, bool [N].
    """

    bounds: GammaInterval
    solver: Solver
    data: ImageData | None
    reference: ImageData | None
    seed: int
    draw: Callable[[Expert, Sequence[int]], Solution] | None = None
    shape: tuple[int, ...] | None = None
    slices: Mapping[str, Tensor] = MappingProxyType({})

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
        columns: more columns of the result row. Text and True name the variant, e.g. the estimator; numbers and mappings tell more
            about the value.
        protocol: how the number was made.
        terms: additive parts, each with value and standard_error.
        pictures: what a report may show of it, by title: rows of images [rows, columns, C, H, W] in [-1, 1].
        n: of how many it is, where there are no influences to count.
    """

    value: float
    standard_error: float
    influence: Tensor | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    n: int | None = None


class Metric(ABC):
    """Base of every kind.

    Attributes:
        title: what reports call it; its registered name when empty.
        better: which way is better, where there is one.
    """

    title: ClassVar[str] = ""
    better: ClassVar[Literal["lower", "higher"] | None] = None

    @property
    def direction(self) -> Literal["lower", "higher"] | None:
        """Which way is better of this very metric, with its arguments."""
        return self.better

    @abstractmethod
    def count(self, context: Context) -> int:
        """How many images, samples or repetitions it asks for; cheap, and refuses what cannot work before anything is computed."""

    @abstractmethod
    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The number, from per-index tensors [n, ...] in index order.

        Args:
            context: of the run.
            measured: what `measure` returned for every index; `{"images": ...}` of samples; `{"images": ..., "others": ...}` of
                pairs. What is found of them may be kept there for other metrics of the same images.
        """


class Shared(NamedTuple):
    """What several routes gave together.

    Attributes:
        rows: by route, what it gives alone; rows `nfe/<expert>` are the network calls that it takes alone.
        spent: by route, network calls made for it that were not made for a route before it, float64 [B].
    """

    rows: Mapping[str, dict[str, Tensor]]
    spent: Mapping[str, Tensor]


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

    def measure_routes(
        self,
        context: Context,
        routes: Mapping[str, Expert],
        images: Tensor,
        indices: Sequence[int],
        condition: Tensor | None,
    ) -> Shared:
        """Measure several routes over the same experts and bounds; a metric that can shares what they have in common.

        Args:
            context: of the run, the same for every route.
            routes: by label.
            images: [B, C, H, W] at the bin centres.
            indices: which images these are.
            condition: one row an image, or None.
        """
        rows = {label: self.measure(context, expert, images, indices, condition) for label, expert in routes.items()}
        return Shared(rows, {label: network_calls(measured) for label, measured in rows.items()})


class SampleMetric(Metric):
    """Summarised over samples [n, C, H, W] in [-1, 1]."""

    def extracts(self) -> tuple[Extractor, What] | None:
        """What `summarise` asks `found` for, if anything; a run finds it with the samples, shard by shard, and keeps it on disk."""
        return None


class PairMetric(Metric):
    """Compares images two by two, each pair by itself.

    Attributes:
        pairs: "reconstruction" compares an image of the data with what the flow makes of it, encoded and decoded again;
            "same_noise" compares a sample with the one that the route `against` drew from the same noise.
        against: label of that route, e.g. an expert's name.
    """

    pairs: Literal["reconstruction", "same_noise"]
    against: str | None

    @property
    def direction(self) -> Literal["lower", "higher"] | None:
        """None of samples from the same noise: how far a switch moves them is neither good nor bad."""
        return None if self.pairs == "same_noise" else self.better


class RouteMetric(Metric):
    """Measured on the route as a whole, by one process while no other computes."""

    @abstractmethod
    def measure(self, context: Context, expert: Expert) -> dict[str, Tensor]:
        """Tensors [count, ...], one row a repetition.

        Args:
            context: of the run, with `draw`.
            expert: a single expert or a route, on the device it runs on.
        """


def network_calls(measured: Mapping[str, Tensor]) -> Tensor:
    """Network calls an image that the rows of a route tell, float64 [B] on the CPU.

    Raises:
        SpecError: when they are not one number an image.
    """
    calls = torch.zeros(len(next(iter(measured.values()))), dtype=torch.float64)
    for name, rows in measured.items():
        if name.startswith("nfe/"):
            if rows.shape != calls.shape:
                raise SpecError(f"{name}: expected one number an image, [{len(calls)}]; measure returned {list(rows.shape)}")
            calls = calls + rows.double().cpu()
    return calls
