"""Wiener: the closed-form denoiser of images whose power falls off with frequency.

Images are modelled as stationary Gaussian noise on a torus. The orthonormal Fourier coefficient at f (cycles an image) has variance

    lambda(f) = c (1 + |f|^2)^(-exponent / 2),

with c such that pixels have the standard deviation asked for; natural images follow it with an exponent near 2. At gamma that
coefficient of the state has variance alpha^2 lambda + sigma^2, hence, frequency by frequency, Wiener's filter

    eps_hat = sigma (z - alpha mean) / (alpha^2 lambda + sigma^2),
    x_hat = mean + alpha lambda (z - alpha mean) / (alpha^2 lambda + sigma^2).
"""

from __future__ import annotations

import torch
from snrouter.experts.base import Expert, Prediction, expand
from snrouter.gamma import alpha, interval, sigma
from torch import Tensor


class Wiener(Expert):
    """A linear denoiser of images [B, C, H, W] of any size.

    Args:
        exponent: how fast power falls with frequency; 0 is white.
        mean: of every pixel.
        standard_deviation: of every pixel.
        support: gammas it may be asked at.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
    """

    def __init__(
        self,
        exponent: float = 2.0,
        mean: float = 0.0,
        standard_deviation: float = 0.5,
        *,
        support: tuple[float, float] = (-20.0, 20.0),
        name: str = "wiener",
        allow_extrapolation: bool = False,
    ) -> None:
        super().__init__(interval(support), name, allow_extrapolation)
        self.exponent = exponent
        self.mean = mean
        self.standard_deviation = standard_deviation

    def spectrum(self, like: Tensor) -> Tensor:
        """Variances lambda of the Fourier coefficients [H, W] of an image like [..., H, W]."""
        rows, columns = (torch.fft.fftfreq(size, 1 / size, dtype=like.dtype, device=like.device) for size in like.shape[-2:])
        power = (1 + rows[:, None] ** 2 + columns**2).pow(-self.exponent / 2)
        variance: Tensor = self.standard_deviation**2 * power / power.mean()
        return variance

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Closed form, in the dtype of z; counted as one call a row."""
        self.require(float(gamma.min()), float(gamma.max()))
        al, si, power = expand(alpha(gamma), z), expand(sigma(gamma), z), self.spectrum(z)
        filtered = torch.fft.fft2(z - al * self.mean) / (al**2 * power + si**2)
        return Prediction(
            eps_hat=torch.fft.ifft2(si * filtered).real,
            x_hat=self.mean + torch.fft.ifft2(al * power * filtered).real,
            calls={"": len(z)},
        )
