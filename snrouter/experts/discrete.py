"""The discrete expert: the closed-form posterior mean of pixels that sit on L levels, each by itself.

With the centres c_k = 2 (k + 1/2)/L - 1, prior probabilities p_k, y = z / alpha and s = edm_sigma,

    w_k = softmax_k(log p_k - (y - c_k)^2 / (2 s^2));    x_hat = sum_k w_k c_k;    eps_hat = (y - x_hat) / s;
    d x_hat / d y = Var_w(c) / s^2.

With a uniform prior its expected error is the slope of the bound's reconstruction term, whatever the image:

    d/dgamma E[-log p(x | z_gamma)] = 1/2 E |eps - eps_hat|^2.

Source: Guo, Shamai and Verdu 2005 (arXiv cs/0412108); Verdu 2010 (IEEE Transactions on Information Theory 56, 3712) for the prior
that is not the data's.

All is float64 inside. Levels whose weight is below float64's rounding are left out: at low noise a few around y remain of 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Prediction, expand
from snrouter.gamma import alpha, edm_sigma, interval

TAIL = 37.0
"""A weight of exp(-TAIL) relative to the largest is below the rounding of float64."""

CHUNK = 2**18
"""Pixels times levels that are held at once (2 MiB a tensor)."""


class Levelled(Protocol):
    """Images on levels, whose histogram may be the prior; `snrouter.data.base.ImageData` is such."""

    @property
    def name(self) -> str:
        """What it is."""

    @property
    def levels(self) -> int | None:
        """L, or None for continuous data."""

    def level_histogram(self) -> Tensor:
        """How many pixels of each channel are on each level, int64 [C, L]."""


class Discrete(Expert):
    """The exact denoiser of independent pixels on L levels; it has no network.

    First derivatives in z are exact; there are no second ones.

    Args:
        levels: L.
        counts: how often each level was seen, integers [L], or [C, L] for images [B, C, ...]; the prior is (count + 1) over their
            sum. All levels are equally likely when left out.
        support: gammas it may be asked at.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.

    Raises:
        SpecError: for fewer than two levels, or counts that are not theirs.
    """

    counts: Tensor | None

    def __init__(
        self,
        levels: int,
        counts: Tensor | None = None,
        support: tuple[float, float] = (-20.0, 20.0),
        *,
        name: str = "discrete",
        allow_extrapolation: bool = False,
    ) -> None:
        super().__init__(interval(support), name, allow_extrapolation)
        if levels < 2:
            raise SpecError(f"expert {name!r}: levels: expected at least 2, got {levels}")
        if counts is not None:
            if counts.is_floating_point() or counts.ndim not in (1, 2) or counts.shape[-1] != levels or bool((counts < 0).any()):
                raise SpecError(
                    f"expert {name!r}: counts: expected whole numbers [{levels}] or [C, {levels}] of at least 0, "
                    f"got {counts.dtype} {list(counts.shape)}"
                )
            counts = counts.long()
        self.levels = levels
        self.contrast = 0.0 if counts is None else float(((counts.amax(-1) + 1.0) / (counts.amin(-1) + 1.0)).log().max())
        self.register_buffer("counts", counts)  # integers: a log-prior would be rounded when the expert is made float32

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Closed form, float64 inside; no network is called."""
        self.require(*map(float, gamma.aminmax()))
        wide = z.double()
        y, s = wide / expand(alpha(gamma), wide), expand(edm_sigma(gamma), wide).expand_as(wide)
        x, slope = self._posterior(y.detach(), s, self._window(float(gamma.max())))
        x = x + slope * (y - y.detach())  # zero, with the derivative
        return Prediction(((y - x) / s).to(z.dtype), x.to(z.dtype), {})

    def _window(self, gamma: float) -> int:
        """How many levels around a value hold all the weight there is, up to that noise."""
        width = edm_sigma(gamma) * self.levels / 2
        reach = 0.5 + math.sqrt(0.25 + 2 * (TAIL + self.contrast) * width**2)
        return min(2 * math.ceil(reach) + 1, self.levels)

    @torch.no_grad()
    def _posterior(self, y: Tensor, s: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Posterior mean, and its derivative in y, at y [B, ...] with noise s, over windows of so many levels."""
        gap, prior = 2 / self.levels, self._log_prior(y)
        start = ((y + 1) / gap - 0.5 - size // 2).round().nan_to_num().clamp(0, self.levels - size)
        rows, tables = start, None
        if prior is not None:  # every window of each channel's log-prior, and which of them a pixel looks at
            windows = prior.unfold(1, size, 1)
            channel = torch.arange(len(prior), device=y.device).reshape(-1, *(1 for _ in y.shape[2:])) if len(prior) > 1 else 0
            rows, tables = start + channel * windows.shape[1], windows.reshape(-1, size)
        above = (y + 1) / gap - 0.5 - start  # how many levels y is above the window's first centre
        width = s / gap
        ramp = torch.arange(size, dtype=y.dtype, device=y.device)
        powers, moments = torch.stack([ramp, ramp**2], 1), y.new_empty(y.numel(), 2)
        flat = (moments, above.flatten(), width.flatten(), rows.flatten())
        for moment, up, wide, row in zip(*(torch.split(t, max(1, CHUNK // size)) for t in flat), strict=True):
            logits = ((up[:, None] - ramp) / wide[:, None]).square_().mul_(-0.5)
            if tables is not None:
                logits += tables[row.long()]
            torch.mm(logits.softmax(1), powers, out=moment)
        first, second = moments.T.reshape(2, *y.shape)
        return (start + first + 0.5) * gap - 1, (second - first**2) / width**2

    def _log_prior(self, y: Tensor) -> Tensor | None:
        """Log-probabilities of levels, float64 [C, L] or [1, L]; None where all are equal."""
        if self.counts is None:
            return None
        counts = self.counts.reshape(-1, self.levels).to(y) + 1
        if len(counts) > 1 and (y.ndim < 2 or y.shape[1] != len(counts)):
            raise SpecError(
                f"expert {self.name!r}: its prior is of images with {len(counts)} channels, it was asked for {list(y.shape[1:])}"
            )
        return (counts / counts.sum(1, keepdim=True)).log()


def discrete(
    levels: int | None = None,
    *,
    prior: Literal["uniform", "marginal"] = "uniform",
    support: tuple[float, float] = (-20.0, 20.0),
    reference: Callable[[], Levelled | None] | None = None,
    name: str = "discrete",
    allow_extrapolation: bool = False,
) -> Discrete:
    """The closed-form expert for low noise: the posterior mean of each pixel given that it sits on one of L levels.

    Args:
        levels: L, that of the data; the reference's when left out.
        prior: how likely each level is: `uniform`, or `marginal`, by the histogram of each channel of the spec's `reference`, one
            added to every count.
        support: gammas it may be asked at.
        reference: gives the spec's reference; it is not asked where levels are given and the prior is uniform.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.

    Raises:
        SpecError: for fewer than two levels, or where a reference is needed and there is none, or one of other levels.
    """
    counts = None
    if levels is None or prior == "marginal":
        images = reference() if reference is not None else None
        if images is None:
            what = "levels" if levels is None else "prior"
            raise SpecError(
                f"expert {name!r}: its {what} would be the reference's, and there is none; add reference: {{type: ...}}, "
                f"or set levels: 256 and prior: uniform"
            )
        if images.levels is None or levels not in (None, images.levels):
            there = "continuous pixels" if images.levels is None else f"{images.levels} levels"
            raise SpecError(
                f"expert {name!r}: levels: expected those of the reference {images.name}, which has {there}; got {levels}"
            )
        levels, counts = images.levels, images.level_histogram() if prior == "marginal" else None
    return Discrete(levels, counts, support, name=name, allow_extrapolation=allow_extrapolation)
