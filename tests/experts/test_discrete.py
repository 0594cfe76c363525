"""The discrete expert: against forty digits, an oracle, its own identities; in bounds, flows and likelihoods; from specs."""

import math
from decimal import Decimal, getcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import snrouter
from snrouter import evaluation, spec
from snrouter.data.base import from_levels
from snrouter.data.digits import digits
from snrouter.errors import SnrouterError, SpecError
from snrouter.experts import discrete as module
from snrouter.experts.discrete import Discrete
from snrouter.experts.gaussian import gaussian
from snrouter.experts.gaussian_mixture import GaussianMixture
from snrouter.gamma import alpha, edm_sigma, sigma
from snrouter.metrics.likelihood.vlb import reconstruction
from snrouter.solvers.base import drift

getcontext().prec = 40
log = cache(lambda count: Decimal(count).ln())
GAMMAS = (-20.0, -13.3, -10.0, -8.0, -4.0, 0.0, 5.0)


def skewed(levels: int, channels: int = 1) -> Tensor:
    """Counts with empty levels, and others of a million."""
    at = torch.arange(channels * levels).reshape(channels, levels)
    return torch.where(at % 3 == 1, 0, 1 + 999_999 * (at % 5 == 0))


def noisy(gamma: float, levels: int, dtype: torch.dtype) -> Tensor:
    """States [1, n] of pixels on levels with noise, midway between levels, and beyond the ends."""
    draw = torch.Generator().manual_seed(int(-10 * gamma))
    level = torch.randint(levels, (6,), generator=draw)
    noise = torch.tensor([0.0, 0.3, -1.0, 2.5, -4.0, 6.0], dtype=torch.float64)
    x = from_levels(level, levels, torch.float64)
    between = from_levels(torch.tensor([0, levels // 2]), levels, torch.float64) + 1 / levels
    x = torch.cat([x + edm_sigma(gamma) * noise, between, torch.tensor([-1.3, 1.01, 0.0])])
    return (alpha(gamma) * x).to(dtype)[None]


def in_forty_digits(z: float, gamma: float, levels: int, counts: list[int] | None) -> tuple[float, float]:
    """Noise and image by the sum over all levels."""
    s, al = (Decimal(gamma) / 2).exp(), (1 + Decimal(gamma).exp()) ** Decimal("-0.5")
    y = Decimal(z) / al
    centres = [Decimal(2 * k + 1) / levels - 1 for k in range(levels)]
    logits = [-(((y - c) / s) ** 2) / 2 + (log(counts[k] + 1) if counts else 0) for k, c in enumerate(centres)]
    weights = [(logit - max(logits)).exp() for logit in logits]
    x = sum(w * c for w, c in zip(weights, centres, strict=True)) / sum(weights)
    return float((y - x) / s), float(x)


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("prior", ["uniform", "counted"])
def test_noise_and_image_are_the_posterior_means_to_the_last_digits_of_the_state(levels, prior):
    counts = None if prior == "uniform" else skewed(levels)[0]
    expert = Discrete(levels, counts)
    for gamma in GAMMAS:
        for dtype, rounding in ((torch.float32, 2**-23), (torch.float64, 1e-12)):
            z = noisy(gamma, levels, dtype).requires_grad_()
            got = expert(z, gamma)
            told = None if counts is None else counts.tolist()
            wanted = torch.tensor([in_forty_digits(v, gamma, levels, told) for v in z[0].tolist()], dtype=torch.float64)
            for output, truth in zip(got[:2], wanted.T, strict=True):
                assert output.dtype == dtype
                (slope,) = torch.autograd.grad(output.sum(), z, retain_graph=True)
                allowed = (
                    rounding * truth.abs() + 1e-13 + 1e-15 * slope[0].double().abs()
                )  # and that of z in float64, however steep
                off = (output[0].double() - truth).abs()
                assert bool((off <= allowed).all()), f"{gamma} {dtype}: {off} of {truth}"


def test_it_is_the_mixture_of_points_and_so_is_its_derivative():
    counts = skewed(17, 3)
    means = from_levels(torch.arange(17), 17, torch.float64)[:, None, None].expand(17, 3, 2)
    weights = (counts.T + 1.0)[:, :, None].expand(17, 3, 2)
    oracle = GaussianMixture(weights, means, torch.zeros(17, 3, 2))
    z = torch.randn(9, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gamma = torch.linspace(-8, 3, 9, dtype=torch.float64)  # one an image: each its own
    z.requires_grad_()
    for output in ("eps_hat", "x_hat"):
        one, other = (getattr(expert(z, gamma), output) for expert in (Discrete(17, counts), oracle))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (one, other)]
        torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-7)


def test_a_window_of_levels_and_chunks_of_pixels_change_nothing(monkeypatch):
    expert = Discrete(256, skewed(256, 3))
    z = 0.7 * torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gamma = torch.tensor([-20.0, -13.0, -9.0, -7.0], dtype=torch.float64)
    alone = [expert(z[i : i + 1], float(gamma[i])) for i in range(4)]
    at_once = expert(torch.cat([z, z[:1]]), torch.cat([gamma, torch.tensor([20.0], dtype=torch.float64)]))  # all levels, for all
    monkeypatch.setattr(module, "CHUNK", 1000)
    chunked = expert(z, gamma)
    for output in (0, 1):
        separate = torch.cat([prediction[output] for prediction in alone])
        torch.testing.assert_close(separate, at_once[output][:4], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(separate, chunked[output], rtol=1e-10, atol=1e-10)


def test_a_window_holds_a_far_level_that_one_channels_prior_makes_likely():
    """Beyond the window of an even prior, which is that of the other channel."""
    counts, gamma, distance = torch.zeros(2, 256, dtype=torch.int64), -9.0, 14
    counts[1, 100] = 2**62
    y = from_levels(torch.full((1, 2, 1), 100 + distance), 256, torch.float64)
    means = from_levels(torch.arange(256), 256, torch.float64)[:, None, None].expand(256, 2, 1)
    oracle = GaussianMixture((counts.T + 1.0)[:, :, None], means, torch.zeros(256, 2, 1))
    got, wanted = (expert(alpha(gamma) * y, gamma).x_hat for expert in (Discrete(256, counts), oracle))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert float((got - y)[0, 1, 0]) < -1e-4
    assert Discrete(256)._window(gamma) < 2 * distance


def test_what_is_no_number_stays_none():
    z = torch.full((1, 3, 2, 2), torch.nan)
    for expert in (Discrete(256), Discrete(256, skewed(256, 3))):
        assert bool(expert(z, -13.0).eps_hat.isnan().all())


def test_float32_weights_keep_the_prior_and_states_the_dtype():
    counts = skewed(17)
    z = noisy(-6.0, 17, torch.float32)
    kept = Discrete(17, counts).to(torch.float32)(z, -6.0)
    assert torch.equal(kept.x_hat, Discrete(17, counts)(z.double(), -6.0).x_hat.float())


@pytest.mark.parametrize("level", [0, 2, 3])
def test_half_the_integral_of_its_error_is_the_change_of_the_reconstruction_term(level):
    expert, levels, lo, hi = Discrete(7), 7, -7.0, 1.5
    x = from_levels(torch.tensor([level]), levels, torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    noise, mass = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    times, widths = np.polynomial.legendre.leggauss(60)
    area = 0.0
    for t, width in zip(times, widths, strict=True):
        gamma = lo + (hi - lo) * (t + 1) / 2
        eps_hat = expert.eps_hat((alpha(gamma) * x + sigma(gamma) * noise)[:, None], gamma)[:, 0]
        area += (hi - lo) / 2 * width * 0.5 * float(mass @ (noise - eps_hat) ** 2)
    terms = [reconstruction(x.expand(200, 1), gamma, levels, noise[:, None]) for gamma in (lo, hi)]
    assert area == pytest.approx(float(mass @ (terms[1] - terms[0])), rel=1e-6)
    assert area > 0.5


def test_over_the_whole_axis_the_bound_is_the_entropy_of_its_prior():
    images = digits("test").images(range(40))
    counts = digits("train").level_histogram()
    level = ((images.double() + 1) * 17 / 2 - 0.5).round().long().flatten(1)
    cross = -((counts[0] + 1.0) / (counts[0] + 1.0).sum()).log2()[level].mean(1)
    for expert, wanted in ((Discrete(17), math.log2(17) * torch.ones(40)), (Discrete(17, counts), cross)):
        estimate = snrouter.bits_per_dim(expert, images, (-9.0, 12.0), "vlb", levels=17, times=64)
        assert float((estimate.values - wanted).mean()) == pytest.approx(0, abs=5 * estimate.standard_error)
        assert estimate.standard_error < 0.05
        assert estimate.nfe == 0
        assert not estimate.nfe_per_expert


def points(levels: int, dim: int) -> GaussianMixture:
    """The oracle of the same data."""
    means = from_levels(torch.arange(levels), levels, torch.float64)[:, None].expand(levels, dim)
    return GaussianMixture(torch.ones(levels, dim), means, torch.zeros(levels, dim))


def test_a_route_with_it_follows_both_flows():
    above, levels = gaussian([0.1], [0.5], shape=(3,)), 5
    route = snrouter.merge({"discrete": Discrete(levels), "above": above}, snrouter.Threshold("discrete", "above", -2.0))
    z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = points(levels, 3).flow(above.flow(z, 5.0, -2.0), -2.0, -6.0)
    solved = snrouter.ODE(rtol=1e-8, atol=1e-8).solve(route, z, (-6.0, 5.0))
    torch.testing.assert_close(solved.z, exact, rtol=0, atol=1e-6)
    assert set(solved.nfe_per_expert) == {"above"}
    assert solved.nfe == solved.nfe_per_expert["above"] > 0
    step = 1e-4
    slope = (points(levels, 3).flow(z, -2.0, -2.0 + step) - z) / step
    torch.testing.assert_close(slope, drift(z, -2.0, Discrete(levels).eps_hat(z, -2.0)), rtol=1e-3, atol=1e-3)


def test_its_exact_likelihood_is_the_mixtures_and_one_probe_gives_its_divergence():
    x, bounds = from_levels(torch.tensor([[0, 3, 4], [2, 2, 1]]), 5, torch.float64), (-4.0, 9.0)
    solver = snrouter.ODE(rtol=1e-9, atol=1e-9)
    told = {"dequantization": "none", "levels": 5, "solver": solver}
    exact = snrouter.bits_per_dim(Discrete(5), x, bounds, divergence="exact", **told)
    density = points(5, 3).log_density(alpha(-4.0) * x, -4.0) / 3 / math.log(2) + math.log2(alpha(-4.0))
    torch.testing.assert_close(exact.values, -density, rtol=0, atol=1e-3)  # but for the marginal at gamma_max, no Gaussian
    probed = snrouter.bits_per_dim(Discrete(5), x, bounds, divergence="hutchinson", **told)
    torch.testing.assert_close(probed.values, exact.values, rtol=0, atol=1e-7)  # its Jacobian is diagonal
    assert exact.nfe == 0


# --- faults, specs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "counts", "message"),
    [
        (1, None, "levels: expected at least 2, got 1"),
        (
            4,
            torch.ones(2, 5, dtype=torch.int64),
            r"counts: expected whole numbers \[4\] or \[C, 4\] of at least 0, got torch.int64 \[2, 5\]",
        ),
        (4, torch.ones(4), r"counts: .* got torch.float32 \[4\]"),
        (2, torch.tensor([3, -1]), "of at least 0"),
    ],
)
def test_levels_and_counts_that_are_none_are_refused(levels, counts, message):
    with pytest.raises(SpecError, match=message):
        Discrete(levels, counts)


def test_a_prior_of_other_channels_is_refused():
    with pytest.raises(SpecError, match=r"'discrete': its prior is of images with 3 channels, it was asked for \[1, 8, 8\]"):
        Discrete(17, skewed(17, 3))(torch.zeros(2, 1, 8, 8), -5.0)
    assert Discrete(17, skewed(17, 1))(torch.zeros(2, 3, 8, 8), -5.0).x_hat.shape == (2, 3, 8, 8)  # one histogram serves all


SPEC = """
experts:
  discrete: {type: discrete, levels: 17}
  above: {type: gaussian, mean: [0.0], standard_deviation: [0.6], shape: [1, 8, 8]}
route: {type: threshold, low: discrete, high: above, switch: -3}
interval: {gamma_min: -7.86, gamma_max: 5.0}
data: {type: digits, split: test}
reference: {type: digits, split: train}
evaluate: [{metric: bpd, estimator: vlb, times: 4, images: 8}]
"""


@pytest.fixture
def load(tmp_path: Path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return lambda *overrides: spec.load(path, overrides)


def test_a_marginal_prior_is_the_references_histogram(load):
    assert load().expert("discrete").counts is None
    assert load("experts.discrete={type: discrete}").expert("discrete").levels == 17
    expert = load("experts.discrete.prior=marginal").expert("discrete")
    assert torch.equal(expert.counts, digits("train").level_histogram())
    assert expert.counts.sum() == 1397 * 64


def test_what_it_is_made_from_is_in_its_identity(load):
    def identity(*overrides: str) -> dict:
        return evaluation.Worker([evaluation.own_route(load("experts.discrete.prior=marginal", *overrides))]).identities

    other = identity("reference.split=test")
    assert identity()["discrete"]["reference"] == digits("train").content_hash()
    assert identity()["discrete"] != other["discrete"]
    assert identity()["above"] == other["above"]
    assert "reference" not in identity("reference=null")["discrete"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experts.discrete.prior=marginal", "reference=null"], "--set experts.discrete: expert 'discrete': its prior would be the reference's, and there is none; add reference"),
        (["experts.discrete.prior=marginal", "experts.discrete.levels=256"], "levels: expected those of the reference digits/train, which has 17 levels; got 256"),
        (["experts.discrete.levels=1"], "levels: expected at least 2, got 1"),
        (["experts.discrete.prior=flat"], r"experts.discrete.prior: input should be 'uniform' or 'marginal', got 'flat'"),
        (["experts.discrete.levels=null", "reference=null"], "its levels would be the reference's, and there is none"),
        (["experts.discrete.levels=few"], "experts.discrete.levels: input should be a valid integer, .*got 'few'"),
        (["experts.discrete.reference=digits"], "experts.discrete.reference: unknown key; known: levels, prior, support, allow_extrapolation"),
    ],
)  # fmt: skip
def test_faults_in_a_spec_are_one_line(load, overrides, message):
    with pytest.raises(SnrouterError, match=message) as caught:
        load(*overrides).expert("discrete")
    assert "\n" not in str(caught.value)


def test_continuous_pixels_are_no_prior():
    images = SimpleNamespace(name="smooth", levels=None)
    with pytest.raises(SpecError, match="levels: expected those of the reference smooth, which has continuous pixels; got 17"):
        snrouter.load_expert("discrete", levels=17, prior="marginal", reference=lambda: images)


def test_a_route_of_it_alone_makes_no_network_call(load, tmp_path):
    document = load("route={type: single, expert: discrete}", "evaluate.0.times=16", "interval.gamma_max=12")
    (row,) = evaluation.run(document, tmp_path / "run", progress=False).rows
    assert row["value"] == pytest.approx(math.log2(17), abs=4 * row["standard_error"])
    assert row.get("nfe", 0) == 0
