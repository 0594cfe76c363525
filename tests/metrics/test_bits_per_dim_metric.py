"""The `bpd` metric of a spec is `bits_per_dim`, image by image."""

import math
import statistics

import pytest
import torch

import snrouter
from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.metrics.likelihood.vlb import variational_bounds

RK4 = snrouter.ODE("rk4", steps=6)
BOUNDS = GammaInterval(-7.0, 4.0)


@pytest.fixture(scope="module")
def context() -> Context:
    pixels = torch.randint(17, (12, 1, 2, 3), generator=torch.Generator().manual_seed(0))
    return Context(BOUNDS, RK4, ImageData(pixels, 17, None, "random"), None, 3)


@pytest.fixture(scope="module")
def merged(oracles):
    experts = {name: oracles.gaussian((1, 2, 3), seed=seed) for seed, name in enumerate(("low", "high"))}
    return snrouter.merge(experts, snrouter.Threshold("low", "high", -2.0))


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (BitsPerDim(), {"solver": RK4}),
        (BitsPerDim("vlb", times=5, steps=4), {"estimator": "vlb", "times": 5, "steps": 4}),
        (
            BitsPerDim(
                dequantization="uniform", probes=2, probe_noise="gaussian", gamma_0=-6.0, solver=snrouter.ODE("rk4", steps=3)
            ),
            {
                "dequantization": "uniform",
                "probes": 2,
                "probe_noise": "gaussian",
                "gamma_0": -6.0,
                "solver": snrouter.ODE("rk4", steps=3),
            },
        ),
        (
            BitsPerDim(divergence="exact", importance_samples=2),
            {"divergence": "exact", "importance_samples": 2, "solver": RK4},
        ),
    ],
    ids=["ode", "vlb", "uniform", "exact K=2"],
)
def test_shards_of_the_metric_summarise_to_the_estimate_of_all_images(context, merged, metric, options):
    images = context.data.images(dtype=torch.float64)
    shards = [metric.measure(context, merged, images[i : i + 5], range(i, min(i + 5, 12)), None) for i in (0, 5, 10)]
    measured = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    summary = metric.summarise(context, measured)
    estimate = snrouter.bits_per_dim(merged, images, BOUNDS, levels=17, seed=3, **options)
    assert summary.value == pytest.approx(estimate.value, rel=1e-10)
    assert summary.standard_error == pytest.approx(estimate.standard_error, rel=1e-8)
    torch.testing.assert_close(summary.influence, estimate.values - estimate.value, rtol=1e-8, atol=1e-8)
    assert {name: term["value"] for name, term in summary.terms.items()} == pytest.approx(
        {name: term.value for name, term in estimate.terms.items()}, rel=1e-8
    )
    # per-image costs; the VLB's batches differ in how their random times fall about the switch
    calls = {name.removeprefix("nfe/"): float(rows.mean()) for name, rows in measured.items() if name.startswith("nfe/")}
    assert calls == pytest.approx(dict(estimate.nfe_per_expert))
    assert dict(summary.protocol) == {key: value for key, value in estimate.protocol.items() if key not in ("repeats", "seed")}
    assert summary.columns["estimator"] == estimate.protocol["estimator"]
    assert summary.columns.get("biased", False) == estimate.protocol.get("biased", False)


def test_it_asks_for_all_images_or_the_first_of_them(context):
    assert BitsPerDim().count(context) == 12
    assert BitsPerDim(images=5).count(context) == 5
    for images in (0, 13):
        with pytest.raises(SpecError, match=f"images: expected 1 to 12, the size of the data; got {images}"):
            BitsPerDim(images=images).count(context)
    with pytest.raises(SpecError, match="needs the spec's `data`"):
        BitsPerDim().count(context._replace(data=None))


def test_it_solves_by_its_own_solver_then_the_specs_ode_then_the_default(context):
    assert BitsPerDim()._solver(context) is RK4
    assert BitsPerDim(solver=snrouter.ODE(rtol=1e-3))._solver(context) == snrouter.ODE(rtol=1e-3)
    assert BitsPerDim()._solver(context._replace(solver=snrouter.Ancestral(4))) == snrouter.ODE()


class TestRepeats:
    """Repetitions of the bound: their spread, recomputed with the functions beneath."""

    @staticmethod
    def summary(metric, context, merged, n=12):
        images = context.data.images(dtype=torch.float64)[:n]
        shards = [metric.measure(context, merged, images[i : i + 5], range(i, min(i + 5, n)), None) for i in range(0, n, 5)]
        return metric.summarise(context, {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]})

    def test_over_noise_it_is_the_spread_of_bounds_with_draws_of_their_own(self, context, merged):
        images = context.data.images(dtype=torch.float64)
        means = []
        for r in range(4):
            terms = variational_bounds(
                {"": merged}, images, BOUNDS, levels=17, times=3, steps=None, draws=Draws(3), indices=range(12), repeat=r
            )[""]
            nats = terms.prior + terms.reconstruction + terms.diffusion
            means.append(float(nats.mean()) / (6 * math.log(2)))
        summary = self.summary(BitsPerDim("vlb", times=3, repeats=4), context, merged)
        assert summary.columns["repeats"] == 4
        assert summary.columns["repeat_standard_deviation"] == pytest.approx(statistics.stdev(means), rel=1e-9)
        assert summary.value == pytest.approx(statistics.mean(means), rel=1e-9)
        assert summary.protocol["repeat_over"] == "noise"

    def test_over_images_it_is_the_spread_of_estimates_of_consecutive_blocks(self, context, merged):
        images = context.data.images(dtype=torch.float64)
        blocks = [range(i, i + 3) for i in range(0, 12, 3)]
        estimates = [
            snrouter.bits_per_dim(merged, images[list(rows)], BOUNDS, "vlb", levels=17, seed=3, times=3, indices=rows)
            for rows in blocks
        ]
        summary = self.summary(BitsPerDim("vlb", times=3, repeats=4, repeat_over="images"), context, merged)
        wanted = statistics.stdev(estimate.value for estimate in estimates)
        assert summary.columns["repeat_standard_deviation"] == pytest.approx(wanted, rel=1e-9)
        assert summary.value == pytest.approx(self.summary(BitsPerDim("vlb", times=3), context, merged).value, rel=1e-12)
        assert summary.protocol["repeat_over"] == "images"

    def test_blocks_that_a_limit_cut_short_tell_what_there_is(self, context, merged):
        metric = BitsPerDim("vlb", times=1, repeats=4, repeat_over="images")
        values = self.summary(BitsPerDim("vlb", times=1), context, merged, n=3)
        wanted = statistics.stdev((values.influence + values.value).tolist())
        assert self.summary(metric, context, merged, n=3).columns["repeat_standard_deviation"] == pytest.approx(wanted)
        assert math.isnan(self.summary(metric, context, merged, n=1).columns["repeat_standard_deviation"])

    def test_blocks_must_be_equal_and_the_ode_has_none(self, context):
        assert BitsPerDim("vlb", images=9, repeats=3, repeat_over="images").count(context) == 9
        with pytest.raises(SpecError, match="repeats: 12 images do not make 5 equal blocks"):
            BitsPerDim("vlb", repeats=5, repeat_over="images").count(context)
        with pytest.raises(SpecError, match="repeats: 2 are repetitions of the vlb"):
            BitsPerDim("ode", repeats=2)
