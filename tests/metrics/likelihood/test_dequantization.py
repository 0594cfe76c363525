"""Dequantization: draws stay in their bin, corrections are the entropies they claim, and more samples tighten the bound."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import snrouter
from snrouter.data.base import from_levels, to_levels
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.metrics.likelihood.dequantization import dequantize, truncated_normal

CASES = [(17, -7.86), (17, -4.0), (256, -13.3), (256, -11.0)]
"""Levels and gamma_0; tau is 3 for the published pairs, and small for the others."""


def tau(levels: int, gamma_0: float) -> float:
    return alpha(gamma_0) / (levels * sigma(gamma_0))


def test_tau_puts_half_a_bin_at_three_standard_deviations_where_published():
    assert tau(256, -13.3) == pytest.approx(3.0, abs=0.03)
    assert tau(17, -7.86) == pytest.approx(3.0, abs=0.03)


@pytest.mark.parametrize(("levels", "gamma_0"), CASES)
@pytest.mark.parametrize("method", ["truncated_normal", "uniform"])
def test_draws_lie_within_their_bin_and_reach_across_it(oracles, method, levels, gamma_0):
    x = oracles.images(50, (40,), levels)
    z = dequantize(method, x, gamma_0, levels, Draws(0), range(50), 0, 1).z
    offset = (z / alpha(gamma_0) - x) * levels  # in half bins
    assert float(offset.abs().max()) <= 1 + 1e-9
    assert float(offset.min()) < -0.9
    assert float(offset.max()) > 0.9


@pytest.mark.parametrize(("levels", "gamma_0"), CASES)
def test_truncated_normal_draws_have_its_distribution(oracles, levels, gamma_0):
    x = oracles.images(50, (40,), levels)
    z = dequantize("truncated_normal", x, gamma_0, levels, Draws(1), range(50), 0, 1).z
    e = ((z - alpha(gamma_0) * x) / sigma(gamma_0)).flatten().numpy()
    limit = tau(levels, gamma_0)
    assert stats.kstest(e, stats.truncnorm(-limit, limit).cdf).pvalue > 1e-3


@given(
    levels=st.sampled_from([2, 17, 256]),
    gamma_0=st.floats(-14, -3),
    uniforms=st.lists(st.floats(0, 0.9999999), min_size=4, max_size=4),
)
def test_the_correction_of_a_draw_is_minus_its_log_density(levels, gamma_0, uniforms):
    x = torch.tensor([[0.25, -0.5]], dtype=torch.float64).expand(2, 2)
    u = torch.tensor(uniforms, dtype=torch.float64).reshape(2, 2)
    point = truncated_normal(x, gamma_0, levels, u, closed_form=False)
    limit, scale = tau(levels, gamma_0), sigma(gamma_0)
    standard = ((point.z - alpha(gamma_0) * x) / scale).clamp(-limit, limit)  # z carries rounding at the bin's edge
    exact = torch.from_numpy(stats.truncnorm(-limit, limit).logpdf(standard.numpy())) - math.log(scale)
    torch.testing.assert_close(point.correction, -exact.sum(1), rtol=1e-7, atol=1e-7)


@given(levels=st.sampled_from([2, 17, 256]), gamma_0=st.floats(-14, -3), uniform=st.floats(0.0, 0.9999999))
def test_a_truncated_normal_draw_is_the_quantile_of_its_uniform(levels, gamma_0, uniform):
    x = torch.zeros(1, 1, dtype=torch.float64)
    z = truncated_normal(x, gamma_0, levels, torch.full((1, 1), uniform, dtype=torch.float64), True).z
    limit = tau(levels, gamma_0)
    assert float(z) / sigma(gamma_0) == pytest.approx(stats.truncnorm(-limit, limit).ppf(uniform), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("levels", "gamma_0"), CASES)
def test_the_closed_entropy_of_one_sample_is_the_mean_of_minus_log_density(oracles, levels, gamma_0):
    x, n = oracles.images(1, (10,), levels).expand(4000, 10), 4000
    closed = dequantize("truncated_normal", x, gamma_0, levels, Draws(2), range(n), 0, 1).correction
    drawn = dequantize("truncated_normal", x, gamma_0, levels, Draws(2), range(n), 0, 2).correction
    assert bool((closed == closed[0]).all())
    assert float(closed[0]) == pytest.approx(float(drawn.mean()), abs=4 * float(drawn.std()) / math.sqrt(n))
    limit = tau(levels, gamma_0)
    assert float(closed[0]) == pytest.approx(10 * (stats.truncnorm(-limit, limit).entropy() + math.log(sigma(gamma_0))), rel=1e-9)


@pytest.mark.parametrize("levels", [17, 256])
def test_uniform_dequantization_is_the_published_formula(oracles, gaussian, levels):
    """Bits/dim are -log2 p(z_0)/D - log2 alpha_0 + log2(L/2) at the z_0 that was drawn."""
    bounds, recorder = GammaInterval(-11.8, 5.0), oracles.Recorder(gaussian)
    solver = snrouter.ODE("rk4", steps=150)
    x = oracles.images(3, levels=levels)
    arguments = {"dequantization": "uniform", "levels": levels, "solver": solver, "divergence": "exact"}
    estimate = snrouter.bits_per_dim(recorder, x, bounds, **arguments)
    log_p = oracles.bits(gaussian.model_log_density(recorder.z[0], bounds), 6)
    wanted = -log_p - math.log2(alpha(-11.8)) + math.log2(levels / 2)
    torch.testing.assert_close(estimate.values, wanted, rtol=0, atol=1e-5)
    assert float(estimate.terms["dequantization"].values[0]) == pytest.approx(-math.log2(alpha(-11.8)) + math.log2(levels / 2))


def test_continuous_data_is_only_scaled(oracles):
    x = oracles.images(3) * 5
    point = dequantize("none", x, -6.0, 256, Draws(0), range(3), 0, 1)
    torch.testing.assert_close(point.z, alpha(-6.0) * x)
    torch.testing.assert_close(point.correction, torch.full((3,), 6 * math.log(alpha(-6.0)), dtype=torch.float64))


def test_each_draw_number_is_another_draw_and_none_depends_on_the_batch(oracles):
    x = oracles.images(64, levels=17)

    def draw(rows, number):
        return dequantize("truncated_normal", x[rows], -7.86, 17, Draws(3), rows, number, 1).z

    whole = draw(range(64), 0)
    for size in (1, 7):
        assert torch.equal(torch.cat([draw(range(i, min(i + size, 64)), 0) for i in range(0, 64, size)]), whole)
    assert float((whole == draw(range(64), 1)).double().mean()) < 0.01


class TestImportanceSamples:
    """A diagonal Gaussian of two pixels: the exact probability of a level is a difference of two normal cdfs in each."""

    solver = snrouter.ODE("rk4", steps=24)

    def problem(self, levels: int) -> tuple[Gaussian, GammaInterval]:
        bounds = GammaInterval(-7.86 if levels == 17 else -13.3, 5.0)
        # about one bin wide, so that the density varies across a bin
        spread = torch.tensor([1.2 / levels, 2.0 / levels], dtype=torch.float64)
        return Gaussian(torch.tensor([0.02, -0.3], dtype=torch.float64), torch.diag(spread**2)), bounds

    def exact(self, oracle: Gaussian, bounds: GammaInterval, x: torch.Tensor, levels: int) -> torch.Tensor:
        """Bits/dim of the levels themselves, under the model pulled back from N(0, sigma_max^2 I)."""
        slope = (oracle._variance(bounds[0]) / oracle._variance(bounds[1])).sqrt()
        slope = slope[oracle.eigenvectors.abs().argmax(1)]
        centre = alpha(bounds[0]) * oracle.mean - slope * alpha(bounds[1]) * oracle.mean
        model = torch.distributions.Normal(centre, slope * sigma(bounds[1]))
        mass = model.cdf(alpha(bounds[0]) * (x + 1 / levels)) - model.cdf(alpha(bounds[0]) * (x - 1 / levels))
        return -mass.log().sum(1) / (2 * math.log(2))

    def images(self, oracle: Gaussian, oracles, levels: int, n: int) -> torch.Tensor:
        return from_levels(to_levels(oracles.draw(oracle, n), levels), levels, torch.float64)

    @pytest.mark.parametrize(
        ("levels", "method", "left"), [(17, "truncated_normal", 0.4), (256, "truncated_normal", 0.4), (17, "uniform", 0.1)]
    )
    def test_more_samples_are_tighter_on_average_and_never_below_the_truth(self, oracles, levels, method, left):
        """Paired on common images: each K's bound is at or above the exact probability, and K = 16 leaves little of K = 1's gap."""
        oracle, bounds = self.problem(levels)
        x = self.images(oracle, oracles, levels, 300)
        truth, values = self.exact(oracle, bounds, x, levels), {}
        for k in (1, 4, 16):
            estimate = snrouter.bits_per_dim(
                oracle, x, bounds, "ode", method, levels=levels, solver=self.solver, divergence="exact", importance_samples=k
            )
            values[k] = estimate.values
            assert estimate.protocol["importance_samples"] == k
            assert not estimate.protocol["biased"]

        def mean_and_error(difference: torch.Tensor) -> tuple[float, float]:
            return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))

        gaps = {k: mean_and_error(value - truth) for k, value in values.items()}
        assert all(gap > -3 * error for gap, error in gaps.values())
        assert gaps[16][0] < left * gaps[1][0]
        for fewer, more in ((1, 4), (4, 16), (1, 16)):
            gain, error = mean_and_error(values[fewer] - values[more])
            assert gain > -3 * error
        assert gain > 3 * error

    def test_their_terms_add_up(self, oracles, gaussian):
        estimate = snrouter.bits_per_dim(
            gaussian, oracles.images(4), (-8.0, 4.0), solver=self.solver, divergence="exact", importance_samples=5
        )
        assert set(estimate.terms) == {"prior", "divergence", "dequantization", "importance"}
        torch.testing.assert_close(sum(term.values for term in estimate.terms.values()), estimate.values)
        assert estimate.nfe == 5 * 24 * 4

    @pytest.mark.parametrize(
        ("k", "divergence", "biased"), [(1, "hutchinson", False), (2, "hutchinson", True), (1, "exact", False), (2, "exact", False)]
    )
    def test_the_protocol_says_when_hutchinson_noise_in_the_exponent_makes_it_no_bound(
        self, oracles, gaussian, k, divergence, biased
    ):
        estimate = snrouter.bits_per_dim(
            gaussian, oracles.images(2), (-8.0, 4.0), solver=self.solver, divergence=divergence, importance_samples=k
        )
        assert estimate.protocol["biased"] is biased


@pytest.mark.parametrize("estimator", ["ode", "vlb"])
def test_an_unknown_dequantization_is_refused(oracles, gaussian, estimator):
    with pytest.raises(SpecError, match="dequantization: expected truncated_normal, uniform, none, got 'gaussian'"):
        snrouter.bits_per_dim(gaussian, oracles.images(1), (-8.0, 4.0), estimator, "gaussian")
