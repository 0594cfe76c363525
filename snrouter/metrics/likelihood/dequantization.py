"""Dequantization: from an image on L levels to a point z_0 whose density bounds the image's probability.

Each gives z_0 [B, ...] and a correction in nats [B] with log P(x) >= E[log p(z_0) + correction].

- truncated normal (paper arXiv 2511.19434, eq. 15-16): z_0 = alpha_0 x + sigma_0 e, e a standard normal truncated to
  [-tau, tau], tau = alpha_0 / (L sigma_0). K = 1 uses the entropy of q in closed form, K > 1 minus its log-density.
- uniform: z_0 = alpha_0 (x + u), u uniform on one bin; correction D (log alpha_0 + log(2 / L)).
- none, for continuous data: z_0 = alpha_0 x; correction D log alpha_0.

Variational dequantization needs a learned network and is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.gamma import alpha, sigma

Dequantization = Literal["truncated_normal", "uniform", "none"]


class Dequantized(NamedTuple):
    """`z` [B, ...] and `correction` [B] in nats, both float64."""

    z: Tensor
    correction: Tensor


def truncated_normal(x: Tensor, gamma_0: float, levels: int, uniform: Tensor, closed_form: bool) -> Dequantized:
    """Truncated-normal dequantization.

    Args:
        x: images at the bin centres, float64 [B, ...].
        gamma_0: where the likelihood integral starts.
        levels: L.
        uniform: uniform draws in [0, 1) of the shape of x.
        closed_form: correct by the entropy of q (K = 1) rather than by -log q of each draw (K > 1).
    """
    scale, noise = alpha(gamma_0), sigma(gamma_0)
    tau = scale / (levels * noise)
    mass = math.erf(tau / math.sqrt(2))
    low = 0.5 * math.erfc(tau / math.sqrt(2))
    # drawn from the lower half and mirrored, where the quantile function keeps its precision
    folded = torch.where(uniform < 0.5, uniform, 1 - uniform)
    e = torch.special.ndtri(low + mass * folded).clamp(-tau, 0)
    e = torch.where(uniform < 0.5, e, -e)
    log_scale = math.log(noise * mass * math.sqrt(2 * math.pi))
    count = x[0].numel()
    if closed_form:
        density = math.exp(-(tau**2) / 2) / math.sqrt(2 * math.pi)
        second_moment = 1 - 2 * tau * density / mass
        correction = torch.full((len(x),), count * (log_scale + second_moment / 2), dtype=torch.float64)
    else:
        correction = count * log_scale + 0.5 * e.flatten(1).square().sum(1)
    return Dequantized(scale * x + noise * e, correction.to(x))


def dequantize(
    method: Dequantization,
    x: Tensor,
    gamma_0: float,
    levels: int,
    draws: Draws,
    indices: Sequence[int],
    draw: int,
    k: int,
) -> Dequantized:
    """Dequantize images x [B, ...] by name; draw number `draw` of each index, `k` importance samples in all.

    Raises:
        SpecError: for an unknown method.
    """
    x = x.double()
    count = x[0].numel()
    constant = count * math.log(alpha(gamma_0))
    if method == "none":
        return Dequantized(alpha(gamma_0) * x, torch.full((len(x),), constant).to(x))
    if method not in ("uniform", "truncated_normal"):
        raise SpecError(f"dequantization: expected truncated_normal, uniform or none, got {method!r}")
    uniform = draws.uniform("dequantization", indices, x.shape[1:], draw=draw).to(x)
    if method == "truncated_normal":
        return truncated_normal(x, gamma_0, levels, uniform, closed_form=k == 1)
    z = alpha(gamma_0) * (x + (2 * uniform - 1) / levels)
    return Dequantized(z, torch.full((len(x),), constant + count * math.log(2 / levels)).to(x))
