"""The `kid` metric: the squared maximum mean discrepancy of features of samples x and of reference images y, without bias.

    d = 1/(n (n - 1)) sum_{i != j} k(x_i, x_j) + 1/(m (m - 1)) sum_{i != j} k(y_i, y_j) - 2/(n m) sum_ij k(x_i, y_j)

with the cubic kernel k(x, y) = (x.y/F + 1)^3, over all pairs, in blocks, in float64. The influence of sample i is

    2 (1/(n - 1) sum_{j != i} k(x_i, x_j) - 1/m sum_j k(x_i, y_j)),

less its mean, the reference held fixed. The usual estimate is the mean over 100 random subsets of 1000 of each: the same number in
expectation, with more noise. Without bias it may be negative where the true distance is near zero.

Source: Binkowski et al. 2018 (arXiv 1801.01401); Gretton et al. 2012.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.metrics import references
from snrouter.metrics.base import Context, Summary
from snrouter.metrics.blocks import pairs
from snrouter.metrics.features.base import found
from snrouter.metrics.features.metric import ReferenceMetric
from snrouter.metrics.likelihood.estimate import standard_error


@dataclass(frozen=True)
class KernelDistance(ReferenceMetric):
    """Kernel distance (KID) of samples to the spec's `reference` images; lower is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with so many reference images, drawn by the run's seed; with all when left out.
    """

    title = "KID"
    better = "lower"

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The distance of the first samples to the reference; NaN for fewer than two."""
        compared = self.compared(context)
        extractor = compared[0]
        features = found(measured, extractor, count=self.samples)
        value, influence = math.nan, torch.zeros(len(features), dtype=torch.float64)
        if len(features) > 1:
            within = references.once("kernel", mean_within, *compared)
            value, influence = kernel_distance(features, references.features(*compared), within)
        return Summary(
            value=value,
            standard_error=standard_error(influence),
            influence=influence,
            columns={"features": extractor.name},
            protocol={
                **extractor.protocol,
                **references.told_reference(*compared[1:]),
                "kernel": "(x.y/F + 1)^3, all pairs",
                "error": "linearised over samples, reference fixed",
            },
        )


def kernel_distance(features: Tensor, reference: Tensor, within: Tensor | None = None) -> tuple[float, Tensor]:
    """Unbiased squared maximum mean discrepancy of features [n, F] and [m, F], and the influence [n] of each of the first.

    Args:
        features: of the samples.
        reference: of the reference images.
        within: `mean_within(reference)`, where it is known already.

    Raises:
        SpecError: when the two have not the same number of features.
    """
    if features.shape[1] != reference.shape[1]:
        raise SpecError(f"reference: of {reference.shape[1]} features, the samples of {features.shape[1]}; use one network")
    own = _means_to_others(features)
    across = _row_sums(features, reference) / len(reference)
    influence = 2 * (own - across)
    other = mean_within(reference) if within is None else within
    return float(own.mean() + other - 2 * across.mean()), influence - influence.mean()


def mean_within(features: Tensor) -> Tensor:
    """The mean of the kernel over all pairs of different rows [n, F]."""
    return _means_to_others(features).mean()


def _means_to_others(x: Tensor) -> Tensor:
    """The mean over j != i of k(x_i, x_j) [n]."""
    to_itself = torch.cat([(part.double().square().sum(1) / x.shape[1] + 1) ** 3 for part in torch.split(x, 8192)])
    return (_row_sums(x, x) - to_itself) / (len(x) - 1)


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """The sum over j of k(x_i, y_j) [n]."""
    sums = torch.zeros(len(x), dtype=torch.float64)
    for rows, _, ours, theirs in pairs(x, y):
        sums[rows] += torch.addmm(ours.new_ones(1), ours, theirs.T, alpha=1 / x.shape[1]).pow(3).sum(1).cpu()
    return sums
