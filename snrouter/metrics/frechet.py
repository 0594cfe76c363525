"""The `fid` metric: the Frechet distance between Gaussians fitted to features of samples and of reference images.

    d = |m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)),

in float64, covariances with n - 1. Its standard error is that of the linearised distance over samples, the reference held fixed:
sample i has the influence 2 (m - m_r).(f_i - m) + (f_i - m)^T G (f_i - m) - tr(G C), with G = dd/dC. The distance is biased
upward by a finite sample; compare at equal n.

Source: Heusel et al. 2017 (arXiv 1706.08500); Dowson and Landau 1982.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.errors import SpecError
from snrouter.experts.checkpoints import sha256
from snrouter.metrics.base import Context, SampleMetric, Summary
from snrouter.metrics.features import Features, extractor
from snrouter.metrics.likelihood.estimate import standard_error


@dataclass(frozen=True)
class Frechet(SampleMetric):
    """Frechet distance of samples to the spec's `reference` images; lower is better.

    Args:
        samples: how many samples.
        features: "classifier", the penultimate layer of the classifier in `checkpoint`, or "torchscript", what the scripted module
            in `checkpoint` returns for uint8 images [n, 3, H, W].
        checkpoint: the classifier's .safetensors file, with its card, or the TorchScript file, e.g. of Inception.
    """

    checkpoint: Path
    samples: int = 2000
    features: Features = "classifier"

    def count(self, context: Context) -> int:
        """The samples asked for; also reads extractor and reference, so that a fault in them is found before any work."""
        if self.samples < 2:
            raise SpecError(f"samples: expected at least 2 for a covariance, got {self.samples}")
        self._reference_features(context.need("reference"))
        return self.samples

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The distance of the first `samples` images to all reference images; NaN for fewer than two."""
        reference, images = context.need("reference"), measured["images"][: self.samples]
        value, influence = math.nan, torch.zeros(len(images), dtype=torch.float64)
        if len(images) > 1:
            measure = extractor(self.features, self.checkpoint)
            value, influence = frechet_distance(measure(images), self._reference_features(reference))
        return Summary(
            value=value,
            standard_error=standard_error(influence),
            influence=influence,
            columns={"features": self.checkpoint.stem if self.features == "torchscript" else self.features},
            protocol={
                "features_sha256": sha256(self.checkpoint),
                "reference": reference.name,
                "reference_n": len(reference),
                "reference_protocol": dict(reference.protocol) or None,
                "reference_sha256": reference.content_hash(),
                "error": "linearised over samples, reference fixed",
            },
        )

    def _reference_features(self, reference: ImageData) -> Tensor:
        measure = extractor(self.features, self.checkpoint)
        key = (self.features, sha256(self.checkpoint), reference.content_hash())
        if key not in _REFERENCES:
            blocks = range(0, len(reference), REFERENCE_BLOCK)
            _REFERENCES[key] = torch.cat([measure(reference.images(slice(i, i + REFERENCE_BLOCK))) for i in blocks])
        return _REFERENCES[key]


REFERENCE_BLOCK = 8000
"""Reference images that are floats at a time; a multiple of the extractors' batches."""

_REFERENCES: dict[tuple[str, str, str], Tensor] = {}
"""Reference features by kind and the hashes of extractor and images: every route of a sweep uses the same."""


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
