"""The axis: conversions round-trip, are accurate to rounding, and positions mean the same in every unit."""

import math

import mpmath
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from snrouter import gamma as axis
from snrouter.errors import SpecError
from snrouter.gamma import Gamma, GammaInterval, interval, position, units

PAIRS = {
    "edm_sigma": (axis.edm_sigma, axis.from_edm_sigma),
    "log_snr": (axis.log_snr, axis.from_log_snr),
    "half_log_snr": (axis.half_log_snr, axis.from_half_log_snr),
    "snr_db": (axis.snr_db, axis.from_snr_db),
}
EXACT = {
    "sigmoid": (axis.sigmoid, lambda g: 1 / (1 + mpmath.exp(-g))),
    "alpha_bar": (axis.alpha_bar, lambda g: 1 / (1 + mpmath.exp(g))),
    "alpha": (axis.alpha, lambda g: mpmath.sqrt(1 / (1 + mpmath.exp(g)))),
    "sigma": (axis.sigma, lambda g: mpmath.sqrt(1 / (1 + mpmath.exp(-g)))),
    "edm_sigma": (axis.edm_sigma, lambda g: mpmath.exp(g / 2)),
    "log_snr": (axis.log_snr, lambda g: -g),
    "half_log_snr": (axis.half_log_snr, lambda g: -g / 2),
    "snr_db": (axis.snr_db, lambda g: -10 * g / mpmath.log(10)),
}
INVERSE = {
    "edm_sigma": (axis.from_edm_sigma, lambda v: 2 * mpmath.log(v), st.floats(1e-4, 1e4)),
    "log_snr": (axis.from_log_snr, lambda v: -v, st.floats(-20, 20)),
    "half_log_snr": (axis.from_half_log_snr, lambda v: -2 * v, st.floats(-10, 10)),
    "snr_db": (axis.from_snr_db, lambda v: -v * mpmath.log(10) / 10, st.floats(-86, 86)),
    "alpha_bar": (axis.from_alpha_bar, lambda v: mpmath.log((1 - v) / v), st.floats(1e-8, 0.4)),
}
gammas = st.floats(-20, 20)
dtypes = st.sampled_from([torch.float32, torch.float64])
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@pytest.mark.parametrize("name", PAIRS)
@given(value=gammas)
def test_a_conversion_of_one_number_round_trips(name, value):
    there, back = PAIRS[name]
    assert isinstance(there(value), float)
    assert back(there(value)) == pytest.approx(value, rel=4 * EPS[torch.float64], abs=8 * EPS[torch.float64])


@pytest.mark.parametrize("name", PAIRS)
@given(values=st.lists(gammas, min_size=1, max_size=8), dtype=dtypes)
def test_a_conversion_of_a_batch_round_trips_in_its_dtype(name, values, dtype):
    there, back = PAIRS[name]
    batch = torch.tensor(values, dtype=dtype)
    result = back(there(batch))
    assert result.dtype == dtype
    torch.testing.assert_close(result, batch, rtol=4 * EPS[dtype], atol=8 * EPS[dtype])


@given(value=gammas, dtype=dtypes)
def test_alpha_bar_round_trips_as_well_as_its_rounding_allows(value, dtype):
    """Alpha^2 next to one keeps only eps (1 + exp(-gamma)) of gamma: nothing of it in float32 below -15 or so."""
    batch = torch.tensor([value], dtype=dtype)
    allowed = 4 * EPS[dtype] * (1 + math.exp(-value) + abs(value))
    if allowed < 0.5:
        torch.testing.assert_close(axis.from_alpha_bar(axis.alpha_bar(batch)), batch, rtol=0, atol=allowed)
    scalar = axis.from_alpha_bar(axis.alpha_bar(value))
    assert scalar == pytest.approx(value, abs=4 * EPS[torch.float64] * (1 + math.exp(-value) + abs(value)))


@pytest.mark.parametrize("name", EXACT)
@given(value=gammas)
def test_a_conversion_is_accurate_to_relative_rounding_in_both_tails(name, value):
    ours, exact = EXACT[name]
    with mpmath.workdps(40):
        for dtype, eps in EPS.items():
            given_value = torch.tensor([value], dtype=dtype)
            reference = exact(mpmath.mpf(float(given_value)))
            got = ours(given_value)
            assert got.dtype == dtype
            assert abs(mpmath.mpf(float(got)) - reference) <= 4 * eps * abs(reference) + torch.finfo(dtype).tiny
        reference = exact(mpmath.mpf(value))
        assert abs(mpmath.mpf(ours(value)) - reference) <= 4 * EPS[torch.float64] * abs(reference) + 1e-300


@pytest.mark.parametrize("name", INVERSE)
@given(data=st.data())
def test_a_conversion_to_gamma_is_accurate(name, data):
    ours, exact, values = INVERSE[name]
    value = data.draw(values)
    with mpmath.workdps(40):
        for dtype, eps in EPS.items():
            given_value = torch.tensor([value], dtype=dtype)
            reference = exact(mpmath.mpf(float(given_value)))
            assert abs(mpmath.mpf(float(ours(given_value))) - reference) <= 6 * eps * max(abs(reference), 1)
        assert abs(mpmath.mpf(ours(value)) - exact(mpmath.mpf(value))) <= 6 * EPS[torch.float64] * max(abs(exact(value)), 1)


@given(value=st.floats(-800, 800))
def test_scales_do_not_overflow_far_outside_the_axis(value):
    assert axis.alpha(value) ** 2 + axis.sigma(value) ** 2 == pytest.approx(1, rel=1e-15)


@given(value=gammas)
def test_the_scales_have_unit_power_and_their_ratio_is_edm_sigma(value):
    assert axis.alpha(value) ** 2 + axis.sigma(value) ** 2 == pytest.approx(1, rel=1e-15)
    assert axis.sigma(value) / axis.alpha(value) == pytest.approx(axis.edm_sigma(value), rel=1e-14)


@given(eta=st.floats(0, 1), lo=st.floats(-20, 0), length=st.floats(0.5, 20))
def test_a_switch_is_the_same_in_every_unit(eta, lo, length):
    run = (lo, lo + length)
    written = units(position({"eta": eta}, run), run)
    assert set(written) == {"gamma", "log_snr", "half_log_snr", "snr_db", "edm_sigma", "eta"}
    for unit, number in written.items():
        assert position({unit: max(number, 0.0) if unit == "eta" else number}, run) == pytest.approx(written["gamma"], abs=1e-13)
    assert position(written["gamma"]) == written["gamma"]


def test_a_switch_written_by_hand_in_each_unit_is_the_one_gamma():
    run, wanted = (-13.3, 5.0), -5.98
    for written in (
        {"eta": 0.4},
        {"gamma": -5.98},
        {"log_snr": 5.98},
        {"half_log_snr": 2.99},
        {"snr_db": 25.97081001781446},
        {"edm_sigma": 0.05028743672359187},
        -5.98,
    ):
        assert position(written, run) == pytest.approx(wanted, abs=1e-12)


@given(lo=st.floats(-20, 0), hi=st.floats(0.01, 20), inside=st.floats(0, 1))
@example(lo=-7.86, hi=5.0, inside=0.2)  # lo + (hi - lo) is an ulp below hi
@example(lo=-13.3, hi=4.9, inside=0.2)  # and above it here
def test_a_fraction_is_exact_at_both_ends_and_inverts(lo, hi, inside):
    bounds = GammaInterval(lo, hi)
    assert bounds.at(0.0) == bounds.gamma_min
    assert bounds.at(1.0) == bounds.gamma_max
    assert bounds.eta(bounds.at(inside)) == pytest.approx(inside, abs=1e-12)
    batch = bounds.at(torch.tensor([0.0, inside, 1.0], dtype=torch.float64))
    assert batch.tolist() == [bounds.gamma_min, bounds.at(inside), bounds.gamma_max]


def test_an_interval_covers_its_ends_with_the_support_tolerance():
    support = GammaInterval(2 * math.log(0.002), 5.0)
    assert support.covers(-12.43)
    assert support.covers(5.009)
    assert not support.covers(-12.45)
    assert not support.covers(5.02)
    assert support.intersect(GammaInterval(-13.3, 4.0)) == (support.gamma_min, 4.0)


class Holder(BaseModel):
    at: Gamma


def test_a_parameter_annotated_gamma_takes_any_unit_and_refers_eta_to_the_run():
    run = {"interval": (-13.3, 5.0)}
    assert Holder.model_validate({"at": {"eta": 0.4}}, context=run).at == pytest.approx(-5.98)
    assert Holder.model_validate({"at": {"edm_sigma": 1.0}}, context=run).at == 0
    assert Holder(at=-3).at == -3
    with pytest.raises(ValidationError, match="none is given here"):
        Holder(at={"eta": 0.4})
    assert {"type": "number", "description": "a gamma"} in Holder.model_json_schema()["properties"]["at"]["anyOf"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"etta": 0.4}, "unknown unit 'etta'; did you mean 'eta'"),
        ({"eta": 0.4, "gamma": -6}, "expected one unit.*got eta, gamma"),
        ({"eta": 1.5}, "between 0 and 1, got 1.5"),
        ({"gamma": math.nan}, "gamma: expected a finite number, got nan"),
        ({"gamma": "low"}, "gamma: expected a finite number, got 'low'"),
        ({"gamma": True}, "expected a finite number, got True"),
        ({"edm_sigma": 0}, "edm_sigma: expected a positive number, got 0"),
        ({}, "expected a number"),
        ("low", "expected a number"),
        (True, "expected a number"),
    ],
)
def test_a_position_that_is_none_is_refused(value, message):
    with pytest.raises(SpecError, match=message):
        position(value, (-13.3, 5.0))


def test_eta_needs_an_interval():
    with pytest.raises(SpecError, match="write the position as gamma"):
        position({"eta": 0.4})


@pytest.mark.parametrize("ends", [(5.0, -13.3), (1.0, 1.0), (-math.inf, 5.0), (-13.3, math.nan)])
def test_an_interval_must_ascend_and_be_finite(ends):
    with pytest.raises(SpecError, match="expected finite gamma_min < gamma_max"):
        interval(ends)
