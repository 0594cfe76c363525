"""The Gaussian oracle: data N(mean, C), for which denoiser, flow and log-likelihood are closed forms.

With C = U diag(lambda) U^T the state at gamma is N(alpha mean, alpha^2 C + sigma^2 I), so

    eps_hat = sigma (alpha^2 C + sigma^2 I)^-1 (z - alpha mean),

and the probability flow from gamma to gamma' scales each eigen-direction by sqrt(v(gamma') / v(gamma)),
v = alpha^2 lambda + sigma^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Prediction, expand
from snrouter.gamma import GammaInterval, alpha, interval, sigma


class Gaussian(Expert):
    """The exact denoiser of data N(mean, covariance).

    Args:
        mean: any shape [...], D values in all.
        covariance: [D, D], symmetric positive semi-definite.
        support: gammas it may be asked at.
        name: what errors call it.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        support: tuple[float, float] = (-20.0, 20.0),
        *,
        name: str = "gaussian",
        allow_extrapolation: bool = False,
    ) -> None:
        super().__init__(interval(support), name, allow_extrapolation)
        if covariance.shape != (mean.numel(), mean.numel()):
            raise SpecError(f"covariance: expected shape {[mean.numel()] * 2}, got {list(covariance.shape)}")
        values, vectors = torch.linalg.eigh(covariance.double())
        self.register_buffer("mean", mean.double())
        self.register_buffer("eigenvalues", values.clamp(min=0))
        self.register_buffer("eigenvectors", vectors)

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Closed form, in the dtype of z."""
        self.require(float(gamma.min()), float(gamma.max()))
        if z.shape[1:] != self.mean.shape:
            raise SpecError(f"expert {self.name!r} has shape {list(self.mean.shape)}, and was asked for {list(z.shape[1:])}")
        al, si = alpha(gamma).to(self.eigenvalues), sigma(gamma).to(self.eigenvalues)
        variance = al[:, None] ** 2 * self.eigenvalues + si[:, None] ** 2
        centred = (z - expand(al, z) * self.mean.to(z)).flatten(1) @ self.eigenvectors.to(z)
        eps = si[:, None].to(z) * centred / variance.to(z)
        x = al[:, None].to(z) * self.eigenvalues.to(z) * centred / variance.to(z)
        back = self.eigenvectors.to(z).T
        return Prediction(
            eps_hat=(eps @ back).reshape(z.shape),
            x_hat=(x @ back).reshape(z.shape) + self.mean.to(z),
            calls={"": len(z)},
        )

    def _variance(self, gamma: float) -> Tensor:
        return alpha(gamma) ** 2 * self.eigenvalues + sigma(gamma) ** 2

    def flow(self, z: Tensor, start: float, end: float) -> Tensor:
        """Exact probability flow of z [B, ...] from gamma `start` to gamma `end`."""
        ratio = (self._variance(end) / self._variance(start)).sqrt().to(z)
        centred = (z - alpha(start) * self.mean.to(z)).flatten(1) @ self.eigenvectors.to(z)
        moved = (centred * ratio) @ self.eigenvectors.to(z).T
        return alpha(end) * self.mean.to(z) + moved.reshape(z.shape)

    def flow_log_det(self, start: float, end: float) -> float:
        """Log-determinant of the flow's Jacobian from gamma `start` to gamma `end`."""
        return 0.5 * float((self._variance(end).log() - self._variance(start).log()).sum())

    def log_density(self, z: Tensor, gamma: float) -> Tensor:
        """Log-density in nats [B] of z [B, ...] under the noisy marginal at gamma."""
        centred = (z - alpha(gamma) * self.mean.to(z)).flatten(1) @ self.eigenvectors.to(z)
        variance = self._variance(gamma).to(z)
        return -0.5 * (centred**2 / variance + (2 * math.pi * variance).log()).sum(1)

    def model_log_density(self, z: Tensor, bounds: GammaInterval) -> Tensor:
        """Log-density in nats [B] of z [B, ...] at gamma_min under the flow pulled back from N(0, sigma_max^2 I)."""
        end = self.flow(z, *bounds).flatten(1)
        variance = sigma(bounds.gamma_max) ** 2
        prior = -0.5 * (end**2 / variance + math.log(2 * math.pi * variance)).sum(1)
        return prior + self.flow_log_det(*bounds)


def gaussian(
    mean: Sequence[float],
    standard_deviation: Sequence[float],
    *,
    shape: Sequence[int] | None = None,
    support: tuple[float, float] = (-20.0, 20.0),
    name: str = "gaussian",
    allow_extrapolation: bool = False,
) -> Gaussian:
    """A Gaussian oracle with independent pixels, from a spec.

    Args:
        mean: one number, or one a pixel.
        standard_deviation: likewise.
        shape: shape of an image; `[len(mean)]` when left out.
        support: gammas it may be asked at.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
    """
    shape = tuple(shape or (len(mean),))
    count = math.prod(shape)
    if min(standard_deviation, default=0) < 0:
        raise SpecError(f"expert {name!r}: standard_deviation: expected numbers of at least 0, got {min(standard_deviation):g}")
    try:
        centre = torch.tensor(mean, dtype=torch.float64).expand(count).reshape(shape)
        variance = torch.tensor(standard_deviation, dtype=torch.float64).expand(count) ** 2
    except RuntimeError:
        raise SpecError(f"expert {name!r}: mean and standard_deviation need 1 or {count} numbers each") from None
    return Gaussian(centre, torch.diag(variance), support, name=name, allow_extrapolation=allow_extrapolation)
