"""The `precision` and `recall` metrics: how much of the samples is like the reference images, and how much of these they reach.

Around every point of a set lies a ball that reaches to its k-th nearest neighbour in the set, in features. Precision is the
fraction of samples inside a ball of the reference, recall the fraction of reference images inside a ball of the samples. Both
depend on the sizes of the two sets: compare at equal ones.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.metrics.base import Context, Summary
from snrouter.metrics.features.base import found
from snrouter.metrics.features.metric import ReferenceMetric
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.references import features as reference_features
from snrouter.metrics.references import told_reference

BLOCK = 4096
"""Rows of the matrix of distances that are held at a time."""

SLACK = 1e-9
"""By how much of a squared radius a distance may exceed it, so that rounding does not decide of a point on the sphere."""


@dataclass(frozen=True)
class _Covered(ReferenceMetric):
    """What precision and recall share; their arguments."""

    neighbours: int = 3

    error: ClassVar[str]

    def count(self, context: Context) -> int:
        """The samples asked for, once the network could be read."""
        count, reference = super().count(context), len(context.need("reference"))
        fewest = min(self.samples, self.reference_samples or reference, reference)
        if not 1 <= self.neighbours < fewest:
            raise SpecError(
                f"neighbours: expected 1 to {fewest - 1}, fewer than samples and reference images, got {self.neighbours}"
            )
        return count

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The fraction, of the first samples and the reference; NaN for no more samples than neighbours."""
        extractor, reference = self.extractor(), context.need("reference")
        ours = found(measured, extractor, count=self.samples)
        inside = torch.full((len(ours),), math.nan, dtype=torch.float64)
        if len(ours) > self.neighbours:
            inside = self.inside(ours, reference_features(extractor, reference, self.reference_samples))
        return Summary(
            value=float(inside.mean()),
            standard_error=standard_error(inside),
            influence=self.influence(inside),
            columns={"features": extractor.name},
            protocol={
                **extractor.protocol,
                **told_reference(reference, self.reference_samples),
                "neighbours": self.neighbours,
                "error": self.error,
            },
        )

    @abstractmethod
    def inside(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Whether each point is in a ball of the other set, 0 or 1, float64."""

    @abstractmethod
    def influence(self, inside: Tensor) -> Tensor | None:
        """Of each sample on the fraction."""


@dataclass(frozen=True)
class Precision(_Covered):
    """Fraction of samples that are like the spec's `reference` images; higher is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with the first so many reference images; with all when left out. All pairs are compared.
        neighbours: k; the ball around a reference image reaches to its k-th nearest neighbour.
    """

    title = "precision"
    better = "higher"
    error = "over samples, reference fixed"

    def inside(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of each sample."""
        return covered(ours, theirs, self.neighbours)

    def influence(self, inside: Tensor) -> Tensor:
        """Its own part in the mean."""
        return inside - inside.mean()


@dataclass(frozen=True)
class Recall(_Covered):
    """Fraction of the spec's `reference` images that samples reach; higher is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with the first so many reference images; with all when left out. All pairs are compared.
        neighbours: k; the ball around a sample reaches to its k-th nearest neighbour.
    """

    title = "recall"
    better = "higher"
    error = "over reference images, samples fixed"

    def inside(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of each reference image."""
        return covered(theirs, ours, self.neighbours)

    def influence(self, inside: Tensor) -> None:
        """None: a sample moves the balls of others."""


def covered(points: Tensor, centres: Tensor, neighbours: int = 3) -> Tensor:
    """Whether each point [n, F] is in a ball of the centres [m, F], each reaching to its k-th nearest other: 0 or 1, float64."""
    shift = centres.mean(0)
    points, centres = points - shift, centres - shift  # distances lose least near the origin
    reach = []
    for start, block in _distances(centres, centres):
        block[torch.arange(len(block)), start + torch.arange(len(block))] = math.inf
        reach.append(block.kthvalue(neighbours).values)
    radii = torch.cat(reach) * (1 + SLACK)
    return torch.cat([(block <= radii).any(1) for _, block in _distances(points, centres)]).double().cpu()


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows of squared distances between x [n, F] and y [m, F], and where they start; on an accelerator where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    y = y.to(device).double()
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK].to(device).double()
        yield start, rows.square().sum(1)[:, None] + y.square().sum(1) - 2 * rows @ y.T
