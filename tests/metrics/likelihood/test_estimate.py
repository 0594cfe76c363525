"""Estimates: batch by batch equals one call, errors split as planted, and arguments that are refused."""

import math

import pytest
import torch

import snrouter
from snrouter.errors import DataError, NonFiniteError, SpecError, SupportError
from snrouter.experts.base import Expert, Prediction
from snrouter.gamma import alpha, interval, sigma
from snrouter.metrics.likelihood.estimate import Term, error_parts, standard_error

BOUNDS, N = (-8.0, 4.0), 64
RK4 = snrouter.ODE("rk4", steps=6)
PROTOCOLS = {
    "ode": {"estimator": "ode", "solver": RK4},
    "ode, two gaussian probes": {"estimator": "ode", "solver": RK4, "probes": 2, "probe_noise": "gaussian"},
    "ode, exact, K=3": {"estimator": "ode", "solver": RK4, "divergence": "exact", "importance_samples": 3},
    "ode, uniform": {"estimator": "ode", "solver": RK4, "dequantization": "uniform"},
    "ode, continuous, repeats": {"estimator": "ode", "solver": RK4, "dequantization": "none", "repeats": 2},
    "vlb": {"estimator": "vlb", "times": 6},
    "vlb, finite": {"estimator": "vlb", "times": 6, "steps": 4},
    "vlb, repeats": {"estimator": "vlb", "times": 3, "repeats": 2},
}


class Rolled(Expert):
    """eps_hat = z/2 shifted by one: element by element, with a Jacobian off the diagonal, whose probes add up exactly."""

    def __init__(self) -> None:
        super().__init__(interval((-20, 20)), "rolled")

    def predict(self, z, gamma, condition=None):
        al, si = (f(gamma).to(z)[:, None] for f in (alpha, sigma))
        eps = 0.5 * z.roll(1, 1)
        return Prediction(eps, (z - si * eps) / al, {"": len(z)})


@pytest.fixture(scope="module")
def merged(pair):
    return snrouter.merge(pair, snrouter.Threshold("low", "high", -1.3))


def in_parts(expert, images, size, **options):
    """Values and terms of calls batch by batch, put together."""
    parts = [
        snrouter.bits_per_dim(expert, images[i : i + size], BOUNDS, seed=2, indices=range(i, min(i + size, len(images))), **options)
        for i in range(0, len(images), size)
    ]
    terms = {name: torch.cat([part.terms[name].values for part in parts]) for name in parts[0].terms}
    return torch.cat([part.values for part in parts]), terms


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_batch_by_batch_calls_with_indices_equal_one_call(oracles, merged, name, size):
    images = oracles.images(16)
    whole = snrouter.bits_per_dim(merged, images, BOUNDS, seed=2, **PROTOCOLS[name])
    values, terms = in_parts(merged, images, size, **PROTOCOLS[name])
    torch.testing.assert_close(values, whole.values, rtol=1e-10, atol=1e-10)
    for key, term in whole.terms.items():
        torch.testing.assert_close(terms[key], term.values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("name", ["ode", "ode, two gaussian probes", "ode, uniform", "vlb"])
def test_dequantization_probes_and_times_are_the_same_bit_for_bit_for_any_batch(oracles, name, size):
    """The expert's arithmetic is element by element, so equal first states, divergences and gammas mean equal draws.

    The bound's states may differ in their last bit, by torch's vectorised square roots, and are compared to that.
    """
    images = oracles.images(N)
    recorder, whole_recorder = oracles.Recorder(Rolled()), oracles.Recorder(Rolled())
    _, terms = in_parts(recorder, images, size, **PROTOCOLS[name])
    whole = snrouter.bits_per_dim(whole_recorder, images, BOUNDS, seed=2, **PROTOCOLS[name])
    calls = len(whole_recorder.z)
    for call in range(calls):
        states, gammas = torch.cat(recorder.z[call::calls]), torch.cat(recorder.gamma[call::calls])
        assert torch.equal(gammas, whole_recorder.gamma[call])
        torch.testing.assert_close(states, whole_recorder.z[call], rtol=1e-15, atol=1e-15)
    if name != "vlb":
        assert torch.equal(torch.cat(recorder.z[::calls]), whole_recorder.z[0])
        assert torch.equal(terms["divergence"], whole.terms["divergence"].values)
        assert len(terms["divergence"].unique()) >= 3


def test_an_adaptive_solver_depends_on_the_batch_within_its_tolerance(oracles, merged):
    images, solver = oracles.images(8), snrouter.ODE(rtol=1e-6, atol=1e-6)
    whole = snrouter.bits_per_dim(merged, images, BOUNDS, seed=2, solver=solver)
    values, _ = in_parts(merged, images, 1, solver=solver)
    assert 0 < float((values - whole.values).abs().max()) < 1e-5
    assert whole.protocol["step_control"] == "one error norm a batch"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_two_runs_are_identical_bit_for_bit_and_another_seed_is_another_run(oracles, merged, name):
    images = oracles.images(3)
    one, two, other = (snrouter.bits_per_dim(merged, images, BOUNDS, seed=seed, **PROTOCOLS[name]) for seed in (2, 2, 3))
    assert torch.equal(one.values, two.values)
    assert not torch.equal(one.values, other.values)
    assert one.protocol == two.protocol


def test_an_estimate_carries_its_number_error_calls_and_protocol(oracles, merged):
    estimate = snrouter.bits_per_dim(merged, oracles.images(9), BOUNDS, solver=RK4, levels=256)
    assert estimate.value == pytest.approx(float(estimate.values.mean()))
    assert estimate.standard_error == pytest.approx(float(estimate.values.std()) / 3)
    assert estimate.nfe == sum(estimate.nfe_per_expert.values())
    assert estimate.parts is None
    said = {
        "estimator": "ode",
        "gamma_min": -8.0,
        "gamma_max": 4.0,
        "levels": 256,
        "dequantization": "truncated_normal",
        "importance_samples": 1,
        "biased": False,
        "divergence": "hutchinson",
        "probes": 1,
        "probe_noise": "rademacher",
        "frame": "z, gamma",
        "method": "rk4",
        "rtol": None,
        "atol": None,
        "steps": 6,
        "step_control": "fixed",
        "repeats": 1,
        "seed": 0,
    }
    assert said.items() <= estimate.protocol.items()
    assert math.isnan(snrouter.bits_per_dim(merged, oracles.images(1), BOUNDS, solver=RK4).standard_error)


def test_progress_goes_to_one(oracles, gaussian):
    for options in PROTOCOLS.values():
        told: list[float] = []
        snrouter.bits_per_dim(gaussian, oracles.images(2), BOUNDS, progress=told.append, **options)
        assert told == sorted(told)
        assert told[-1] == pytest.approx(1)
        assert told[0] < 0.5


class TestErrorParts:
    @pytest.mark.parametrize("spreads", [(1.0, 0.5, 0.8), (0.2, 1.0, 0.1), (1.0, 0.0, 0.5), (0.0, 0.3, 1.0)])
    def test_planted_variance_components_are_recovered(self, spreads):
        """Values = data + dequantization (an image and draw) + probe (an image, draw and probe), 5 draws of 4 probes, 3000 images."""
        r, s, b = 5, 4, 3000
        generator = torch.Generator().manual_seed(0)
        data, outer, inner = (
            spread * torch.randn(shape, generator=generator, dtype=torch.float64)
            for spread, shape in zip(spreads, [(1, 1, b), (r, 1, b), (r, s, b)], strict=True)
        )
        parts = error_parts(data + outer + inner, "dequantization", "probe")
        wanted = {
            "data": spreads[0] / math.sqrt(b),
            "dequantization": spreads[1] / math.sqrt(b * r),
            "probe": spreads[2] / math.sqrt(b * r * s),
        }
        largest = max(wanted.values())
        for name, value in wanted.items():
            assert parts[name] == pytest.approx(value, rel=0.05, abs=0.12 * largest), name
        # the parts add up to the total error of the mean over all draws
        total = standard_error((data + outer + inner).mean((0, 1)))
        assert math.sqrt(sum(part**2 for part in parts.values())) == pytest.approx(total, rel=0.03)

    def test_only_what_is_repeated_has_a_part(self):
        values = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert set(error_parts(values, "noise", "probe")) == {"data", "noise", "probe"}
        assert set(error_parts(values[:1], "noise", "probe")) == {"data", "probe"}
        assert set(error_parts(values[:, :1], "noise", "probe")) == {"data", "noise"}
        assert math.isnan(error_parts(values[:, :, :1], "noise", "probe")["data"])

    def test_an_estimates_parts_are_those_of_its_draws(self, oracles, gaussian):
        """Dequantization noise is tiny against these probes, and an exact divergence has none."""
        images = oracles.images(24)
        probed = snrouter.bits_per_dim(gaussian, images, BOUNDS, solver=RK4, repeats=3)
        exact = snrouter.bits_per_dim(gaussian, images, BOUNDS, solver=RK4, repeats=3, divergence="exact")
        assert set(probed.parts) == {"data", "dequantization", "probe"}
        assert set(exact.parts) == {"data", "dequantization"}
        assert probed.nfe == 9 * 24
        assert exact.nfe == 3 * 24
        assert probed.parts["probe"] > exact.parts["dequantization"] > 0
        assert probed.parts["data"] == pytest.approx(exact.parts["data"], rel=0.3)
        assert exact.standard_error == pytest.approx(math.hypot(*exact.parts.values()), rel=0.05)


def test_the_standard_error_is_that_of_the_mean():
    values = torch.tensor([1.0, 2.0, 4.0, 5.0])
    assert standard_error(values) == pytest.approx(math.sqrt(10 / 3) / 2)
    assert Term.of(values).value == 3
    assert math.isnan(standard_error(values[:1]))


class Nan(torch.nn.Module):
    def forward(self, scaled, level, condition):
        return scaled * torch.nan


@pytest.mark.parametrize("estimator", ["ode", "vlb"])
class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: 2 * x, r"pixels span \[.*\], expected \[-1, 1\]; map level k of 256"),
            (lambda x: (x + 1) * 127.5, "pixels span"),
            (lambda x: x * 256 / 255, "pixels span|off the 256 levels"),
            (lambda x: x * 0.9, "off the 256 levels.*is levels=256 right"),
            (lambda x: x * math.nan, "NaN or infinite pixels"),
            (lambda x: x[:0], "no images; expected at least one"),
        ],
    )
    def test_images_off_their_range_or_levels(self, oracles, gaussian, estimator, change, message):
        with pytest.raises(DataError, match=message):
            snrouter.bits_per_dim(gaussian, change(oracles.images(4)), BOUNDS, estimator)

    def test_images_of_other_levels_are_told_which(self, oracles, gaussian, estimator):
        with pytest.raises(DataError, match=r"off the 17 levels"):
            snrouter.bits_per_dim(gaussian, oracles.images(4, levels=256), BOUNDS, estimator, levels=17)
        snrouter.bits_per_dim(gaussian, 3 * oracles.images(2), BOUNDS, estimator, "none", solver=RK4, times=2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"indices": [0]}, "indices: expected 2, one per image; got 1"),
            ({"condition": torch.zeros(3)}, "condition: expected 2, one per image; got 3"),
            ({"importance_samples": 0}, "expected importance_samples and repeats >= 1, got 0 and 1"),
            ({"repeats": 0}, "expected importance_samples and repeats >= 1, got 1 and 0"),
            ({"seed": -1}, "seed: expected an integer"),
        ],
    )
    def test_counts_that_disagree(self, oracles, gaussian, estimator, options, message):
        with pytest.raises(SpecError, match=message):
            snrouter.bits_per_dim(gaussian, oracles.images(2), BOUNDS, estimator, **options)

    def test_an_expert_that_returns_nan(self, oracles, estimator):
        expert = snrouter.wrap(Nan(), "eps", (-20, 20), name="broken")
        with pytest.raises(NonFiniteError, match="expert 'broken' returned NaN or infinity at gamma="):
            snrouter.bits_per_dim(expert, oracles.images(2), BOUNDS, estimator)

    def test_an_interval_beyond_the_support(self, oracles, estimator):
        with pytest.raises(SupportError, match=r"expert 'short' was asked at gamma in \[-8, 4\], 1 beyond"):
            snrouter.bits_per_dim(oracles.gaussian(support=(-7, 5), name="short"), oracles.images(2), BOUNDS, estimator, times=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "elbo"}, "estimator: expected ode or vlb, got 'elbo'"),
        ({"divergence": "hutch"}, "expected divergence hutchinson or exact.*got 'hutch'"),
        ({"probe_noise": "uniform"}, "probe_noise rademacher or gaussian.*got 'hutchinson', 'uniform'"),
        ({"probes": 0}, "probes >= 1"),
        ({"estimator": "vlb", "gamma_0": -6.0}, "for the vlb, set the interval"),
        ({"gamma_0": 5.0}, "expected finite gamma_min < gamma_max"),
    ],
)
def test_options_that_are_none_are_refused(oracles, gaussian, options, message):
    with pytest.raises(SpecError, match=message):
        snrouter.bits_per_dim(gaussian, oracles.images(2), BOUNDS, **options)
