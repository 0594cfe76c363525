"""Draws: keyed by what they are for, so that sample i has the same numbers for any batch."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snrouter.draws import Draws
from snrouter.errors import SpecError

KINDS = ("normal", "uniform", "rademacher")


@pytest.mark.parametrize("kind", KINDS)
@given(indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=12), size=st.integers(1, 12))
def test_a_draw_depends_on_its_index_alone(kind, indices, size):
    make = getattr(Draws(7), kind)
    together = make("initial", indices, (2, 3), draw=4, stage=5)
    parts = [make("initial", indices[i : i + size], (2, 3), draw=4, stage=5) for i in range(0, len(indices), size)]
    assert torch.equal(together, torch.cat(parts))
    backwards = make("initial", indices[::-1], (2, 3), draw=4, stage=5)
    assert torch.equal(together, backwards.flip(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"purpose": "ancestral"},
        {"index": 1},
        {"draw": 1},
        {"stage": 1},
    ],
)
def test_draws_for_another_seed_purpose_index_draw_or_stage_are_others(kind, other):
    def draw(seed=7, purpose="initial", index=0, draw=0, stage=0):
        return getattr(Draws(seed), kind)(purpose, [index], (64,), draw=draw, stage=stage)

    assert torch.equal(draw(), draw())
    assert float((draw() == draw(**other)).double().mean()) < 0.8


def test_draw_and_stage_are_different_counters():
    draws = Draws(0)
    assert not torch.equal(draws.normal("a", [0], (8,), draw=1), draws.normal("a", [0], (8,), stage=1))
    assert not torch.equal(draws.normal("a", [1], (8,)), draws.normal("a", [0], (8,), draw=1))


def test_a_draw_is_philox_at_its_key_and_counter():
    """So that another program, or a later version, can repeat a run's noise from the documented key alone."""
    key = np.array([7, zlib.crc32(b"initial")], dtype=np.uint64)
    philox = np.random.Philox(key=key, counter=np.array([0, 4, 5, 123], dtype=np.uint64))
    expected = np.random.Generator(philox).standard_normal(100)
    assert np.array_equal(Draws(7).normal("initial", [2, 123], (10, 10), draw=4, stage=5)[1].ravel(), expected)


@pytest.mark.parametrize(
    ("kind", "moments"),
    [("normal", (0.0, 1.0, 0.0, 3.0)), ("uniform", (0.5, 1 / 3, 0.25, 0.2)), ("rademacher", (0.0, 1.0, 0.0, 1.0))],
)
def test_draws_have_the_moments_of_their_distribution_and_no_correlation_between_indices(kind, moments):
    values = getattr(Draws(3), kind)("moments", range(400), (500,))
    for power, expected in enumerate(moments, 1):
        spread = float((values**power).std()) / values.numel() ** 0.5
        assert float((values**power).mean()) == pytest.approx(expected, abs=4.5 * spread + 1e-15)
    correlation = values.T.corrcoef() - torch.eye(500)
    assert float(correlation.abs().max()) < 6.0 / 400**0.5  # 125,000 pairs: P(any beyond 6 sd) is 2e-4


def test_draws_are_float64_of_the_asked_shape_and_range():
    draws = Draws(1)
    assert draws.uniform("vlb_time", [3, 4], ()).shape == (2,)
    assert draws.normal("initial", range(5), (1, 2, 3)).shape == (5, 1, 2, 3)
    assert draws.normal("initial", range(5), (2,)).dtype == torch.float64
    assert set(draws.rademacher("probe", range(5), (20,)).unique().tolist()) == {-1.0, 1.0}
    values = draws.uniform("u", range(100), (100,))
    assert 0 <= float(values.min()) < float(values.max()) < 1


def test_the_largest_seed_draws_and_a_seed_that_is_none_is_refused():
    assert not torch.equal(Draws(2**64 - 1).normal("a", [0], (4,)), Draws(0).normal("a", [0], (4,)))
    for seed in (-1, 2**64):
        with pytest.raises(SpecError, match="seed: expected an integer between 0 and 2"):
            Draws(seed)
