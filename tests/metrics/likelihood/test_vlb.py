"""The variational bound: its terms against closed forms and brute force, and the bound itself against the true likelihood."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import snrouter
from snrouter.errors import SpecError
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import GammaInterval, alpha, edm_sigma, sigma
from snrouter.metrics.likelihood.vlb import prior, reconstruction

BOUNDS = GammaInterval(-12.0, 5.0)


@pytest.fixture(scope="module")
def data(oracles, gaussian) -> torch.Tensor:
    return oracles.draw(gaussian, 400)


def remainder(oracle: Gaussian, bounds: GammaInterval) -> float:
    """What the bound of an exact denoiser exceeds the data's own negative log-likelihood by, in bits/dim, on average over data.

    Continuous times leave two terms: the prior's mismatch, KL(q(z_1) || N(0, sigma_max^2 I)), and the reconstruction model's, the
    mean KL(q(x | z_0) || N(x; z_0/alpha_0, edm_sigma_0^2)) = 1/2 log(1 + edm_sigma_0^2 / lambda) in each eigen-direction.
    """
    start, end = (edm_sigma(gamma) ** 2 for gamma in bounds)
    spread, mean = oracle.eigenvalues, oracle.mean.flatten() @ oracle.eigenvectors
    mismatch = 0.5 * (spread / end + mean**2 / end - (1 + spread / end).log()).sum()
    model = 0.5 * (1 + start / spread).log().sum()
    return float(mismatch + model) / (len(spread) * math.log(2))


@pytest.mark.parametrize("bounds", [GammaInterval(-13.3, 5.0), GammaInterval(-9.0, 6.0)])
def test_the_bound_of_an_exact_denoiser_is_above_the_true_likelihood_by_the_closed_remainder(oracles, gaussian, data, bounds):
    """At most 0.01 bits/dim above, for prior mismatch and reconstruction model: see `remainder`.

    The noise of the estimate itself is 0.02 bits/dim here. It is taken off by control variates of mean zero: the diffusion's squares
    and cross terms in the noise, read off the states the denoiser was asked at, and the reconstruction's half square.
    """
    recorder, data, times = oracles.Recorder(gaussian), data[:200], 1024
    bound = snrouter.bits_per_dim(recorder, data, bounds, "vlb", "none", times=times)
    # p(x) itself: the noisy marginal, without the noise
    truth = -oracles.bits(Gaussian(gaussian.mean, covariance(gaussian)).log_density(data, -60.0), 6)
    raw = bound.values - truth
    noise_of_diffusion = torch.zeros(len(data), dtype=torch.float64)
    for z, gamma in zip(recorder.z, recorder.gamma, strict=True):
        al, si = alpha(gamma)[:, None], sigma(gamma)[:, None]
        e, d = ((z - al * data) / si) @ gaussian.eigenvectors, (data - gaussian.mean) @ gaussian.eigenvectors
        variance = al**2 * gaussian.eigenvalues + si**2
        a, b = al**2 * gaussian.eigenvalues / variance, al * si / variance  # eps - eps_hat = a e - b d
        noise_of_diffusion += 0.5 * bounds.length / times * (a**2 * (e**2 - 1) - 2 * a * b * e * d).sum(1)
    expected = (0.5 + math.log(edm_sigma(bounds.gamma_min) * math.sqrt(2 * math.pi))) / math.log(2)
    gap = raw - oracles.bits(noise_of_diffusion, 6) - (bound.terms["reconstruction"].values - expected)
    wanted = remainder(gaussian, bounds)
    assert 0 < wanted < 0.01
    for values, smallest in ((gap, 0.0), (raw, 0.01)):
        error = float(values.std()) / math.sqrt(len(values))
        assert float(values.mean()) == pytest.approx(wanted, abs=3 * error)
        assert error > smallest
    assert 0 <= float(gap.mean()) < 0.01
    assert float(gap.std()) / math.sqrt(len(gap)) < 0.0004


def covariance(oracle: Gaussian) -> torch.Tensor:
    return oracle.eigenvectors @ torch.diag(oracle.eigenvalues) @ oracle.eigenvectors.T


def losses(oracle: Gaussian, gamma: np.ndarray) -> np.ndarray:
    """E |eps - eps_hat|^2 over data at gamma: the sum of lambda / (lambda + exp(gamma))."""
    spread = oracle.eigenvalues.numpy()
    return (spread / (spread + np.exp(gamma)[..., None])).sum(-1)


def test_the_finite_step_bound_decreases_to_the_continuous_one(oracles, gaussian, data):
    """On common noise, step by step; and each is its closed form over data: T/2 mean expm1(h) loss, or 1/2 of the integral."""
    to_bits = 1 / (6 * math.log(2))
    values, exact = [], []
    for steps in (4, 16, 64, 256, None):
        estimate = snrouter.bits_per_dim(gaussian, data, BOUNDS, "vlb", "none", times=64, steps=steps)
        term = estimate.terms["diffusion"]
        values.append(term.value)
        fine = 4096 if steps is None else steps
        nodes = np.array([BOUNDS.at(i / fine) for i in range(1, fine + 1)])
        h = BOUNDS.length / fine
        if steps is None:
            spread = gaussian.eigenvalues.numpy()
            each = (BOUNDS[1] - np.log(spread + np.exp(BOUNDS[1]))) - (BOUNDS[0] - np.log(spread + np.exp(BOUNDS[0])))
            exact.append(0.5 * each.sum() * to_bits)
        else:
            exact.append(0.5 * np.expm1(h) * losses(gaussian, nodes).sum() * to_bits)
        assert term.value == pytest.approx(exact[-1], abs=3.5 * term.standard_error)
    assert values == sorted(values, reverse=True)
    assert exact == sorted(exact, reverse=True)
    assert values[-2] - values[-1] == pytest.approx(exact[-2] - exact[-1], rel=0.1)


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("gamma_0", [-13.3, -7.86, -2.0])
def test_the_reconstruction_is_the_discretised_softmax_by_brute_force(oracles, levels, gamma_0):
    x = oracles.images(3, (2, 2), levels)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = reconstruction(x, gamma_0, levels, noise)
    s = edm_sigma(gamma_0)
    for image, e, value in zip(x, noise, got, strict=True):
        total = 0.0
        for pixel, n in zip(image.flatten().tolist(), e.flatten().tolist(), strict=True):
            centres = [(2 * k + 1) / levels - 1 for k in range(levels)]
            log_densities = [stats.norm.logpdf(pixel + s * n, centre, s) for centre in centres]
            own = min(range(levels), key=lambda k: abs(centres[k] - pixel))
            total -= log_densities[own] - np.logaddexp.reduce(log_densities)
        assert float(value) == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_the_reconstruction_of_continuous_data_is_a_normal_density(oracles):
    x, noise = oracles.images(3), torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = alpha(-6.0) * x + sigma(-6.0) * noise
    wanted = -torch.distributions.Normal(z / alpha(-6.0), edm_sigma(-6.0)).log_prob(x).sum(1)
    torch.testing.assert_close(reconstruction(x, -6.0, None, noise), wanted)


def test_the_prior_is_the_divergence_of_two_normals(oracles):
    x, spread = oracles.images(3), sigma(2.0)
    posterior, base = (torch.distributions.Normal(m, spread) for m in (alpha(2.0) * x, torch.zeros_like(x)))
    torch.testing.assert_close(prior(x, 2.0), torch.distributions.kl_divergence(posterior, base).sum(1))


def test_times_are_stratified_for_each_image_by_itself(oracles):
    """Each image has one time in each of m equal strata, all at one offset of its own; a shared offset would couple a batch."""
    recorder, m = oracles.Recorder(oracles.Linear()), 8
    snrouter.bits_per_dim(recorder, oracles.images(20), BOUNDS, "vlb", times=m)
    t = (torch.stack(recorder.gamma) - BOUNDS.gamma_min) / BOUNDS.length
    assert t.shape == (m, 20)
    assert torch.equal((t * m).floor(), torch.arange(m, dtype=torch.float64)[:, None].expand(m, 20))
    offsets = t * m - torch.arange(m)[:, None]
    assert float((offsets - offsets[0]).abs().max()) < 1e-9
    assert len(offsets[0].unique()) == 20
    assert stats.kstest(offsets[0].numpy(), "uniform").pvalue > 1e-3


def test_the_state_is_noised_to_the_gamma_that_is_asked(oracles):
    """Over many draws z has mean alpha x and variance sigma^2 at its gamma."""
    recorder, x, noises = oracles.Recorder(oracles.Linear()), oracles.images(2, (500,)), []
    snrouter.bits_per_dim(recorder, x, BOUNDS, "vlb", times=16, repeats=2)
    for z, gamma in zip(recorder.z, recorder.gamma, strict=True):
        noise = (z - alpha(gamma)[:, None] * x) / sigma(gamma)[:, None]
        assert float(noise.mean()) == pytest.approx(0, abs=5 / math.sqrt(1000))
        assert float(noise.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / 1000))
        noises.append(noise)
    assert len(noises) == 32  # of 16 times and 2 repeats, no two alike
    correlation = torch.stack(noises).flatten(1).corrcoef() - torch.eye(32)
    assert float(correlation.abs().max()) < 6 / math.sqrt(1000)


def test_finite_steps_ask_at_the_upper_end_of_each_step(oracles):
    recorder = oracles.Recorder(oracles.Linear())
    snrouter.bits_per_dim(recorder, oracles.images(3), BOUNDS, "vlb", times=12, steps=4)
    asked = torch.stack(recorder.gamma)
    assert sorted(set(asked.flatten().tolist())) == [BOUNDS.at(i / 4) for i in (1, 2, 3, 4)]
    assert torch.equal(asked[:, 0], torch.tensor([BOUNDS.at(i / 4) for i in (1, 2, 3, 4) for _ in range(3)], dtype=torch.float64))


def test_the_terms_add_up_and_are_reported_with_errors(oracles, gaussian):
    estimate = snrouter.bits_per_dim(gaussian, oracles.images(8), BOUNDS, "vlb", times=8)
    assert set(estimate.terms) == {"prior", "reconstruction", "diffusion"}
    torch.testing.assert_close(sum(term.values for term in estimate.terms.values()), estimate.values)
    assert all(term.standard_error > 0 for term in estimate.terms.values())
    assert estimate.nfe == 8
    said = {
        "estimator": "vlb",
        "gamma_min": -12.0,
        "gamma_max": 5.0,
        "levels": 256,
        "times": 8,
        "steps": None,
        "time_sampling": "stratified per image",
        "repeats": 1,
        "seed": 0,
    }
    assert said.items() <= estimate.protocol.items()


def test_repeats_split_the_error_into_data_and_noise(oracles, gaussian):
    estimate = snrouter.bits_per_dim(gaussian, oracles.images(16), BOUNDS, "vlb", times=4, repeats=6)
    assert set(estimate.parts) == {"data", "noise"}
    assert estimate.nfe == 24
    single = [snrouter.bits_per_dim(gaussian, oracles.images(16), BOUNDS, "vlb", times=4, seed=s).value for s in range(24)]
    assert estimate.parts["noise"] == pytest.approx(float(np.std(single, ddof=1)) / math.sqrt(6), rel=0.5)


@pytest.mark.parametrize("options", [{"times": 0}, {"steps": 0}])
def test_times_and_steps_below_one_are_refused(oracles, gaussian, options):
    with pytest.raises(SpecError, match="times and steps: expected at least 1"):
        snrouter.bits_per_dim(gaussian, oracles.images(1), BOUNDS, "vlb", **options)


def test_bounds_of_several_routes_are_those_of_each_alone(oracles, gaussian, data):
    """In every bit; what routes ask of an expert at the same rows it is asked once, and nothing else is left out."""
    experts = {"low": oracles.Recorder(gaussian), "high": oracles.Recorder(Gaussian(gaussian.mean + 0.1, covariance(gaussian)))}
    inner = snrouter.merge(experts, snrouter.Threshold(low="low", high="high", switch=-4.0))
    routes = {
        **{f"{g}": snrouter.merge(experts, snrouter.Threshold(low="low", high="high", switch=g)) for g in (-9.03, -4.0, 1.2)},
        "low": snrouter.merge(experts, snrouter.Single("low")),
        "high, low, high": snrouter.merge(
            experts,
            snrouter.Piecewise([snrouter.Stretch("high", -9.03), snrouter.Stretch("low", 1.2), snrouter.Stretch("high")]),
        ),
        "again": inner,
        "nested": snrouter.merge({"inner": inner}, snrouter.Single("inner")),
    }
    options = {"times": 16, "repeats": 2, "indices": range(3, 10)}

    def asked():
        rows = [(id(expert), len(z)) for expert in experts.values() for z in expert.z]
        for expert in experts.values():
            expert.z.clear(), expert.gamma.clear()
        return sum(count for _, count in rows)

    together = snrouter.bits_per_dim(routes, data[:7], BOUNDS, "vlb", "none", **options)
    made = asked()
    for label, route in routes.items():
        alone = snrouter.bits_per_dim(route, data[:7], BOUNDS, "vlb", "none", **options)
        assert asked() == 7 * 16 * 2
        assert torch.equal(together[label].values, alone.values), label
        assert all(torch.equal(term.values, alone.terms[name].values) for name, term in together[label].terms.items())
        assert together[label].nfe_per_expert == alone.nfe_per_expert
        assert alone.spent == together[label].nfe == 16 * 2
    assert made == pytest.approx(7 * sum(estimate.spent for estimate in together.values()))
    assert together["again"].spent == 0
    # the nested route is asked through another expert, so that it shares nothing; the others: both experts, and the three switches' cells
    assert made <= 7 * 2 * (16 + 2 * 16 + 2 * 3)
