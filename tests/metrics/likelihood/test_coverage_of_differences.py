"""Paired differences between routes come with true errors: of 200 repetitions, 90 to 98 percent of 95 percent intervals hold the truth.

Two routes see the same images and the same noise. The error of their difference is that of the difference of their influences.
"""

import math

import torch
from scipy import linalg, stats
from torch import Tensor

import snrouter
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import GammaInterval
from snrouter.metrics.frechet import frechet_distance
from snrouter.metrics.likelihood.estimate import standard_error

REPETITIONS = 200


def hold(values: Tensor, errors: Tensor, truth: float) -> float:
    return float(((values - truth).abs() <= stats.norm.ppf(0.975) * errors).double().mean())


def diffusion(expert: Gaussian, data: Gaussian, bounds: GammaInterval) -> float:
    """Half the integral of E |eps - eps_hat|^2 over a stretch, of a Gaussian's denoiser on another Gaussian's data, in nats."""
    turned = expert.eigenvectors.T @ data.eigenvectors
    shift = (data.mean - expert.mean) @ expert.eigenvectors
    spread, square = expert.eigenvalues, shift**2 + (turned**2 * data.eigenvalues).sum(1)

    def primitive(gamma: float) -> float:
        e = math.exp(gamma)
        return float((gamma - (spread + e).log() + spread / (spread + e) - square / (spread + e)).sum())

    return 0.5 * (primitive(bounds.gamma_max) - primitive(bounds.gamma_min))


def test_differences_of_bounds(oracles):
    """Of a merge from one of its experts, each of which takes the data for narrower or wider than they are."""
    data, n = oracles.gaussian((4,), seed=3), 64
    experts = {"low": oracles.gaussian((4,), seed=3, spread=0.5), "high": oracles.gaussian((4,), seed=3, spread=0.3)}
    bounds, switch = GammaInterval(-6.0, 4.0), -1.0
    merged, images = snrouter.merge(experts, snrouter.Threshold("low", "high", switch)), oracles.draw(data, REPETITIONS * n, 4)
    ours, theirs = (
        snrouter.bits_per_dim(route, images, bounds, "vlb", "none", seed=8, times=4).values.reshape(REPETITIONS, n)
        for route in (merged, experts["high"])
    )
    below = bounds._replace(gamma_max=switch)
    truth = (diffusion(experts["low"], data, below) - diffusion(experts["high"], data, below)) / (4 * math.log(2))
    paired = torch.tensor([standard_error(a - b) for a, b in zip(ours, theirs, strict=True)])
    apart = torch.tensor([math.hypot(standard_error(a), standard_error(b)) for a, b in zip(ours, theirs, strict=True)])
    fraction = hold(ours.mean(1) - theirs.mean(1), paired, truth)
    assert 0.90 <= fraction <= 0.98
    assert float(apart.mean()) > 1.5 * float(paired.mean())


def test_differences_of_frechet_distances():
    """Samples of two routes are two affine maps of common noise, [600, 3]; the reference has its moments exactly."""
    generator = torch.Generator().manual_seed(9)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    reference = normal(50, 3)
    reference -= reference.mean(0)
    reference = reference @ torch.linalg.inv(torch.linalg.cholesky(reference.T.cov())).T
    maps = [torch.eye(3, dtype=torch.float64) + 0.3 * normal(3, 3) for _ in range(2)]
    shifts = [0.5 * normal(3) for _ in range(2)]

    def true_distance(matrix: Tensor, shift: Tensor) -> float:
        covariance = (matrix @ matrix.T).numpy()
        return float(shift @ shift) + float((covariance + torch.eye(3).numpy() - 2 * linalg.sqrtm(covariance).real).trace())

    truths = [true_distance(*each) for each in zip(maps, shifts, strict=True)]
    values, errors = [], []
    for _ in range(REPETITIONS):
        noise = normal(600, 3)
        found = [frechet_distance(noise @ matrix.T + shift, reference) for matrix, shift in zip(maps, shifts, strict=True)]
        (ours, own), (theirs, other) = found
        values.append([ours, theirs, ours - theirs])
        errors.append([standard_error(own), standard_error(other), standard_error(own - other)])
    fractions = [
        hold(torch.tensor(value), torch.tensor(error), truth)
        for value, error, truth in zip(
            zip(*values, strict=True), zip(*errors, strict=True), [*truths, truths[0] - truths[1]], strict=True
        )
    ]
    assert all(0.90 <= fraction <= 0.98 for fraction in fractions), fractions
