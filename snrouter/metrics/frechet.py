"""The `fid` metric: the Frechet distance between Gaussians fitted to features of samples and of reference images.

    d = |m - m_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)),

in float64, covariances with n - 1. With C = R^T R, from a QR decomposition of the centred features, the trace of the root is the
sum of the singular values of M = R C_r^(1/2): no root is taken of a number that is zero but for rounding, which is what a
covariance of fewer samples than features is full of. Its standard error is that of the linearised distance over samples, the
reference held fixed: sample i has the influence 2 (m - m_r).(f_i - m) + (f_i - m)^T G (f_i - m) - tr(G C), with
G = dd/dC = I - C_r^(1/2) (M^T M)^(-1/2) C_r^(1/2). The distance is biased upward by a finite sample; compare at equal n.

Source: Heusel et al. 2017 (arXiv 1706.08500); Dowson and Landau 1982; the bias: Chong and Forsyth 2020 (arXiv 1911.07023).
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.checkpoints import sha256
from snrouter.metrics.base import Context, Summary
from snrouter.metrics.features.base import Extractor, found
from snrouter.metrics.features.metric import FEW, FeatureMetric, reference_of
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.metrics.references import Moments, accumulate, moments, told_reference
from snrouter.metrics.statistics_file import read_statistics

USUAL = {"samples": 2000, "repeats": 1, "take": "mean"}
EDM = {"samples": 50_000, "repeats": 3, "take": "minimum"}
"""Without a protocol, and in that of Karras et al. 2022 (arXiv 2206.00364)."""

UNTOLD: Any = None
"""Default of what a protocol may set."""


@dataclass(frozen=True)
class Frechet(FeatureMetric):
    """Frechet distance of samples to the spec's `reference` images; lower is better.

    Args:
        checkpoint: the network's file: a classifier's .safetensors with its card, a TorchScript file, or Inception's weights.
        samples: how many samples; 2000 when left out.
        features: "classifier", the penultimate layer of the classifier in `checkpoint`; "torchscript", what the scripted module
            there returns for uint8 images [n, 3, H, W]; "inception", the layer of 2048 features that published distances are in.
        sha256: what the checkpoint must hash to.
        statistics: an .npz file with `mu` and `sigma` of the reference, as NVlabs/edm writes it, instead of the spec's
            `reference` images.
        repeats: how many consecutive blocks of `samples` are measured, each by itself; 1 when left out.
        take: of the blocks' distances, their mean, also when left out, or their minimum.
        protocol: "edm", that of Karras et al. 2022: three blocks of 50,000, and the minimum.
    """

    title = "Fréchet distance"
    better = "lower"

    samples: int = UNTOLD
    statistics: Path | None = None
    repeats: int = UNTOLD
    take: Literal["mean", "minimum"] = UNTOLD
    protocol: Literal["edm"] | None = None

    def __post_init__(self) -> None:
        for name, value in (EDM if self.protocol else USUAL).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
            elif self.protocol and getattr(self, name) != value:
                raise SpecError(f"{name}: protocol: edm sets it to {value}, got {getattr(self, name)}; leave one of the two out")
        if self.repeats < 1:
            raise SpecError(f"repeats: expected at least 1, got {self.repeats}")
        if self.repeats == 1 and self.take == "minimum":
            raise SpecError("take: minimum is that of several distances; give e.g. repeats: 3, or leave it out")

    def count(self, context: Context) -> int:
        """The samples of all blocks, once the network, and the reference or its statistics, could be read."""
        if self.statistics is None:
            reference_of(context)
            return super().count(context) * self.repeats
        reference, width = read_statistics(self.statistics, self.extractor()), self.width(context)
        if width not in (None, len(reference.mean)):
            name = self.extractor().name
            raise SpecError(f"statistics {self.statistics}: of {len(reference.mean)} features, {name} finds {width}; use its own")
        return super().count(context) * self.repeats

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The distance of the first samples to the whole reference; NaN for fewer than two."""
        extractor = self.extractor()
        reference, told = self._reference(context, extractor)
        features = found(measured, extractor, count=self.samples * self.repeats)
        blocks = [part for part in torch.split(features, self.samples) if len(part) == self.samples] or [features]
        n = len(blocks[0])
        values, influence = self._measured(blocks, reference) if n > 1 else ([math.nan], torch.zeros(n, dtype=torch.float64))
        lowest = self.take == "minimum"
        return Summary(
            value=min(values) if lowest else sum(values) / len(values),
            standard_error=standard_error(influence),
            influence=influence,
            columns={"features": extractor.name} | (self._told(values, n) if self.repeats > 1 else {}),
            protocol={
                **extractor.protocol,
                **told,
                "error": "linearised over samples, reference fixed",
                "note": _note(n, features.shape[1]),
            },
        )

    def _measured(self, blocks: list[Tensor], reference: Moments) -> tuple[list[float], Tensor]:
        """Distance of each block, and the influences of their samples on the value."""
        values, influences = zip(*(frechet_distance(block, reference) for block in blocks), strict=True)
        kept = [values.index(min(values))] if self.take == "minimum" else range(len(blocks))
        weights = [len(blocks) / len(kept) if i in kept else 0.0 for i in range(len(blocks))]  # as many influences as samples
        return list(values), torch.cat([weight * part for weight, part in zip(weights, influences, strict=True)])

    def _told(self, values: list[float], n: int) -> dict[str, Any]:
        """What the row says of blocks: how the number was taken, and the distance of each by the samples it is of."""
        return {
            "blocks": f"{self.take} of {len(values)} × {n:,}",
            "distances": {f"{i * n}-{(i + 1) * n - 1}": value for i, value in enumerate(values)},
        }

    def _reference(self, context: Context, extractor: Extractor) -> tuple[Moments, dict[str, Any]]:
        """Moments of the reference, and what the row says of it."""
        if self.statistics is not None:
            told = {"reference": self.statistics.name, "reference_sha256": sha256(self.statistics)}
            reference = read_statistics(self.statistics, extractor)
            return reference, told | ({} if reference.n is None else {"reference_n": reference.n})
        images = context.need("reference")
        return moments(extractor, images), told_reference(images)


def frechet_distance(features: Tensor, reference: Tensor | Moments) -> tuple[float, Tensor]:
    """Frechet distance of features [n, F] to reference features [m, F] or their moments, and the influence [n] of each sample.

    Raises:
        SpecError: when the reference is of another number of features.
    """
    features = features.double()
    wanted = reference if isinstance(reference, Moments) else accumulate([reference])
    if features.shape[1:] != wanted.mean.shape:
        raise SpecError(
            f"reference: of {len(wanted.mean)} features, the samples of {features.shape[1]}; compare features of one network"
        )
    mean = features.mean(0)
    centred, shift = features - mean, mean - wanted.mean
    factor = torch.linalg.qr(centred, mode="r").R / math.sqrt(len(features) - 1)
    root = _root(wanted.covariance)
    _, singular, axes = torch.linalg.svd(factor @ root, full_matrices=False)
    value = shift @ shift + factor.square().sum() + wanted.covariance.trace() - 2 * singular.sum()
    kept = singular > singular.max() * len(mean) * EPSILON
    turned = axes[kept] @ root
    along = centred @ turned.T / singular[kept].sqrt()
    quadratic = centred.square().sum(1) - along.square().sum(1)  # (f - m)^T G (f - m)
    influence = 2 * centred @ shift + quadratic - quadratic.mean()
    return float(value.clamp(min=0)), influence


EPSILON = torch.finfo(torch.float64).eps


def _root(covariance: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix; directions that are zero but for rounding count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.max() * len(values) * EPSILON
    root: Tensor = vectors[:, kept] * values[kept].sqrt() @ vectors[:, kept].T
    return root


def _note(n: int, features: int) -> str | None:
    if n <= 2 * features:
        return f"{n} samples of {features} features: the distance is far above its limit, and its error not to be trusted"
    if n < FEW:
        return f"{n:,} samples: biased upward; compare at equal n only"
    return None
