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
from snrouter.metrics.base import Context, Summary
from snrouter.metrics.features.base import found
from snrouter.metrics.features.metric import ReferenceMetric
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.references import features as reference_features
from snrouter.metrics.references import told_reference

BLOCK = 4096
"""Rows and columns of the kernel matrix that are held at a time."""


@dataclass(frozen=True)
class KernelDistance(ReferenceMetric):
    """Kernel distance (KID) of samples to the spec's `reference` images; lower is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        reference_samples: compare with the first so many reference images; with all when left out.
    """

    title = "KID"
    better = "lower"

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The distance of the first samples to the reference; NaN for fewer than two."""
        extractor, reference = self.extractor(), context.need("reference")
        features = found(measured, extractor, count=self.samples)
        value, influence = math.nan, torch.zeros(len(features), dtype=torch.float64)
        if len(features) > 1:
            value, influence = kernel_distance(features, reference_features(extractor, reference, self.reference_samples))
        return Summary(
            value=value,
            standard_error=standard_error(influence),
            influence=influence,
            columns={"features": extractor.name},
            protocol={
                **extractor.protocol,
                **told_reference(reference, self.reference_samples),
                "kernel": "(x.y/F + 1)^3, all pairs",
                "error": "linearised over samples, reference fixed",
            },
        )


def kernel_distance(features: Tensor, reference: Tensor) -> tuple[float, Tensor]:
    """Unbiased squared maximum mean discrepancy of features [n, F] and [m, F], and the influence [n] of each of the first.

    Raises:
        SpecError: when the two have not the same number of features.
    """
    if features.shape[1] != reference.shape[1]:
        raise SpecError(f"reference: of {reference.shape[1]} features, the samples of {features.shape[1]}; use one network")
    n, m = len(features), len(reference)
    own = (_row_sums(features, features) - _kernel(features, features)) / (n - 1)
    other = (_row_sums(reference, reference) - _kernel(reference, reference)) / (m - 1)
    across = _row_sums(features, reference) / m
    influence = 2 * (own - across)
    return float(own.mean() + other.mean() - 2 * across.mean()), influence - influence.mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_i) [n]."""
    return ((x.double() * y.double()).sum(1) / x.shape[1] + 1) ** 3


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """The sum over j of k(x_i, y_j) [n], on an accelerator where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sums = []
    for rows in torch.split(x, BLOCK):
        left = rows.to(device).double()
        parts = (((left @ part.to(device).double().T) / x.shape[1] + 1).pow(3).sum(1) for part in torch.split(y, BLOCK))
        sums.append(torch.stack(list(parts)).sum(0).cpu())
    return torch.cat(sums)
