"""Estimate: a number in bits/dim with its error, its terms and the protocol that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A mean over images with its standard error, and the values it is the mean of [B]."""

    value: float
    standard_error: float
    values: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Term:
        """Mean and standard error of per-image values; the error of one image is NaN."""
        return cls(float(values.mean()), standard_error(values), values)


@dataclass(frozen=True)
class Estimate(Term):
    """Bits/dim of a set of images; lower is better.

    Attributes:
        terms: its additive parts, in bits/dim, e.g. prior, reconstruction and diffusion of the VLB.
        nfe: network calls an image.
        nfe_per_expert: the same by expert name.
        spent: those of them that were made for it; fewer than `nfe` where routes that were measured together shared calls.
        parts: standard errors due to data, dequantization and probes (or noise), when repeats were asked for.
        repeated: the values of each repeat [R, B], a mean over its probes, when repeats were asked for.
        protocol: how the number was made.
    """

    terms: Mapping[str, Term] = field(default_factory=dict)
    nfe: float = 0.0
    nfe_per_expert: Mapping[str, float] = field(default_factory=dict)
    spent: float = 0.0
    parts: Mapping[str, float] | None = None
    repeated: Tensor | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent values [B]; NaN for one."""
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def error_parts(values: Tensor, outer: str, inner: str) -> dict[str, float]:
    """Split the standard error of the mean of nested repeats by analysis of variance.

    Args:
        values: [R, S, B], S inner draws in each of R outer draws of each of B images.
        outer: name of the outer draw, e.g. "dequantization".
        inner: name of the inner draw, e.g. "probe".

    Returns:
        Standard errors of the mean of all values due to "data", `outer` and `inner`, for those with two or more repeats.
    """
    r, s, b = values.shape
    inner_variance = float(values.var(1).mean()) if s > 1 else 0.0
    middle = values.mean(1)
    outer_variance = max(float(middle.var(0).mean()) - inner_variance / s, 0.0) if r > 1 else 0.0
    data_variance = float(middle.mean(0).var()) - outer_variance / r - inner_variance / (r * s) if b > 1 else math.nan
    parts = {"data": math.sqrt(max(data_variance, 0.0) / b) if b > 1 else math.nan}
    if r > 1:
        parts[outer] = math.sqrt(outer_variance / (b * r))
    if s > 1:
        parts[inner] = math.sqrt(inner_variance / (b * r * s))
    return parts
