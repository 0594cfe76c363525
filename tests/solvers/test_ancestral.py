"""Ancestral sampling: the exact affine recursion of its steps, and the paper's listing."""

import itertools
import math

import pytest
import torch

import snrouter
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval, alpha, sigma


def test_the_samples_of_a_gaussian_have_the_mean_and_covariance_of_the_affine_recursion(oracles):
    """The denoiser is affine, hence so is each of the T steps: z_s = A z_t + b + std n. No limit of fine steps is taken.

    Each of the 6 means and 21 covariances is compared by its z-score; 4.1 is a two-sided 1e-3 after Bonferroni's correction by 27.
    """
    bounds, steps, n = GammaInterval(-8.0, 4.0), 10, 20_000
    oracle = oracles.gaussian()
    eye = torch.eye(6, dtype=torch.float64)
    mean, covariance = torch.zeros(6, dtype=torch.float64), sigma(4.0) ** 2 * eye
    grid = [4.0 - 12.0 * i / steps for i in range(steps + 1)]
    for t, s in itertools.pairwise(grid):
        offset = oracle.eps_hat(torch.zeros(1, 6, dtype=torch.float64), t)[0]
        slope = (oracle.eps_hat(eye, t) - offset).T  # column j is the answer to unit vector j
        c = 1 - math.exp(s - t)
        A = alpha(s) / alpha(t) * (eye - c * sigma(t) * slope)
        mean = A @ mean - alpha(s) / alpha(t) * c * sigma(t) * offset
        covariance = A @ covariance @ A.T + sigma(s) ** 2 * c * eye
    z = snrouter.sample(oracle, n, (6,), bounds, snrouter.Ancestral(steps), final="none", dtype=torch.float64).z
    variances = covariance.diag()
    scores = [(z.mean(0) - mean) / (variances / n).sqrt()]
    spread = ((variances[:, None] * variances + covariance**2) / (n - 1)).sqrt()
    scores.append(((z.T.cov() - covariance) / spread)[torch.tril(torch.ones(6, 6)) == 1])
    worst = float(torch.cat(scores).abs().max())
    assert worst < 4.1
    U = oracle.eigenvectors
    marginal = alpha(-8.0) ** 2 * U @ torch.diag(oracle.eigenvalues) @ U.T + sigma(-8.0) ** 2 * eye
    assert float(((covariance - marginal) / spread).abs().max()) > 4.1  # what fine steps tend to; ten are not there


def listing(experts, eta, gamma_min, gamma_max, T, z, noises):
    """The listing of appendix B.2 (arXiv 2511.19434): `low` is the expert below the threshold."""

    def gamma(t):
        return gamma_min + (gamma_max - gamma_min) * t

    used = []
    gamma_eta = gamma(torch.tensor(eta, dtype=torch.float64))
    t = torch.linspace(1, 0, T + 1, dtype=torch.float64)
    for i in range(T):
        gamma_t, gamma_s = gamma(t[i]), gamma(t[i + 1])
        alpha_t, sigma_t = torch.sigmoid(-gamma_t).sqrt(), torch.sigmoid(gamma_t).sqrt()
        alpha_s, sigma_s = torch.sigmoid(-gamma_s).sqrt(), torch.sigmoid(gamma_s).sqrt()
        name = "low" if gamma_t <= gamma_eta else "high"
        used.append(name)
        eps_hat = experts[name].eps_hat(z, gamma_t)
        c = -torch.expm1(gamma_s - gamma_t)
        mean = alpha_s / alpha_t * (z - c * sigma_t * eps_hat)
        std = sigma_s * c.sqrt()
        z = mean + std * noises[i]
    return z, used


@pytest.mark.parametrize(
    ("eta", "low_steps"),
    [(0.25, 4), (0.5, 8), (0.4, 6), (0.6, 9), (1.0, 16), (0.0, 0)],
    ids=["at a step", "at another", "between", "between others", "all low", "all high"],
)
@pytest.mark.parametrize("bounds", [(-6.0, 2.0), (-13.3, 5.0), (-7.86, 5.0)])
def test_it_is_the_papers_listing_on_both_sides_of_the_threshold_and_at_it(pair, bounds, eta, low_steps):
    steps, n = 16, 5
    merged = snrouter.merge(pair, snrouter.Threshold("low", "high", snrouter.position({"eta": eta}, bounds)))
    draws = Draws(11)
    z = sigma(bounds[1]) * draws.normal("initial", range(n), (6,))
    noises = [draws.normal("ancestral", range(n), (6,), draw=i) for i in range(steps)]
    theirs, used = listing(pair, eta, *bounds, steps, z, noises)
    ours = snrouter.Ancestral(steps).solve(merged, z, bounds, seed=11)
    assert float((ours.z - theirs).abs().max()) < 1e-13
    assert used.count("low") == low_steps
    counted = {"low": float(low_steps), "high": float(steps - low_steps)}
    assert ours.nfe_per_expert == {name: count for name, count in counted.items() if count}


def test_the_step_that_starts_at_the_threshold_is_the_low_noise_experts(oracles, pair):
    recorded = {name: oracles.Recorder(expert) for name, expert in pair.items()}
    merged = snrouter.merge(recorded, snrouter.Threshold("low", "high", -2.0))
    snrouter.sample(merged, 2, (6,), (-6.0, 2.0), snrouter.Ancestral(8))
    gammas = {name: [float(gamma[0]) for gamma in recorder.gamma] for name, recorder in recorded.items()}
    assert gammas == {"high": [2.0, 1.0, 0.0, -1.0], "low": [-2.0, -3.0, -4.0, -5.0]}


def test_fully_stochastic_ddim_is_ancestral_sampling_on_the_same_noise(gaussian):
    ours, ancestral = (
        snrouter.sample(gaussian, 4, (6,), (-8.0, 4.0), solver, final="none", dtype=torch.float64).x
        for solver in (snrouter.DDIM(12, stochasticity=1.0), snrouter.Ancestral(12))
    )
    torch.testing.assert_close(ours, ancestral, rtol=1e-10, atol=1e-12)


def test_half_stochastic_ddim_keeps_the_gaussians_variance(oracles):
    """With any stochasticity fine steps give the data's law: here within 4.1 standard errors and 2 percent of discretisation."""
    oracle = oracles.gaussian((2,))
    z = snrouter.sample(oracle, 4000, (2,), (-6.0, 6.0), snrouter.DDIM(100, stochasticity=0.5), final="none").z.double()
    variances = (oracle.eigenvectors**2 @ oracle.eigenvalues) * alpha(-6.0) ** 2 + sigma(-6.0) ** 2
    assert z.var(0).tolist() == pytest.approx(variances.tolist(), rel=4.1 * math.sqrt(2 / 4000) + 0.02)


@pytest.mark.parametrize("solver", [snrouter.Ancestral(4), snrouter.DDIM(4, stochasticity=0.3)])
def test_a_stochastic_solver_cannot_encode(gaussian, solver):
    with pytest.raises(SpecError, match="cannot encode"):
        solver.solve(gaussian, torch.zeros(1, 6), (-8.0, 4.0), direction="encode")
