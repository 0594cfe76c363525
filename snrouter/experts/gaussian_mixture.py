"""The Gaussian-mixture oracle: closed-form score and log-density, and an exact flow where it factorises.

Component k of the noisy marginal has mean alpha m_k and variance v_k = alpha^2 s_k^2 + sigma^2, hence with responsibilities r_k

    eps_hat = sigma sum_k r_k (z - alpha m_k) / v_k.

A factorised mixture (each dimension its own one-dimensional mixture) has the quantile map as its flow: the probability flow
in one dimension is monotone and keeps the cumulative distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Prediction, expand
from snrouter.gamma import alpha, interval, sigma


class GaussianMixture(Expert):
    """The exact denoiser of a mixture of K Gaussians with diagonal covariances.

    Args:
        weights: [K] for a mixture of vectors, or [K, *shape] for a factorised one; positive, normalised over K here.
        means: [K, *shape].
        standard_deviations: [K, *shape].
        support: gammas it may be asked at.
        name: what errors call it.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        standard_deviations: Tensor,
        support: tuple[float, float] = (-20.0, 20.0),
        *,
        name: str = "gaussian_mixture",
        allow_extrapolation: bool = False,
    ) -> None:
        super().__init__(interval(support), name, allow_extrapolation)
        if means.shape != standard_deviations.shape or weights.shape not in ((len(means),), means.shape):
            raise SpecError(
                f"expert {name!r}: expected means and standard_deviations [K, *shape] and weights [K] or [K, *shape], got "
                f"{list(means.shape)}, {list(standard_deviations.shape)}, {list(weights.shape)}"
            )
        self.factorised = weights.shape == means.shape
        self.register_buffer("log_weights", (weights.double() / weights.double().sum(0)).log())
        self.register_buffer("means", means.double())
        self.register_buffer("variances", standard_deviations.double() ** 2)

    def _log_components(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log of weight times density per component ([B, K] or [B, K, *shape]), centred z and variances [B, K, *shape]."""
        al, si = (expand(f(gamma), z).unsqueeze(1) for f in (alpha, sigma))
        centred = z.unsqueeze(1) - al * self.means.to(z)
        variance = al**2 * self.variances.to(z) + si**2
        log_density = -0.5 * (centred**2 / variance + (2 * math.pi * variance).log())
        if not self.factorised:
            log_density = log_density.flatten(2).sum(2)
        return log_density + self.log_weights.to(z), centred, variance

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Closed form, in the dtype of z."""
        self.require(float(gamma.min()), float(gamma.max()))
        if z.shape[1:] != self.means.shape[1:]:
            raise SpecError(f"expert {self.name!r} has shape {list(self.means.shape[1:])}, and was asked for {list(z.shape[1:])}")
        log_components, centred, variance = self._log_components(z, gamma)
        shares = log_components.softmax(1)
        if not self.factorised:
            shares = shares.reshape(*shares.shape, *(1 for _ in z.shape[1:]))
        al, si = expand(alpha(gamma), z), expand(sigma(gamma), z)
        pulled = centred / variance
        eps = si * (shares * pulled).sum(1)
        x = (shares * (self.means.to(z) + al.unsqueeze(1) * self.variances.to(z) * pulled)).sum(1)
        return Prediction(eps, x, {"": len(z)})

    def log_density(self, z: Tensor, gamma: float) -> Tensor:
        """Log-density in nats [B] of z [B, ...] under the noisy marginal at gamma."""
        log_components, _, _ = self._log_components(z, torch.full((len(z),), gamma, dtype=torch.float64))
        total = log_components.logsumexp(1)
        return total.flatten(1).sum(1) if self.factorised else total

    def flow(self, z: Tensor, start: float, end: float) -> Tensor:
        """Exact probability flow of z [B, ...] from gamma `start` to gamma `end`, by the quantile map.

        Raises:
            SpecError: when the mixture does not factorise, and so has no closed-form flow.
        """
        if not self.factorised:
            raise SpecError("only a factorised mixture (weights of shape [K, *shape]) has a closed-form flow")
        source, complement = self._tails(z, start)
        spread = (alpha(end) ** 2 * self.variances + sigma(end) ** 2).sqrt().to(z)
        centres = alpha(end) * self.means.to(z)
        lo = (centres - 40 * spread).amin(0).expand_as(z).clone()
        hi = (centres + 40 * spread).amax(0).expand_as(z).clone()
        for _ in range(120):  # bisection to the last bit of float64
            middle = (lo + hi) / 2
            below, above = self._tails(middle, end)
            left = torch.where(source < 0.5, below < source, above > complement)
            lo, hi = torch.where(left, middle, lo), torch.where(left, hi, middle)
        return (lo + hi) / 2

    def _tails(self, z: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Cumulative distribution and its complement per dimension, each accurate in its own tail."""
        spread = (alpha(gamma) ** 2 * self.variances + sigma(gamma) ** 2).sqrt().to(z)
        standard = (z.unsqueeze(1) - alpha(gamma) * self.means.to(z)) / (spread * math.sqrt(2))
        weights = 0.5 * self.log_weights.to(z).exp()
        # torch.special.ndtr is (1 + erf)/2, which loses the lower tail; erfc keeps it
        return (weights * torch.erfc(-standard)).sum(1), (weights * torch.erfc(standard)).sum(1)


def gaussian_mixture(
    weights: Sequence[float],
    means: Sequence[float],
    standard_deviations: Sequence[float],
    *,
    shape: Sequence[int] = (1,),
    support: tuple[float, float] = (-20.0, 20.0),
    name: str = "gaussian_mixture",
    allow_extrapolation: bool = False,
) -> GaussianMixture:
    """A factorised mixture oracle from a spec: every pixel has the same one-dimensional mixture.

    Args:
        weights: K positive numbers.
        means: K numbers.
        standard_deviations: K positive numbers.
        shape: shape of an image.
        support: gammas it may be asked at.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
    """
    if not len(weights) == len(means) == len(standard_deviations):
        raise SpecError(f"expert {name!r}: weights, means and standard_deviations need one number each a component")

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(-1, *(1 for _ in shape)).expand(-1, *shape)

    return GaussianMixture(
        column(weights), column(means), column(standard_deviations), support, name=name, allow_extrapolation=allow_extrapolation
    )
