"""The `fid` metric: the Frechet distance between Gaussians fitted to features of samples and of reference images.

    d = |m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)),

in float64, covariances with n - 1. Its standard error is that of the linearised distance over samples, the reference held fixed:
sample i has the influence 2 (m - m_r).(f_i - m) + (f_i - m)^T G (f_i - m) - tr(G C), with G = dd/dC. The distance is biased
upward by a finite sample; compare at equal n.

Source: Heusel et al. 2017 (arXiv 1706.08500); Dowson and Landau 1982.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.checkpoints import load_network, sha256
from snrouter.experts.networks.classifier import Classifier
from snrouter.metrics.base import Context, SampleMetric, Summary
from snrouter.metrics.likelihood.estimate import standard_error

FEATURE_BATCH = 500


@dataclass(frozen=True)
class Frechet(SampleMetric):
    """Frechet distance of samples to the spec's `reference` images; lower is better.

    Args:
        samples: how many samples.
        features: "classifier", the penultimate layer of the classifier in `checkpoint`.
        checkpoint: its .safetensors file, with its card.
    """

    checkpoint: Path
    samples: int = 2000
    features: Literal["classifier"] = "classifier"

    def count(self, context: Context) -> int:
        """The samples asked for; also reads classifier and reference, so that a fault in them is found before any work."""
        if self.samples < 2:
            raise SpecError(f"samples: expected at least 2 for a covariance, got {self.samples}")
        _reference_features(self.checkpoint, context.need("reference"))
        return self.samples

    def summarise(self, context: Context, measured: Mapping[str, Tensor]) -> Summary:
        """The distance of the first `samples` images to all reference images; NaN for fewer than two."""
        reference, images = context.need("reference"), measured["images"][: self.samples]
        value, influence = math.nan, torch.zeros(len(images), dtype=torch.float64)
        if len(images) > 1:
            wanted = _reference_features(self.checkpoint, reference)
            value, influence = frechet_distance(_features(_classifier(self.checkpoint), images), wanted)
        return Summary(
            value=value,
            standard_error=standard_error(influence),
            influence=influence,
            columns={"features": self.features},
            protocol={
                "features_sha256": sha256(self.checkpoint),
                "reference": reference.name,
                "reference_n": len(reference),
                "reference_sha256": reference.content_hash(),
                "error": "linearised over samples, reference fixed",
            },
        )


def frechet_distance(features: Tensor, reference: Tensor) -> tuple[float, Tensor]:
    """Frechet distance between features [n, F] and reference features [m, F], and the influence [n] of each sample."""
    features, reference = features.double(), reference.double()
    mean, covariance = features.mean(0), features.T.cov()
    wanted_mean, wanted = reference.mean(0), reference.T.cov()
    root = _symmetric_power(wanted, 0.5)
    inner = root @ covariance @ root
    shift = mean - wanted_mean
    cross = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
    value = shift @ shift + covariance.trace() + wanted.trace() - 2 * cross
    gradient = torch.eye(len(mean), dtype=torch.float64) - root @ _symmetric_power(inner, -0.5) @ root
    centred = features - mean
    influence = 2 * centred @ shift + ((centred @ gradient) * centred).sum(1) - (gradient * covariance).sum()
    return float(value.clamp(min=0)), influence


def _symmetric_power(matrix: Tensor, power: float) -> Tensor:
    """Power of a symmetric positive semi-definite matrix; directions below rounding count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values.max() * 1e-12
    powered = torch.where(kept, values.clamp(min=1e-300) ** power, torch.zeros_like(values))
    return cast(Tensor, vectors * powered @ vectors.T)


_REFERENCES: dict[tuple[str, str], Tensor] = {}
"""Reference features by the hashes of classifier and images: every route of a sweep uses the same."""


def _reference_features(checkpoint: Path, reference: ImageData) -> Tensor:
    classifier = _classifier(checkpoint)
    key = (sha256(checkpoint), reference.content_hash())
    if key not in _REFERENCES:
        _REFERENCES[key] = _features(classifier, reference.images())
    return _REFERENCES[key]


def _classifier(checkpoint: Path) -> Classifier:
    network, card, _ = load_network(checkpoint)
    if not isinstance(network, Classifier):
        raise CheckpointError(f"checkpoint {checkpoint}: features need a classifier, got {card['network']['type']!r}")
    return network.double()


def _features(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([classifier.features(part.double().cpu()) for part in torch.split(images, FEATURE_BATCH)])
