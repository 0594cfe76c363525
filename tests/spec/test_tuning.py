"""What the key `tune` means: names, positions, ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from snrouter import spec
from snrouter.errors import SpecError
from snrouter.gamma import from_edm_sigma


def test_left_out_it_means_all_experts_on_the_specs_interval() -> None:
    tune = spec.load("digits", ["tune={}"]).tuning()
    assert tune.experts == tuple(spec.load("digits").spec.experts)
    assert (tune.gamma_min, tune.gamma_max, tune.above) == ((-7.86,), (5.0,), {})


def test_positions_become_gammas_and_ends_ascend(tmp_path: Path) -> None:
    ends = "gamma_min: [-7, {eta: 0.0}, -7.86], gamma_max: [{edm_sigma: 10}]"
    path = tmp_path / "spec.yaml"
    path.write_text(f"extends: digits\ntune: {{experts: [quality, likelihood], above: {{quality: {{eta: 0.25}}}}, {ends}}}\n")
    tune = spec.load(path).tuning()
    assert tune.experts == ("quality", "likelihood")
    assert tune.gamma_min == (-7.86, -7.0)
    assert tune.gamma_max == (pytest.approx(from_edm_sigma(10)),)
    assert tune.above == {"quality": pytest.approx(-7.86 + 0.25 * 12.86)}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tune.experts=[qualty]", "tune.experts[0]: no expert 'qualty' to choose from; did you mean 'quality'?; there are quality"),
        ("tune={experts: [quality], order: [quality, likelihood]}", "no expert 'likelihood' to choose from; there are quality"),
        ("tune.order=[quality, likelihood, quality]", "tune.order[2]: 'quality' is there already; an order has each expert once"),
        ("tune.above={qality: -2}", "tune.above.qality: no expert 'qality' to choose from; did you mean 'quality'?"),
        ("tune.quality=other", "tune.quality: no expert 'other' to choose from"),
        ("tune.above={quality: 7}", "tune.above.quality: expected a position inside the interval [-7.86, 5], got gamma=7"),
        ("tune.above={quality: {etta: 0.1}}", "unknown unit 'etta'; did you mean 'eta'?"),
        ("tune.gamma_min=[-7, 5]", "expected every gamma_min below every gamma_max, got gamma_min=5, gamma_max=5"),
        ("tune.gamma_max=[{eta: 2}]", "tune.gamma_max[0]: eta: expected a fraction between 0 and 1, got 2"),
        ("tune.order=[]", "tune.order: tuple should have at least 1 item"),
        ("tune.experts=[]", "tune.experts: tuple should have at least 1 item"),
        ("tune.images=3", "tune.images: input should be greater than or equal to 4, got 3"),
    ],
)
def test_a_fault_is_one_line_that_says_where(override: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.load("digits", [override]).check()
    assert expected in str(caught.value)
    assert str(caught.value).startswith("--set tune")
    assert "\n" not in str(caught.value)


def test_an_order_names_all_that_may_run() -> None:
    assert spec.load("digits", ["tune.order=[quality, likelihood]"]).tuning().experts == ("quality", "likelihood")
    with pytest.raises(SpecError, match="no expert 'discrete' to choose from; there are quality, likelihood"):
        spec.load("digits", ["tune={order: [quality, likelihood], above: {discrete: 0}}"]).check()


def test_a_position_may_lie_beyond_the_interval_where_an_end_does() -> None:
    tune = spec.load("digits", ["tune={gamma_max: [5, 6], above: {quality: 5.5}}"]).tuning()
    assert tune.above == {"quality": 5.5}
