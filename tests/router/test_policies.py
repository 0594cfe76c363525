"""Policies: weights, seams, and routes that are refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import snrouter
from snrouter import Piecewise, Single, Stretch, Threshold
from snrouter.errors import SpecError, SupportError

EVE = Piecewise([Stretch("edm", -9.0), Stretch("vdm", -3.0), Stretch("edm")])
POLICIES = {"threshold": Threshold("vdm", "edm", -3.0), "piecewise": EVE, "single": Single("edm")}


def weights(policy, *gammas: float) -> torch.Tensor:
    gamma = torch.tensor(gammas, dtype=torch.float64)
    return policy.weights(gamma, torch.zeros(len(gammas), 2))


@pytest.mark.parametrize("name", POLICIES)
@given(gammas=st.lists(st.floats(-20, 20), min_size=1, max_size=16))
def test_weights_are_shares_that_sum_to_one(name, gammas):
    shares = weights(POLICIES[name], *gammas)
    assert shares.shape == (len(gammas), len(POLICIES[name].experts))
    assert bool((shares >= 0).all())
    assert shares.sum(1).tolist() == [1.0] * len(gammas)


@given(gamma=st.floats(-20, 20), switch=st.floats(-13, 5))
def test_a_threshold_uses_low_up_to_and_at_the_switch_and_high_above_it(gamma, switch):
    policy = Threshold("vdm", "edm", switch)
    assert policy.experts == ("vdm", "edm")
    assert weights(policy, gamma).tolist() == [[1.0, 0.0] if gamma <= switch else [0.0, 1.0]]
    assert weights(policy, switch, math.nextafter(switch, 99)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_an_expert_may_serve_several_pieces():
    assert EVE.experts == ("edm", "vdm")
    assert EVE.seams == (-9.0, -3.0)
    assert weights(EVE, -10.0, -9.0, -8.0, -3.0, -2.0)[:, 0].tolist() == [1, 1, 0, 0, 1]
    assert [EVE.expert_between(lo, hi) for lo, hi in [(-20, -9), (-9, -3), (-3, 20)]] == ["edm", "vdm", "edm"]
    assert EVE.restrict(-9.0, -3.0) == Single("vdm")


def test_neighbours_that_are_the_same_expert_have_no_seam():
    same = Piecewise([Stretch("edm", -9.0), Stretch("edm", -3.0), Stretch("vdm")])
    assert same.seams == (-3.0,)
    assert Threshold("edm", "edm", -3.0).seams == ()
    assert Single("edm").seams == ()
    assert Single("edm").restrict(-1, 1) == Single("edm")


@pytest.mark.parametrize(
    ("pieces", "error", "message"),
    [
        ([], SpecError, "expected at least one"),
        ([Stretch("a"), Stretch("b")], SpecError, r"pieces\[0\] \('a'\): only the last piece goes without up_to"),
        ([Stretch("a", -3.0), Stretch("b", 2.0)], SupportError, "route has a gap: no expert above gamma=2"),
        ([Stretch("a", -3.0), Stretch("b", -5.0), Stretch("a")], SpecError, "must ascend .* got -3 then -5"),
        ([Stretch("a", -3.0), Stretch("b", -3.0), Stretch("a")], SpecError, "must ascend .* got -3 then -3"),
    ],
)
def test_pieces_that_are_no_route_are_refused(pieces, error, message):
    with pytest.raises(error, match=message):
        Piecewise(pieces)


@pytest.mark.parametrize("switch", [math.nan, math.inf, None, {"eta": 0.4}])
def test_a_switch_that_is_no_gamma_is_refused(switch):
    with pytest.raises(SpecError, match="switch: expected a gamma"):
        Threshold("a", "b", switch)


def test_an_unknown_expert_is_refused_with_a_suggestion(pair):
    with pytest.raises(SpecError, match=r"route names expert 'hihg', which is not there; did you mean 'high'.*known: low, high"):
        snrouter.merge(pair, Threshold("low", "hihg", 0.0))


def test_a_switch_outside_a_neighbours_support_is_refused_with_the_common_support(oracles):
    vdm, edm = oracles.gaussian(support=(-13.3, 5.0)), oracles.gaussian(support=(-12.43, 8.76))
    for switch, name in ((-13.0, "edm"), (6.0, "vdm")):
        with pytest.raises(SupportError, match=rf"outside the support .* of '{name}'.*common support \[-12.43, 5\]"):
            snrouter.merge({"vdm": vdm, "edm": edm}, Threshold("vdm", "edm", switch))
    merged = snrouter.merge({"vdm": vdm, "edm": edm}, Threshold("vdm", "edm", -12.435))  # within the tolerance of 0.01
    assert merged.support == (-13.3, 8.76)


def test_the_supports_of_a_piecewise_route_are_checked_at_every_switch(oracles):
    experts = {
        "low": oracles.gaussian(support=(-13.3, -4.0)),
        "mid": oracles.gaussian(support=(-8.0, 0.0)),
        "high": oracles.gaussian(support=(-2.0, 8.0)),
    }

    def route(first: float, second: float):
        return snrouter.merge(experts, Piecewise([Stretch("low", first), Stretch("mid", second), Stretch("high")]))

    assert route(-6.0, -1.0).support == (-13.3, 8.0)
    with pytest.raises(SupportError, match=r"between 'mid' and 'high' at gamma=-3 .* of 'high'"):
        route(-6.0, -3.0)
    with pytest.raises(SupportError, match=r"between 'low' and 'mid' at gamma=-9 .* of 'mid'"):
        route(-9.0, -1.0)


def test_an_expert_name_holds_no_dot(oracles):
    with pytest.raises(SpecError, match=r"expert name 'edm\.v2': expected a word without a dot"):
        snrouter.merge({"edm.v2": oracles.gaussian()}, Single("edm.v2"))
