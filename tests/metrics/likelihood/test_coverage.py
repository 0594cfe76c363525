"""Error bars are true: of 200 repetitions, 90 to 98 percent of the 95 percent intervals hold the number that they are of.

Data are drawn anew for every repetition, and so is all noise: draws are keyed by the image's index, so that 200 repetitions of 64
images are one call of 12,800. Denoiser and flow are a Gaussian's, correlated over pixels, and every truth is a closed form in the mean
and variance of what is measured along its eigen-directions: of the data, or of one image, given which only the noise is random.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

import snrouter
from snrouter.data.base import from_levels
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import GammaInterval, alpha, edm_sigma, sigma
from snrouter.metrics.likelihood.estimate import Term, error_parts

REPETITIONS, N, D, LEVELS = 200, 64, 4, 16
BOUNDS = GammaInterval(-6.0, 4.0)
TO_BITS = 1 / (D * math.log(2))
RK4 = snrouter.ODE("rk4", steps=16)
IMAGES = REPETITIONS * N


@pytest.fixture(scope="module")
def oracle(oracles) -> Gaussian:
    return oracles.gaussian((D,), seed=3)


class Moments(NamedTuple):
    """Mean and variance along the oracle's eigen-directions, each [..., D]."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of_images(cls, oracle: Gaussian, x: Tensor) -> "Moments":
        return cls(x @ oracle.eigenvectors, torch.zeros_like(x))

    @classmethod
    def of_data(cls, oracle: Gaussian) -> "Moments":
        return cls(oracle.mean @ oracle.eigenvectors, oracle.eigenvalues)

    @classmethod
    def of_levels(cls) -> "Moments":
        """Pixels uniform over the levels."""
        return cls(torch.zeros(D, dtype=torch.float64), torch.full((D,), (1 - LEVELS**-2) / 3, dtype=torch.float64))


def diffusion(oracle: Gaussian, x: Moments, bounds: GammaInterval) -> Tensor:
    """Half the integral of E |eps - eps_hat|^2 = sum a^2 + b^2 E d^2, in nats; a = l / (l + e^gamma), b^2 = e^gamma / (l + e^gamma)^2."""
    spread = oracle.eigenvalues
    square = (x.mean - oracle.mean @ oracle.eigenvectors) ** 2 + x.variance

    def primitive(gamma: float) -> Tensor:
        e = math.exp(gamma)
        return gamma - (spread + e).log() + spread / (spread + e) - square / (spread + e)

    return 0.5 * (primitive(bounds.gamma_max) - primitive(bounds.gamma_min)).sum(-1)


def bound(oracle: Gaussian, x: Moments) -> dict[str, Tensor]:
    """The bound's terms for continuous data, in bits/dim."""
    start, end = map(edm_sigma, BOUNDS)
    terms = {
        "prior": 0.5 * (x.mean**2 + x.variance).sum(-1) / end**2,
        "reconstruction": torch.tensor(D * (0.5 + math.log(start * math.sqrt(2 * math.pi)))),
        "diffusion": diffusion(oracle, x, BOUNDS),
    }
    return {name: TO_BITS * nats for name, nats in terms.items()}


def density(oracle: Gaussian, x: Moments, dequantization: str) -> Tensor:
    """Minus log-density under the flow from N(0, sigma_max^2 I), dequantized, in bits/dim: quadratic in the state."""
    first, last = BOUNDS
    half = 1 / LEVELS
    truncated = stats.truncnorm(-alpha(first) * half / sigma(first), alpha(first) * half / sigma(first), scale=sigma(first))
    added, correction = {
        "none": (0.0, math.log(alpha(first))),
        "uniform": (alpha(first) ** 2 * half**2 / 3, math.log(alpha(first) * 2 * half)),
        "truncated_normal": (truncated.var(), truncated.entropy()),
    }[dequantization]
    centre = oracle.mean @ oracle.eigenvectors
    before, after = (alpha(gamma) ** 2 * oracle.eigenvalues + sigma(gamma) ** 2 for gamma in BOUNDS)
    end = alpha(last) * centre + (after / before).sqrt() * alpha(first) * (x.mean - centre)
    square = end**2 + after / before * (alpha(first) ** 2 * x.variance + added)
    log_p = -0.5 * (square / sigma(last) ** 2 + math.log(2 * math.pi * sigma(last) ** 2) - (after / before).log())
    return -TO_BITS * (log_p.sum(-1) + D * correction)


def reconstruction_of_levels() -> float:
    """-E log p(x | z_0) over levels and noise, in bits/dim, by quadrature."""
    centres, s = from_levels(torch.arange(LEVELS), LEVELS, torch.float64), edm_sigma(BOUNDS.gamma_min)

    def loss(e: float, own: Tensor) -> float:
        logits = -0.5 * ((own + s * e - centres) / s) ** 2
        return float(stats.norm.pdf(e) * (logits.logsumexp(0) + 0.5 * e**2))

    return sum(integrate.quad(loss, -9, 9, args=(own,), limit=200)[0] for own in centres) / LEVELS / math.log(2)


def coverage(blocks: Tensor, truth: Tensor | float) -> float:
    """Fraction of repetitions [R, N] whose 95 percent interval holds the truth [R] or []."""
    terms = [Term.of(block) for block in blocks]
    value, error = (torch.tensor([getattr(term, name) for term in terms]).double() for name in ("value", "standard_error"))
    return float(((value - truth).abs() <= stats.norm.ppf(0.975) * error).double().mean())


def holds(fraction: float) -> bool:
    return 0.90 <= fraction <= 0.98


def repeated(values: Tensor) -> Tensor:
    return values.reshape(REPETITIONS, N)


@pytest.mark.parametrize("steps", [None, 8])
def test_errors_of_the_bound_and_of_its_terms(oracles, oracle, steps):
    estimate = snrouter.bits_per_dim(oracle, oracles.draw(oracle, IMAGES, 1), BOUNDS, "vlb", "none", 5, times=4, steps=steps)
    truth = bound(oracle, Moments.of_data(oracle))
    if steps:
        h, spread = BOUNDS.length / steps, oracle.eigenvalues
        loss = sum(float((spread / (spread + math.exp(BOUNDS.at(i / steps)))).sum()) for i in range(1, steps + 1))
        truth["diffusion"] = torch.tensor(TO_BITS * 0.5 * math.expm1(h) * loss)
    fractions = {name: coverage(repeated(term.values), float(truth[name])) for name, term in estimate.terms.items()}
    fractions["total"] = coverage(repeated(estimate.values), float(sum(truth.values())))
    assert all(map(holds, fractions.values())), fractions


def test_errors_of_the_bound_over_levels(oracles, oracle):
    images = oracles.images(IMAGES, (D,), LEVELS, seed=1)
    estimate = snrouter.bits_per_dim(oracle, images, BOUNDS, "vlb", seed=6, times=4, levels=LEVELS)
    truth = {name: float(term) for name, term in bound(oracle, Moments.of_levels()).items()}
    truth["reconstruction"] = reconstruction_of_levels()
    fractions = {name: coverage(repeated(term.values), truth[name]) for name, term in estimate.terms.items()}
    fractions["total"] = coverage(repeated(estimate.values), sum(truth.values()))
    assert all(map(holds, fractions.values())), fractions


@pytest.mark.parametrize(
    "options",
    [
        {"dequantization": "none", "divergence": "exact"},
        {"dequantization": "none", "probes": 2},
        {"dequantization": "none", "probe_noise": "gaussian"},
        {"dequantization": "uniform"},
        {"dequantization": "truncated_normal"},
        {"dequantization": "truncated_normal", "divergence": "exact"},
    ],
    ids=lambda options: ", ".join(map(str, options.values())),
)
def test_errors_of_the_exact_density(oracles, oracle, options):
    continuous = options["dequantization"] == "none"
    images = oracles.draw(oracle, IMAGES, 2) if continuous else oracles.images(IMAGES, (D,), LEVELS, seed=2)
    moments = Moments.of_data(oracle) if continuous else Moments.of_levels()
    estimate = snrouter.bits_per_dim(oracle, images, BOUNDS, "ode", seed=7, levels=LEVELS, solver=RK4, **options)
    fraction = coverage(repeated(estimate.values), float(density(oracle, moments, options["dequantization"])))
    assert holds(fraction), fraction


PARTS: dict[str, tuple[dict, Callable[[Gaussian, Moments], Tensor]]] = {
    "noise": (
        {"estimator": "vlb", "dequantization": "none", "times": 4},
        lambda oracle, x: torch.stack(torch.broadcast_tensors(*bound(oracle, x).values())).sum(0),
    ),
    "dequantization": (
        {"dequantization": "uniform", "divergence": "exact", "solver": RK4},
        lambda oracle, x: density(oracle, x, "uniform"),
    ),
    "probe": (
        {"dequantization": "none", "solver": RK4},
        lambda oracle, x: density(oracle, x, "none"),
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_an_error_is_that_of_its_own_randomness(oracles, oracle, part):
    """Three draws an image, by three seeds. Squared, the noise's part is on average that of the distance between their mean and what
    is expected given the images; the data's, between the latter and what is expected of all data."""
    options, expected = PARTS[part]
    if part == "dequantization":
        images, data = oracles.images(IMAGES, (D,), LEVELS, seed=3), Moments.of_levels()
    else:
        images, data = oracles.draw(oracle, IMAGES, 3), Moments.of_data(oracle)
    draws = [snrouter.bits_per_dim(oracle, images, BOUNDS, seed=seed, levels=LEVELS, **options).values for seed in range(3)]
    blocks = torch.stack(draws).reshape(3, REPETITIONS, N).transpose(0, 1)
    given_images = repeated(expected(oracle, Moments.of_images(oracle, images))).mean(1)
    errors = [error_parts(block[:, None], part, "none") for block in blocks]
    distances = {part: blocks.mean((1, 2)) - given_images, "data": given_images - float(expected(oracle, data))}
    for name, distance in distances.items():
        squared = sum(parts[name] ** 2 for parts in errors) / REPETITIONS
        assert squared == pytest.approx(float(distance.square().mean()), rel=0.25), name
