"""The `inception_score` metric: how sure a classifier is of each sample, and how evenly the samples spread over its classes.

    IS = exp(mean_i KL(p_i || p)),   p = mean_i p_i,

of the class probabilities p_i of sample i, over `splits` blocks of consecutive samples; the value is the mean over them. Sample i
of a block has the influence IS (KL(p_i || p) - mean KL). The score is biased downward by a finite block.

Source: Salimans et al. 2016 (arXiv 1606.03498); its limits: Barratt and Sharma 2018 (arXiv 1801.01973).
"""

from __future__ import annotations

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

    splits: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.splits <= self.samples:
            raise SpecError(f"splits: expected 1 to {self.samples}, the number of samples; got {self.splits}")

    def count(self, context: Context) -> int:
        """The samples asked for, once a network with classes could be read."""
        extractor = self.extractor()
        if not extractor.has_logits:
            raise SpecError(f"features: {extractor.name} tells no classes apart; the score needs a classifier, e.g. Inception")
        return super().count(context)

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """Mean over the blocks of the first samples."""
        extractor = self.extractor()
        logits = found(measured, extractor, "logits", self.samples)
        scores, influence = inception_score(logits, min(self.splits, len(logits)))
        columns: dict[str, Any] = {"features": extractor.name}
        if len(scores) > 1:
            columns["split_standard_deviation"] = float(scores.std())
        return Summary(
            value=float(scores.mean()),
            standard_error=standard_error(influence),
            influence=influence,
            columns=columns,
            protocol={**extractor.protocol, "splits": len(scores), "error": "linearised over samples"},
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
