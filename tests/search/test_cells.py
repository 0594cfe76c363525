"""Cells: what they cover, where they are narrow, and what they cost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.search.cells import budget, cells, marks
from snrouter.search.profile import Profile

BOUNDS = GammaInterval(-10.0, 6.0)


def made_up(noise: dict[str, torch.Tensor], mean: dict[str, float], images: int = 400) -> Profile:
    """A profile whose error has these standard deviations, cell by cell."""
    generator = torch.Generator().manual_seed(0)
    times = len(next(iter(noise.values())))
    edges = cells(BOUNDS, times)
    errors = {
        name: mean[name] + spread * torch.randn(images, times, generator=generator, dtype=torch.float64)
        for name, spread in noise.items()
    }
    one = torch.ones(images, dtype=torch.float64)
    return Profile(edges, edges[:-1].expand(images, -1), errors, one, {-10.0: one}, {}, 4)


@given(st.integers(1, 5000), st.integers(2, 300), st.none() | st.integers(1, 300))
def test_a_pilot_and_a_profile_cost_no_more_than_the_bound(images, times, most):
    pilot, rest = budget(images, times, most)
    assert 0 <= pilot < images
    assert pilot <= (most or images)
    assert pilot * times + images * rest <= images * times < pilot * times + images * (rest + 1)
    assert rest > 0.9 * times - 1


def test_without_a_pilot_they_are_even():
    edges = cells(BOUNDS, 8)
    assert edges.tolist() == pytest.approx([-10, -8, -6, -4, -2, 0, 2, 4, 6])
    assert (float(edges[0]), float(edges[-1])) == BOUNDS


def test_they_are_narrow_where_the_better_expert_is_noisy():
    """Half of them even, half as the noise; the noise of an expert that would not run does not count."""
    good = torch.where(torch.arange(40) < 10, 3.0, 0.0)
    bad = torch.full((40,), 9.0)
    edges = cells(BOUNDS, 60, made_up({"good": good, "bad": bad}, {"good": 1.0, "bad": 50.0}))
    width = edges.diff()
    assert (float(edges[0]), float(edges[-1])) == BOUNDS
    noisy, quiet = width[edges[1:] < -6.5], width[edges[:-1] > -5.5]
    assert len(noisy) == pytest.approx(60 * (0.5 * 3.5 / 16 + 0.5 * 3.5 / 4), abs=3)
    assert float(quiet.mean()) == pytest.approx(16 / 30, rel=0.05)
    assert float(noisy.max()) < 0.4 * float(quiet.min())
    variance = [
        float((w**2 * (e < -6)).sum()) for w, e in ((width, edges[:-1]), (cells(BOUNDS, 60).diff(), cells(BOUNDS, 60)[:-1]))
    ]
    assert variance[0] < 0.6 * variance[1]


def test_positions_that_must_be_edges_are():
    at = [-9.9, -9.8, 0.1, 5.995, 7.0]
    edges = cells(BOUNDS, 8, at=at).tolist()
    assert len(edges) == 9
    assert edges == sorted(set(edges))
    assert {-10.0, -9.9, -9.8, 0.1, 6.0} <= set(edges)
    assert not {5.995, 7.0} & set(edges)  # within the tolerance of a support, or outside
    with pytest.raises(SpecError, match="times: 3 leave no cells between 3 candidates"):
        cells(BOUNDS, 3, at=at)


def test_ends_of_supports_and_candidates_must_be_edges(oracles):
    experts = {"a": oracles.Linear(support=(-4.0, 9.0)), "b": oracles.Linear(support=(-5.0, 2.0))}
    assert marks(experts, [-7.0], [3.0]) == [-7.0, -5.0, -4.0, 2.0, 3.0, 9.0]
    assert marks(experts, [-4.009]) == [-5.0, -4.009, 2.0, 9.0]
    experts["b"].allow_extrapolation = True
    assert marks(experts) == [-4.0, 9.0]


def test_an_error_without_noise_leaves_them_even():
    edges = cells(BOUNDS, 8, made_up({"a": torch.zeros(8)}, {"a": 1.0}))
    torch.testing.assert_close(edges, cells(BOUNDS, 8))


def test_it_is_noise_that_counts_not_how_images_differ():
    pilot = made_up({"a": torch.where(torch.arange(40) < 10, 3.0, 0.5)}, {"a": 1.0})
    edges = cells(BOUNDS, 60, pilot)
    pilot.errors["a"][:] += 100 * torch.arange(len(pilot))[:, None]
    torch.testing.assert_close(cells(BOUNDS, 60, pilot), edges)


def test_the_end_of_a_support_is_as_noisy_as_what_was_asked_there():
    noise = {"low": torch.full((40,), 2.0), "high": torch.full((40,), 2.0)}
    pilot = made_up(noise, {"low": 1.0, "high": 5.0})
    pilot.errors["low"][::2, 20] = torch.nan
    pilot.errors["low"][:, 21:] = torch.nan
    width = cells(BOUNDS, 60, pilot).diff()
    assert float(width.max() / width.min()) < 1.15
