"""The exact-ODE likelihood equals the closed forms: of the model, that is, whose prior is N(0, sigma_max^2 I)."""

import math

import pytest
import torch

import snrouter
from snrouter.gamma import GammaInterval, alpha, sigma

BOUNDS = GammaInterval(-13.3, 5.0)
TIGHT = snrouter.ODE(rtol=1e-9, atol=1e-9)


def log_prior(z: torch.Tensor, gamma_max: float) -> torch.Tensor:
    return torch.distributions.Normal(torch.zeros_like(z), sigma(gamma_max)).log_prob(z).flatten(1).sum(1)


def closed_form(oracle, x: torch.Tensor, bounds: GammaInterval) -> torch.Tensor:
    """Log-density in nats [B] of continuous images x, under the oracle's exact flow from N(0, sigma_max^2 I)."""
    z = alpha(bounds.gamma_min) * x
    if hasattr(oracle, "model_log_density"):
        log_p = oracle.model_log_density(z, bounds)
    else:
        end = oracle.flow(z, *bounds)
        log_p = log_prior(end, bounds.gamma_max) + oracle.log_density(z, bounds[0]) - oracle.log_density(end, bounds[1])
    return log_p + x[0].numel() * math.log(alpha(bounds.gamma_min))


@pytest.mark.parametrize(("kind", "shape", "n"), [("gaussian", (6,), 4), ("mixture", (6,), 4), ("mixture", (3, 8, 8), 2)], ids=str)
def test_exact_divergence_gives_the_closed_form_within_1e_6_bits_per_dim(oracles, kind, shape, n):
    oracle, x = getattr(oracles, kind)(shape), oracles.images(n, shape)
    estimate = snrouter.bits_per_dim(oracle, x, BOUNDS, dequantization="none", solver=TIGHT, divergence="exact")
    wanted = -oracles.bits(closed_form(oracle, x, BOUNDS), math.prod(shape))
    assert float((estimate.values - wanted).abs().max()) < 1e-6
    assert estimate.value == pytest.approx(float(wanted.mean()), abs=1e-6)
    assert sum(term.value for term in estimate.terms.values()) == pytest.approx(estimate.value, abs=1e-12)


def test_the_exact_trace_is_taken_in_chunks_without_loss(oracles):
    """D = 70 is two chunks of at most 64: the second is where an offset would show."""
    oracle = oracles.gaussian((70,))
    x = oracles.draw(oracle, 2)
    solver, bounds = snrouter.ODE("rk4", steps=100), GammaInterval(-6.0, 3.0)
    estimate = snrouter.bits_per_dim(oracle, x, bounds, dequantization="none", solver=solver, divergence="exact")
    wanted = -oracles.bits(closed_form(oracle, x, bounds), 70)
    assert float((estimate.values - wanted).abs().max()) < 1e-6


SMOOTH = snrouter.ODE("rk4", steps=12)


def exact_and_probed(oracle, x, **options):
    """Same images, same path, so that only the probe differs."""
    arguments = {"dequantization": "none", "solver": SMOOTH}
    exact = snrouter.bits_per_dim(oracle, x, (-8.0, 4.0), divergence="exact", **arguments)
    return exact, snrouter.bits_per_dim(oracle, x, (-8.0, 4.0), **arguments, **options)


@pytest.mark.parametrize(("kind", "noise"), [("gaussian", "rademacher"), ("gaussian", "gaussian"), ("mixture", "gaussian")])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hutchinson_is_within_three_of_its_standard_errors_of_the_exact_divergence(oracles, kind, noise, seed):
    """Eight probes of each of 16 images give the error of the probes alone."""
    oracle, x = getattr(oracles, kind)(), oracles.images(16)
    exact, probed = exact_and_probed(oracle, x, probe_noise=noise, repeats=8, seed=seed)
    assert set(probed.parts) == {"data", "probe"}
    assert 0 < probed.parts["probe"] < (0.05 if noise == "rademacher" else 0.5)
    assert abs(probed.value - exact.value) < 3 * probed.parts["probe"]
    assert float((probed.values - exact.values).abs().max()) > 0


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian(oracles, mixture):
    exact, probed = exact_and_probed(mixture, oracles.images(4), repeats=2)
    torch.testing.assert_close(probed.values, exact.values, rtol=1e-10, atol=1e-10)
    assert probed.parts["probe"] < 1e-12


def test_more_probes_an_image_are_their_mean_and_their_error_falls(oracles, gaussian):
    """The Jacobian of this oracle commutes with itself over gamma: p probes are the mean of p single probes, draw by draw."""
    x = oracles.images(32)
    _, four = exact_and_probed(gaussian, x, probes=4)
    _, single = exact_and_probed(gaussian, x, probes=1, repeats=4)  # probe draws 0 to 3, as above
    torch.testing.assert_close(four.values, single.values, rtol=1e-10, atol=1e-10)
    spread = [exact_and_probed(gaussian, x, probes=p, repeats=8)[1].parts["probe"] for p in (1, 4)]
    assert spread[1] == pytest.approx(spread[0] / 2, rel=0.2)


def test_hutchinson_costs_one_call_a_step_and_so_does_the_exact_divergence(oracles, pair):
    merged = snrouter.merge(pair, snrouter.Threshold("low", "high", -2.0))
    for divergence in ("hutchinson", "exact"):
        estimate = snrouter.bits_per_dim(merged, oracles.images(2), (-8.0, 4.0), solver=SMOOTH, divergence=divergence)
        assert estimate.nfe == 48
        assert estimate.nfe_per_expert == {"low": 24, "high": 24}


def test_the_integral_may_start_at_its_own_gamma(oracles, gaussian):
    x = oracles.images(3)
    moved, plain = (
        snrouter.bits_per_dim(gaussian, x, bounds, dequantization="uniform", solver=SMOOTH, gamma_0=gamma_0, divergence="exact")
        for bounds, gamma_0 in (((-8.0, 4.0), -6.0), ((-6.0, 4.0), None))
    )
    assert torch.equal(moved.values, plain.values)
    assert moved.protocol["gamma_min"] == -6.0


def test_a_route_and_its_switch_change_nothing_for_an_expert_of_another_parameterization(oracles, gaussian):
    """The low-noise half by the oracle itself, the high-noise half by the same oracle as an EDM network."""
    merged = snrouter.merge({"low": gaussian, "high": oracles.wrapped(gaussian, "edm")}, snrouter.Threshold("low", "high", -3.0))
    x = oracles.images(4)
    estimate = snrouter.bits_per_dim(merged, x, BOUNDS, dequantization="none", solver=TIGHT, divergence="exact")
    wanted = -oracles.bits(closed_form(gaussian, x, BOUNDS), 6)
    assert float((estimate.values - wanted).abs().max()) < 1e-6


def test_likelihoods_of_several_routes_are_those_of_each_alone(oracles, gaussian):
    """In every bit, draw by draw; the low-noise stretch that they have in common is integrated once."""
    experts = {"low": gaussian, "high": oracles.gaussian(seed=3)}
    routes = {f"{g}": snrouter.merge(experts, snrouter.Threshold(low="low", high="high", switch=g)) for g in (-2.1, 0.4)}
    x, options = oracles.draw(gaussian, 3), {"solver": snrouter.ODE(rtol=1e-3, atol=1e-3), "levels": 8, "repeats": 2}
    images = ((x.clamp(-0.99, 0.99) + 1) * 4).floor() / 4 - 0.875
    together = snrouter.bits_per_dim(routes, images, (-6.0, 3.0), importance_samples=2, **options)
    for label, route in routes.items():
        alone = snrouter.bits_per_dim(route, images, (-6.0, 3.0), importance_samples=2, **options)
        assert torch.equal(together[label].values, alone.values)
        assert torch.equal(together[label].repeated, alone.repeated)
        assert together[label].nfe == alone.nfe == alone.spent
    spent = [estimate.spent for estimate in together.values()]
    assert sum(spent) < 0.9 * sum(estimate.nfe for estimate in together.values())
