"""The `precision` and `recall` metrics: how much of the samples is like the reference images, and how much of these they reach.

Around every point of a set lies a ball that reaches to its k-th nearest neighbour in the set, in features. Precision is the
fraction of samples inside a ball of the reference, recall the fraction of reference images inside a ball of the samples. Both
depend on the sizes of the two sets: compare at equal ones.

A sample's part in precision is its own. In recall it moves the balls of others, and recall's error is the standard deviation over
random halves of the samples, whose spread is that of the whole for a mean: var(half | all) = (1/(n/2) - 1/n) s^2 = s^2/n.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991); halves: Politis, Romano and Wolf 1999, "Subsampling".
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.metrics import references
from snrouter.metrics.base import Context, Summary
from snrouter.metrics.blocks import nearest, squared_distances
from snrouter.metrics.features.base import found
from snrouter.metrics.features.metric import FEW, ReferenceMetric
from snrouter.metrics.likelihood.estimate import standard_error

SLACK = 1e-9
"""By how much of a squared radius a distance may exceed it, so that rounding does not decide of a point on the sphere."""

HALVES = 25
"""Random halves of the samples; their standard deviation is known to 1/sqrt(2 (HALVES - 1)), a seventh."""


@dataclass(frozen=True)
class _Covered(ReferenceMetric):
    """What precision and recall share; their arguments."""

    neighbours: int = 3

    error: ClassVar[str]

    def count(self, context: Context) -> int:
        """The samples asked for, once the network could be read."""
        count, reference = super().count(context), len(context.need("reference"))
        fewest = min(self.samples, self.reference_samples or reference)
        if not 1 <= self.neighbours < fewest:
            raise SpecError(
                f"neighbours: expected 1 to {fewest - 1}, fewer than samples and reference images, got {self.neighbours}"
            )
        return count

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The fraction, of the first samples and the reference; NaN for no more samples than neighbours."""
        compared = self.compared(context)
        extractor = compared[0]
        ours = found(measured, extractor, count=self.samples)
        value, error, influence = self.fraction(context, ours) if len(ours) > self.neighbours else (math.nan, math.nan, None)
        told = references.told_reference(*compared[1:])
        return Summary(
            value=value,
            standard_error=error,
            influence=influence,
            columns={"features": extractor.name},
            protocol={
                **extractor.protocol,
                **told,
                "neighbours": self.neighbours,
                "error": self.error,
                "note": _note(len(ours), told["reference_n"]),
            },
            n=len(ours),
        )

    @abstractmethod
    def fraction(self, context: Context, ours: Tensor) -> tuple[float, float, Tensor | None]:
        """The number, its standard error, and the influence of each sample."""


@dataclass(frozen=True)
class Precision(_Covered):
    """Fraction of samples that are like the spec's `reference` images; higher is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with so many reference images, drawn by the run's seed; with all when left out. All pairs are
            compared.
        neighbours: k; the ball around a reference image reaches to its k-th nearest neighbour.
    """

    title = "precision"
    better = "higher"
    error = "over samples, reference fixed"

    def fraction(self, context: Context, ours: Tensor) -> tuple[float, float, Tensor]:
        """Each sample has its own part in the mean."""
        compared = self.compared(context)
        reach = references.once(f"balls {self.neighbours}", lambda theirs: balls(theirs, self.neighbours), *compared)
        inside = covered(ours, references.features(*compared), reach)[0]
        return float(inside.mean()), standard_error(inside), inside - inside.mean()


@dataclass(frozen=True)
class Recall(_Covered):
    """Fraction of the spec's `reference` images that samples reach; higher is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with so many reference images, drawn by the run's seed; with all when left out. All pairs are
            compared.
        neighbours: k; the ball around a sample reaches to its k-th nearest neighbour.
    """

    title = "recall"
    better = "higher"
    error = f"standard deviation over {HALVES} random halves of the samples, reference fixed"

    def fraction(self, context: Context, ours: Tensor) -> tuple[float, float, None]:
        """A sample moves the balls of others, and has no part of its own."""
        n, theirs = len(ours), references.features(*self.compared(context))
        half = n // 2
        rank = Draws(context.seed).uniform("half", range(n), (HALVES,)).argsort(0).argsort(0).T
        chosen = torch.cat([torch.ones(1, n, dtype=torch.bool), rank < half])
        everything, *halves = covered(theirs, ours, balls(ours, self.neighbours, chosen)).mean(1)
        error = float(torch.stack(halves).std()) * math.sqrt(half / (n - half)) if half > self.neighbours else math.nan
        return float(everything), error, None


def balls(centres: Tensor, neighbours: int = 3, chosen: Tensor | None = None) -> Tensor:
    """Squared radii [S, m] of the balls around centres [m, F], each reaching to its k-th nearest other.

    Args:
        centres: of the balls.
        neighbours: k.
        chosen: bool [S, m], selections of at least half of the centres, each by itself: the others have no ball, of radius -inf.
            All of them, S = 1, when left out.
    """
    kept = neighbours + 1 if chosen is None else 8 * (neighbours + 1)  # of which a random half leaves as many as are needed
    squares, which = nearest(centres, centres, kept)
    radii = []
    for selection in torch.ones(1, len(centres), dtype=torch.bool) if chosen is None else chosen:
        near = squares.masked_fill(~selection[which], torch.inf).topk(neighbours + 1, largest=False).values[:, -1]
        near = torch.where(near.isinf(), squares[:, -1], near)
        radii.append(near.masked_fill(~selection, -torch.inf))
    return torch.stack(radii) * (1 + SLACK)


def covered(points: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Whether each point [n, F] is in a ball around the centres [m, F], for S sets of balls: 0 or 1, float64 [S, n].

    Args:
        points: that are looked for.
        centres: of the balls.
        reach: their squared radii [S, m], of `balls`.
    """
    inside = torch.zeros(len(reach), len(points), dtype=torch.bool)
    for rows, columns, block in squared_distances(points, centres):
        for found_inside, radii in zip(inside, reach[:, columns].to(block.device), strict=True):
            found_inside[rows] |= (block <= radii).any(1).cpu()
    return inside.double()


def _note(n: int, m: int) -> str | None:
    if min(n, m) < FEW:
        return f"{n:,} samples, {m:,} reference images: both numbers move the value; compare at equal ones only"
    return None
