"""Parameterizations: what a network's output means, as affine maps on the axis.

    F = network(c_in z, c_noise);    eps_hat = a z + b F;    x_hat = c z + d F

with the coefficients functions of gamma alone and alpha x_hat + sigma eps_hat = z for every F. The EDM row never forms
z - alpha D(z), which loses most of float32 at low noise.

Sources: DDPM arXiv 2006.11239 (eps), progressive distillation arXiv 2202.00512 (v), score SDE arXiv 2011.13456 (score),
EDM arXiv 2206.00364 table 1 (EDM, VE), rectified flow arXiv 2209.03003 (flow).
"""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol

from snrouter.errors import SpecError, suggestion
from snrouter.gamma import Number, alpha, edm_sigma, sigma


class Coefficients(NamedTuple, Generic[Number]):
    """The five coefficients at a gamma: floats at a float, float64 [B] at float64 [B]."""

    c_in: Number
    a: Number
    b: Number
    c: Number
    d: Number


class Parameterization(Protocol):
    """Gamma -> coefficients, for a float (one gamma for the whole batch) and for a float64 tensor [B] alike."""

    def __call__(self, gamma: Number, /) -> Coefficients[Number]:
        """The coefficients at gamma."""


def eps(gamma: Number) -> Coefficients[Number]:
    """F is the noise."""
    s, r = edm_sigma(gamma), 1 / alpha(gamma)
    one = 1 + 0 * gamma
    return Coefficients(one, 0 * one, one, r, -s)


def x(gamma: Number) -> Coefficients[Number]:
    """F is the image."""
    s, r = edm_sigma(gamma), 1 / sigma(gamma)
    one = 1 + 0 * gamma
    return Coefficients(one, r, -1 / s, 0 * one, one)


def v(gamma: Number) -> Coefficients[Number]:
    """F is v = alpha eps - sigma x."""
    al, si = alpha(gamma), sigma(gamma)
    return Coefficients(1 + 0 * gamma, si, al, al, -si)


def score(gamma: Number) -> Coefficients[Number]:
    """F is the score of z, -eps / sigma."""
    al, si = alpha(gamma), sigma(gamma)
    one = 1 + 0 * gamma
    return Coefficients(one, 0 * one, -si, 1 / al, si**2 / al)


def ve(gamma: Number) -> Coefficients[Number]:
    """F = -eps, fed z / alpha (EDM's VEPrecond; its VP and iDDPM preconditionings are `eps`)."""
    r = 1 / alpha(gamma)
    one = 1 + 0 * gamma
    return Coefficients(r, 0 * one, -one, r, edm_sigma(gamma))


def flow(gamma: Number) -> Coefficients[Number]:
    """F is rectified flow's velocity u = eps - x, fed z / (alpha + sigma) = (1 - t) x + t eps."""
    al, si = alpha(gamma), sigma(gamma)
    r = 1 / (al + si)
    return Coefficients(r, r, al * r, r, -si * r)


def edm(gamma: Number, sigma_data: float = 0.5) -> Coefficients[Number]:
    """F is EDM's raw network output: D = c_skip z/alpha + c_out F with data of standard deviation `sigma_data`."""
    s, al = edm_sigma(gamma), alpha(gamma)
    total = s**2 + sigma_data**2
    root = total**0.5
    return Coefficients(1 / (al * root), s / (total * al), -sigma_data / root, sigma_data**2 / (total * al), s * sigma_data / root)


PARAMETERIZATIONS: dict[str, Parameterization] = {
    "eps": eps,
    "x": x,
    "v": v,
    "score": score,
    "ve": ve,
    "flow": flow,
    "edm": edm,
}
"""Parameterizations by the name `wrap(prediction=...)` gives them."""


def parameterization(name: str) -> Parameterization:
    """The parameterization of that name.

    Raises:
        SpecError: for an unknown name.
    """
    if name not in PARAMETERIZATIONS:
        known = ", ".join(PARAMETERIZATIONS)
        raise SpecError(f"unknown prediction {name!r}{suggestion(name, PARAMETERIZATIONS)}; known: {known}")
    return PARAMETERIZATIONS[name]
