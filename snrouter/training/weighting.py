"""Weightings: how much each noise level counts in a denoising loss.

Every such loss is one (paper eq. 8; Kingma and Gao 2023, arXiv 2303.00848),

    L = E_gamma v(gamma) ||eps - eps_hat||^2,   gamma ~ p on the support,

and what is weighed is the product p v, however it is split into noise levels drawn and factors:

    elbo    gamma uniform, v = (gamma_max - gamma_min) / 2: the VLB's diffusion term in nats (VDM arXiv 2107.00630, eq. 17)
    simple  gamma(t) with t uniform and v = 1, t the time of DDPM's linear betas in the continuous limit
            (DDPM arXiv 2006.11239, eq. 14; score SDE arXiv 2011.13456, VP)
    edm     gamma = 2 ln s with ln s normal, v = (s^2 + sigma_data^2) / sigma_data^2, which is lambda(s) on the image
            (EDM arXiv 2206.00364, section 5)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from snrouter.experts import parameterization
from snrouter.gamma import GammaInterval
from snrouter.recipe import Recipe
from snrouter.schedules import VPSchedule

Weighting = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Quantiles of p in [0, 1), float64 [B], to the gammas there and to v^(-1/2), by which the noise error is divided."""


def weighting(recipe: Recipe, support: GammaInterval) -> Weighting:
    """The weighting that a recipe names, over gammas in the network's own pixels."""
    named: dict[str, Weighting] = {
        "elbo": partial(_elbo, support),
        "simple": partial(_simple, support),
        "edm": partial(_edm, recipe, support),
    }
    return named[str(recipe.weighted)]


def _elbo(support: GammaInterval, quantile: Tensor) -> tuple[Tensor, Tensor]:
    return support.at(quantile), torch.full_like(quantile, (2 / support.length) ** 0.5)


def _simple(support: GammaInterval, quantile: Tensor) -> tuple[Tensor, Tensor]:
    clock = VPSchedule()
    first, last = clock.t(torch.tensor(support, dtype=torch.float64))
    return clock.gamma(first + (last - first) * quantile), torch.ones_like(quantile)


def _edm(recipe: Recipe, support: GammaInterval, quantile: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = 2 * recipe.p_mean, 2 * recipe.p_std
    lo, hi = torch.special.ndtr((torch.tensor(support, dtype=torch.float64) - mean) / std)
    gamma = mean + std * torch.special.ndtri(lo + (hi - lo) * quantile)
    return gamma, parameterization.edm(gamma, recipe.sigma_data).b
