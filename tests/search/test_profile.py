"""The profile: bounds from it against the bound itself, what it asks and what it spends."""

import math

import numpy as np
import pytest
import torch

import snrouter
import snrouter.search.profiling as module
from snrouter.errors import DataError, NonFiniteError, SpecError, SupportError
from snrouter.experts.base import Expert, Prediction
from snrouter.gamma import GammaInterval, interval
from snrouter.metrics.likelihood.estimate import Term
from snrouter.search.cells import cells
from snrouter.search.profile import Profile
from snrouter.search.profiling import measure_profile
from snrouter.spec import load

BOUNDS = GammaInterval(-9.0, 5.0)
SLOPES = {"a": 0.3, "b": 0.8, "c": 0.6}
ROUTES = [
    snrouter.Single("b"),
    snrouter.Threshold("a", "b", -1.234),
    snrouter.Threshold("b", "a", -20.0),
    snrouter.Piecewise(
        [snrouter.Stretch("a", -7.5), snrouter.Stretch("b", 0.1), snrouter.Stretch("a", 0.3), snrouter.Stretch("c")]
    ),
]


@pytest.fixture
def experts(oracles) -> dict[str, snrouter.Expert]:
    return {name: oracles.Linear(slope, name=name) for name, slope in SLOPES.items()}


@pytest.fixture
def images(oracles) -> torch.Tensor:
    return oracles.images(20)


def test_with_cells_of_equal_width_it_is_the_bounds_own_sample(experts, images):
    profile = snrouter.profile(experts, images, BOUNDS, times=12, adaptive=False, seed=3)
    for route in ROUTES:
        got = profile.vlb(route)
        wanted = snrouter.bits_per_dim(snrouter.merge(experts, route), images, BOUNDS, "vlb", times=12, seed=3)
        torch.testing.assert_close(got.values, wanted.values, rtol=1e-10, atol=0)
        for name, term in wanted.terms.items():
            torch.testing.assert_close(got.terms[name].values, term.values, rtol=1e-9, atol=1e-12)
        assert got.nfe_per_expert == pytest.approx(wanted.nfe_per_expert)
        assert got.standard_error == pytest.approx(wanted.standard_error)
        assert {key: wanted.protocol[key] for key in got.protocol} == got.protocol


def test_on_the_digits_it_is_the_bounds_own_sample_too():
    document = load("digits")
    experts = {name: document.expert(name) for name in ("likelihood", "quality")}
    images = document.dataset("data").images(range(24))
    profile = snrouter.profile(experts, images, document.bounds, times=8, levels=17, adaptive=False)
    route = document.policy()
    wanted = snrouter.bits_per_dim(snrouter.merge(experts, route), images, document.bounds, "vlb", levels=17, times=8)
    torch.testing.assert_close(profile.vlb(route).values, wanted.values, rtol=1e-6, atol=0)
    assert float(profile.spent.sum()) == 24 * 8 * 2


def test_cells_found_by_a_pilot_leave_the_bound_what_it_is(experts, oracles):
    """At no more calls than without a pilot, and on other noise."""
    images, route = oracles.images(400), ROUTES[1]
    profile = snrouter.profile(experts, images, BOUNDS, times=16, seed=1)
    assert profile.times == 15
    assert float(profile.spent.sum()) + 25 * 16 * len(experts) <= 400 * 16 * len(experts)
    assert float(profile.edges.diff().max() / profile.edges.diff().min()) > 1.2
    direct = snrouter.bits_per_dim(snrouter.merge(experts, route), images, BOUNDS, "vlb", times=64, seed=2)
    gap = Term.of(profile.vlb(route).values - direct.values)
    assert abs(gap.value) < 3 * gap.standard_error
    assert gap.standard_error < 0.05 * direct.value


def test_the_bounds_ends_may_be_any_that_were_asked_for(experts, images):
    profile = snrouter.profile(experts, images, BOUNDS, times=14, gamma_min=[-10.0, -7.7], gamma_max=[4.2], seed=3)
    assert profile.interval == (-10.0, 5.0)
    assert {-9.0, -7.7, 4.2} <= set(profile.edges.tolist())
    bounds, route = GammaInterval(-7.7, 4.2), ROUTES[1]
    got = profile.vlb(route, bounds)
    wanted = snrouter.bits_per_dim(snrouter.merge(experts, route), images, bounds, "vlb", times=2, seed=3)
    for name in ("prior", "reconstruction"):
        torch.testing.assert_close(got.terms[name].values, wanted.terms[name].values)
    by_hand = torch.zeros(len(images), dtype=torch.float64)
    for i in range(len(images)):
        for j, width in enumerate(profile.edges.diff()):
            gamma = float(profile.gamma[i, j])
            if bounds.gamma_min < gamma <= bounds.gamma_max:
                by_hand[i] += 0.5 * width * profile.errors["a" if gamma <= -1.234 else "b"][i, j]
    torch.testing.assert_close(got.terms["diffusion"].values, by_hand / (images[0].numel() * math.log(2)))
    with pytest.raises(SpecError, match=r"covers \[-10, 5\] and knows the reconstruction at gamma_min -10, -9, -7\.7"):
        profile.vlb(route, GammaInterval(-8.0, 5.0))
    with pytest.raises(SpecError, match="covers"):
        profile.vlb(route, GammaInterval(-9.0, 6.0))


def test_an_expert_is_asked_within_its_support_alone(oracles, images):
    narrow = oracles.Recorder(oracles.Linear(0.5, (-4.0, 2.0), "narrow"))
    wide = oracles.Linear(0.5, name="wide")
    profile = snrouter.profile({"wide": wide, "narrow": narrow}, images, BOUNDS, times=10)
    asked = torch.cat(narrow.gamma)
    assert -4.01 <= float(asked.min()) < -3.5 < 1.0 < float(asked.max()) <= 2.01
    assert torch.equal(profile.errors["narrow"].isnan(), (profile.gamma < -4) | (profile.gamma > 2))
    assert {-4.0, 2.0} <= set(profile.edges.tolist())
    assert float(profile.spent.sum()) == 20 * 10 + len(asked)
    bound = profile.vlb(snrouter.Threshold("wide", "narrow", 0.0), (-9.0, 2.0))
    used = ((profile.gamma > 0) & (profile.gamma <= 2)).sum()
    assert bound.nfe_per_expert["narrow"] == pytest.approx(float(used) / 20)
    with pytest.raises(SupportError, match=r"runs expert 'narrow' where it was not profiled, gamma in \[-[54]"):
        profile.vlb(snrouter.Threshold("wide", "narrow", -6.0), GammaInterval(-9.0, 2.0))
    with pytest.raises(SpecError, match="expert 'other' is not in the profile; known: wide, narrow"):
        profile.vlb(snrouter.Single("other"))


def test_an_expert_that_may_extrapolate_is_asked_everywhere(oracles, images):
    class Bold(oracles.Linear):
        def __init__(self) -> None:
            super().__init__(0.5, (-4.0, 2.0), "bold")
            self.allow_extrapolation = True

    with pytest.warns(UserWarning, match="beyond its support"):
        profile = snrouter.profile({"bold": Bold()}, images, BOUNDS, times=10)
    assert not bool(profile.errors["bold"].isnan().any())
    assert -4.0 not in profile.edges.tolist()


def test_shards_together_are_the_whole(experts, images):
    edges = cells(BOUNDS, 6)
    whole = measure_profile(experts, images, edges, gamma_min=[-8.0])
    shards = [measure_profile(experts, images[rows], edges, gamma_min=[-8.0], indices=rows) for rows in (range(8), range(8, 20))]
    rows = {name: torch.cat([shard.rows()[name] for shard in shards]) for name in whole.rows()}
    again = Profile.from_rows(rows, edges, whole.dimensions)
    for name, value in whole.tensors().items():
        torch.testing.assert_close(again.tensors()[name], value, rtol=1e-12, atol=0)
    once_more = Profile.from_tensors(whole.tensors())
    assert once_more.reconstruction.keys() == {-9.0, -8.0}
    assert torch.equal(once_more.vlb(ROUTES[3]).values, whole.vlb(ROUTES[3]).values)
    some = whole.subset([3, 7, 11])
    assert len(some) == 3
    assert torch.equal(some.vlb(ROUTES[1]).values, whole.vlb(ROUTES[1]).values[[3, 7, 11]])


def test_thresholds_are_the_bounds_of_threshold_routes(experts, images):
    profile = snrouter.profile(experts, images, BOUNDS, times=10)
    values = profile.thresholds("a", "b", [-6.0, 0.5])
    for row, switch in zip(values, (-6.0, 0.5), strict=True):
        torch.testing.assert_close(row, profile.vlb(snrouter.Threshold("a", "b", switch)).values, rtol=1e-12, atol=0)


def test_the_curve_is_the_mean_over_the_images_that_were_asked(oracles, images):
    narrow = oracles.Linear(0.5, (-4.0, 2.0), "narrow")
    profile = measure_profile({"narrow": narrow}, images, cells(BOUNDS, 5))
    mean, error = profile.curve("narrow")
    for j, column in enumerate(profile.errors["narrow"].T / images[0].numel()):
        seen = column[~column.isnan()]
        if len(seen) == 0:
            assert math.isnan(float(mean[j]))
        elif len(seen) > 1:
            assert (float(mean[j]), float(error[j])) == pytest.approx(
                (float(seen.mean()), float(seen.std()) / math.sqrt(len(seen)))
            )


def test_it_covers_the_interval_it_is_given(experts, images):
    assert snrouter.profile(experts, images, (-9, 5), times=3).interval == interval((-9, 5))


def test_thresholds_do_not_need_an_expert_where_it_does_not_run(oracles, images):
    profile = snrouter.profile(
        {"low": oracles.Linear(0.5, (-20, 0)), "high": oracles.Linear(0.4, (-4, 20))}, images, BOUNDS, times=10, gamma_min=[-7.0]
    )
    switches = torch.linspace(-3.99, -0.01, 7).tolist()
    for bounds in (BOUNDS, (-7.0, 5.0)):
        rows = [profile.vlb(snrouter.Threshold("low", "high", switch), bounds).values for switch in switches]
        torch.testing.assert_close(profile.thresholds("low", "high", switches, bounds), torch.stack(rows), rtol=1e-12, atol=0)
    for switch, name in ((3.0, "low"), (-6.0, "high")):
        with pytest.raises(SupportError, match=f"runs expert '{name}' where it was not profiled"):
            profile.thresholds("low", "high", [-2.0, switch])


def test_batches_are_the_whole(experts, images):
    whole, parts = (
        snrouter.profile(experts, images, BOUNDS, times=6, indices=range(5, 25), batch_size=size, progress=lambda done: None)
        for size in (20, 7)
    )
    for name, value in whole.tensors().items():
        torch.testing.assert_close(parts.tensors()[name], value, rtol=1e-12, atol=0)


class Conditional(Expert):
    """Predicts each image's condition, on part of the axis alone."""

    def __init__(self) -> None:
        super().__init__(interval((-4.0, 2.0)), "conditional")

    def predict(self, z: torch.Tensor, gamma: torch.Tensor, condition: torch.Tensor | None = None) -> Prediction:
        assert condition is not None
        eps = condition.to(z).reshape(-1, *(1 for _ in z.shape[1:])).expand_as(z)
        return Prediction(eps, z, {"": len(z)})


def test_every_image_is_asked_with_its_own_condition(oracles):
    images, labels = oracles.images(80), torch.arange(80)
    profile = snrouter.profile({"conditional": Conditional()}, images, BOUNDS, times=16, condition=labels, batch_size=32)
    mean, known = profile.errors["conditional"] / images[0].numel(), ~profile.errors["conditional"].isnan()
    assert bool(known.any(1).all())
    assert not bool(known.all())
    near = 1 + labels.double()[:, None] ** 2  # of independent noise of variance one
    assert float((mean / near - 1).abs()[known].median()) < 0.2
    assert float((mean / near - 1).abs()[known & (near > 400)].max()) < 0.3


def test_the_pilots_noise_is_its_own(experts, oracles, monkeypatch):
    images, pilots, real = oracles.images(80), [], module.cells
    monkeypatch.setattr(
        module, "cells", lambda span, times, pilot=None, at=(): pilots.append(pilot) or real(span, times, pilot, at)
    )
    profile = snrouter.profile(experts, images, BOUNDS, times=16)
    pilot = pilots[-1]
    assert torch.equal(pilot.square_norm, profile.square_norm[:5])
    assert not bool((pilot.reconstruction[-9.0] == profile.reconstruction[-9.0][:5]).any())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_no_support(bad, images, oracles):
    class Broken(oracles.Linear):
        def predict(self, z, gamma, condition=None):
            eps, x, calls = super().predict(z, gamma, condition)
            return Prediction(torch.where((gamma > 0).reshape(-1, *(1 for _ in z.shape[1:])), bad, eps), x, calls)

    broken = Broken(name="broken")
    with pytest.raises(NonFiniteError, match=r"expert 'key' returned NaN or infinity at gamma=\S+ for \d+ of 20 images"):
        snrouter.profile({"key": broken}, images, BOUNDS, times=10)
    with pytest.raises(NonFiniteError, match="expert 'broken' returned NaN"):
        snrouter.bits_per_dim(broken, images, BOUNDS, "vlb", times=10)


def test_ends_may_come_from_numpy(experts, images):
    ends = {"gamma_min": np.array([-9.0, -8.0]), "gamma_max": np.float32([5.0, 4.0])}
    profile = snrouter.profile(experts, images, BOUNDS, times=12, **ends)
    choice = snrouter.best_route(Profile.from_tensors(profile.tensors()), **ends)
    assert len(choice.ends) == 4


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"experts": {}}, SpecError, "experts: expected at least one"),
        ({"images": torch.zeros(0, 1, 4, 4)}, DataError, "no images; expected at least one"),
        ({"indices": range(3)}, SpecError, "indices: expected 20, one per image; got 3"),
        ({"condition": torch.zeros(3)}, SpecError, "condition: expected 20, one per image; got 3"),
        ({"times": 0}, SpecError, "times and batch_size: expected at least 1, got times=0"),
        ({"gamma_min": [6.0]}, SpecError, r"interval \[6, 5\]: expected finite gamma_min < gamma_max"),
        ({"gamma_max": [-9.0]}, SpecError, r"interval \[-9, -9\]: expected finite gamma_min < gamma_max"),
    ],
)
def test_faults_are_told_before_anything_is_asked(experts, images, changed, error, message):
    given = {"experts": experts, "images": images, "interval": BOUNDS, "times": 4} | changed
    with pytest.raises(error, match=message) as caught:
        snrouter.profile(**given)
    assert "\n" not in str(caught.value)


def test_a_route_that_is_none_by_gamma_has_no_bound(experts, images):
    with pytest.raises(SpecError, match=r"policy: expected one by gamma, e\.g\. .*; got str"):
        snrouter.profile(experts, images, BOUNDS, times=3).vlb("a")
