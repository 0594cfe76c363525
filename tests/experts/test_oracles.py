"""The oracles themselves: score, density and flow agree with one another and with torch's and SciPy's."""

import math

import pytest
import torch
from scipy import integrate, stats

from snrouter.errors import SpecError, SupportError
from snrouter.experts.gaussian import Gaussian, gaussian
from snrouter.experts.gaussian_mixture import GaussianMixture, gaussian_mixture
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.solvers.base import drift

GAMMAS = (-10.0, -3.0, 0.5, 4.0)


def states(n: int = 5, dim: int = 6) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module", params=["gaussian", "factorised", "vectors"])
def oracle(request, oracles, gaussian, mixture):
    vectors = GaussianMixture(torch.tensor([1.0, 2.0]), states(2), 0.2 + states(2).abs())
    return {"gaussian": gaussian, "factorised": mixture, "vectors": vectors}[request.param]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_noise_is_minus_sigma_times_the_score_and_adds_up_with_the_image(oracle, gamma):
    z = states().requires_grad_()
    (score,) = torch.autograd.grad(oracle.log_density(z, gamma).sum(), z)
    prediction = oracle(z, gamma)
    torch.testing.assert_close(prediction.eps_hat, -sigma(gamma) * score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha(gamma) * prediction.x_hat + sigma(gamma) * prediction.eps_hat, z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_gaussians_density_is_torchs(gaussian, gamma):
    U = gaussian.eigenvectors
    covariance = alpha(gamma) ** 2 * U @ torch.diag(gaussian.eigenvalues) @ U.T + sigma(gamma) ** 2 * torch.eye(
        6, dtype=torch.float64
    )
    exact = torch.distributions.MultivariateNormal(alpha(gamma) * gaussian.mean, covariance)
    torch.testing.assert_close(gaussian.log_density(states(), gamma), exact.log_prob(states()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_mixtures_density_is_the_product_of_its_dimensions_densities(mixture, gamma):
    z, total = states(3), torch.zeros(3, dtype=torch.float64)
    for d in range(6):
        spread = (alpha(gamma) ** 2 * mixture.variances[:, d] + sigma(gamma) ** 2).sqrt()
        density = sum(
            float(w) * stats.norm.pdf(z[:, d].numpy(), float(alpha(gamma) * m), float(s))
            for w, m, s in zip(mixture.log_weights[:, d].exp(), mixture.means[:, d], spread, strict=True)
        )
        total += torch.from_numpy(density).log()
    torch.testing.assert_close(mixture.log_density(z, gamma), total, rtol=1e-10, atol=1e-10)


def test_a_mixture_of_vectors_is_not_the_product_of_its_dimensions_and_integrates_to_one():
    means = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    joint = GaussianMixture(torch.tensor([3.0, 1.0]), means, torch.full((2, 2), 0.2))

    def density(y: float, x: float) -> float:
        return math.exp(float(joint.log_density(torch.tensor([[x, y]], dtype=torch.float64), -4.0)))

    assert integrate.dblquad(density, -2, 2, -2, 2, epsabs=1e-5)[0] == pytest.approx(1, abs=1e-4)
    assert density(0.5, -0.5) < 0.01 * density(0.5, 0.5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_flow_moves_along_the_drift(oracle, gamma):
    if isinstance(oracle, GaussianMixture) and not oracle.factorised:
        with pytest.raises(SpecError, match="only a factorised mixture"):
            oracle.flow(states(), 0.0, 1.0)
        return
    z, h = 0.3 * states(), 1e-4
    slope = (oracle.flow(z, gamma, gamma + h) - oracle.flow(z, gamma, gamma - h)) / (2 * h)
    torch.testing.assert_close(slope, drift(z, gamma, oracle.eps_hat(z, gamma)), rtol=1e-5, atol=1e-7)


def test_a_flow_composes_and_inverts(gaussian, mixture):
    for oracle in (gaussian, mixture):
        z = states()
        there = oracle.flow(oracle.flow(z, 4.0, -1.0), -1.0, -9.0)
        torch.testing.assert_close(there, oracle.flow(z, 4.0, -9.0), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(oracle.flow(there, -9.0, 4.0), z, rtol=1e-9, atol=1e-9)


def test_the_mixtures_flow_keeps_probability_far_in_the_tails(mixture):
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None].expand(-1, 6)
    moved = mixture.flow(z, 4.0, -9.0)
    for before, after in zip(mixture._tails(z, 4.0), mixture._tails(moved, -9.0), strict=True):
        kept = before > 1e-280
        torch.testing.assert_close(after[kept], before[kept], rtol=1e-7, atol=0)


def test_the_gaussians_log_determinant_and_own_density_are_those_of_its_flow(gaussian):
    z, bounds = states(2), GammaInterval(-8.0, 4.0)
    jacobian = torch.autograd.functional.jacobian(lambda one: gaussian.flow(one[None], *bounds)[0], z[0])
    assert gaussian.flow_log_det(*bounds) == pytest.approx(float(jacobian.logdet()), rel=1e-10)
    spread = torch.tensor(sigma(4.0), dtype=torch.float64)
    prior = torch.distributions.Normal(torch.zeros_like(spread), spread).log_prob(gaussian.flow(z, *bounds)).sum(1)
    torch.testing.assert_close(gaussian.model_log_density(z, bounds), prior + jacobian.logdet(), rtol=1e-10, atol=1e-10)


def test_oracles_from_a_spec_are_the_classes_own():
    z = states(2, 4).reshape(2, 2, 2)
    plain = Gaussian(torch.full((2, 2), 0.1), 0.09 * torch.eye(4))
    assert torch.allclose(gaussian([0.1], [0.3], shape=(2, 2)).eps_hat(z, -1.0), plain.eps_hat(z, -1.0))
    each = gaussian([0.1, 0.2], [0.3, 0.4])
    assert each.mean.shape == (2,)
    spec = gaussian_mixture([1, 3], [-0.5, 0.5], [0.1, 0.2], shape=(2, 2))
    full = torch.ones(2, 2, dtype=torch.float64)
    own = GaussianMixture(
        torch.stack([full, 3 * full]), torch.stack([-0.5 * full, 0.5 * full]), torch.stack([0.1 * full, 0.2 * full])
    )
    assert torch.allclose(spec.eps_hat(z, -1.0), own.eps_hat(z, -1.0))
    assert spec.factorised


def test_an_oracle_of_the_wrong_shape_is_refused():
    with pytest.raises(SpecError, match=r"covariance: expected shape \[3, 3\], got \[2, 2\]"):
        Gaussian(torch.zeros(3), torch.eye(2))
    with pytest.raises(SpecError, match="need 1 or 3 numbers each"):
        gaussian([0.0, 0.0], [1.0], shape=(3,))
    with pytest.raises(SpecError, match="expected means and standard_deviations"):
        GaussianMixture(torch.ones(3), torch.ones(2, 4), torch.ones(2, 4))
    with pytest.raises(SpecError, match="need one number each a component"):
        gaussian_mixture([1.0], [0.0, 1.0], [1.0, 1.0])


def test_an_oracle_keeps_to_its_support(oracles):
    for maker in (oracles.gaussian, oracles.mixture):
        with pytest.raises(SupportError, match="'narrow' was asked at gamma=6"):
            maker(support=(-9, 5), name="narrow").eps_hat(states(), 6.0)
