"""The `inception_score` metric: how sure a classifier is of each sample, and how evenly the samples spread over its classes.

    IS = exp(mean_i KL(p_i || p)),   p = mean_i p_i,

of the class probabilities p_i of sample i, over `splits` blocks of consecutive samples; the value is the mean over them. Sample i
of a block has the influence IS (KL(p_i || p) - mean KL). The score is biased downward by a finite block, and so is that error.

Source: Salimans et al. 2016 (arXiv 1606.03498); its limits: Barratt and Sharma 2018 (arXiv 1801.01973).
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.metrics.base import Context, Summary
from snrouter.metrics.features.base import found
from snrouter.metrics.features.metric import FeatureMetric
from snrouter.metrics.likelihood.estimate import standard_error

FEWEST = 20
"""Samples of a block below which there is no error: with 10 classes and as many samples it is a fifth too small."""

PUBLISHED = 5000
"""Samples of a block in published scores."""


@dataclass(frozen=True)
class InceptionScore(FeatureMetric):
    """Inception Score of samples; higher is better. It knows no reference.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples.
        features: whose classes: those of "classifier", "torchscript" or "inception", as for `fid`.
        sha256: what the checkpoint must hash to.
        splits: how many blocks of consecutive samples.
    """

    title = "Inception Score"
    better = "higher"
    what = "logits"

    splits: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.splits <= self.samples / 2:
            raise SpecError(
                f"splits: {self.splits} blocks of {self.samples} samples; expected 1 or more with at least 2 samples in each, "
                f"change splits or samples"
            )

    def count(self, context: Context) -> int:
        """The samples asked for, once a network with classes could be read."""
        extractor = self.extractor()
        if not extractor.has_logits:
            raise SpecError(f"features: {extractor.name} tells no classes apart; the score needs a classifier, e.g. Inception")
        return super().count(context)

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """Mean over the blocks of the first samples; what a limit leaves is cut into fewer blocks of no smaller size."""
        extractor = self.extractor()
        logits = found(measured, extractor, self.what, self.samples)
        n, classes = logits.shape
        splits = max(1, n * self.splits // self.samples)
        scores, influence = inception_score(logits, splits)
        columns: dict[str, Any] = {"features": extractor.name}
        if splits > 1:
            columns["split_standard_deviation"] = float(scores.std())
        enough = n // splits >= FEWEST
        return Summary(
            value=float(scores.mean()) if n > 1 else math.nan,
            standard_error=standard_error(influence) if enough else math.nan,
            influence=influence if enough else None,
            columns=columns,
            protocol={
                **extractor.protocol,
                "splits": splits,
                "error": "linearised over samples",
                "note": _note(n // splits, classes),
            },
            n=n,
        )


def inception_score(logits: Tensor, splits: int = 1) -> tuple[Tensor, Tensor]:
    """Score of each of `splits` blocks of consecutive class logits [n, K], and the influence [n] of each row on their mean."""
    scores, influences = [], []
    for block in torch.tensor_split(logits.double(), splits):
        log_p = block.log_softmax(1)
        p = log_p.exp()
        divergence = (p * (log_p - p.mean(0).clamp(min=torch.finfo(p.dtype).tiny).log())).sum(1)
        score = divergence.mean().exp()
        scores.append(score)
        influences.append(score * (divergence - divergence.mean()) * (len(logits) / (splits * len(block))))
    return torch.stack(scores), torch.cat(influences)


def _note(n: int, classes: int) -> str | None:
    if n < classes:
        return f"blocks of {n} samples for {classes} classes: far below the score's limit, and the error is too small"
    if n < PUBLISHED:
        return f"blocks of {n:,} samples: biased downward; compare at blocks of one size only"
    return None
