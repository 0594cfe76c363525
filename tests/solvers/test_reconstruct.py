"""Reconstruction: the flow there and back is the identity as far as its solver follows it."""

import pytest
import torch

import snrouter
from snrouter.data.base import from_levels
from snrouter.draws import Draws
from snrouter.errors import DataError, SpecError
from snrouter.gamma import GammaInterval, alpha
from snrouter.router.base import Policy
from snrouter.solvers.base import Solver
from snrouter.solvers.reconstruct import check_encodes
from snrouter.testing.oracles import Watched, oracle

BOUNDS = GammaInterval(-8.0, 4.0)


@pytest.fixture
def images():
    levels = (17 * Draws(0).uniform("pixels", range(6), (1, 4, 4))).long()
    return from_levels(levels, 17, torch.float64)


@pytest.fixture
def route():
    experts = {"low": oracle(0.2, (-14.0, 9.0)), "high": oracle(0.6, (-14.0, 9.0))}
    return snrouter.merge(experts, snrouter.Threshold("low", "high", -1.234))


def test_the_image_comes_back_the_nearer_the_tighter_the_solver(route, images):
    def error(solver):
        return float((snrouter.reconstruct(route, images, BOUNDS, solver, final="none").x - images).abs().max())

    errors = [error(snrouter.ODE(rtol=tolerance, atol=tolerance)) for tolerance in (1e-3, 1e-5, 1e-7, 1e-9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-4
    assert errors[-1] < 1e-7
    assert error(snrouter.Heun(3)) > 2 / 17  # a coarse solver misses by more than a level


def test_on_levels_a_tight_solver_gives_exactly_the_image_and_a_coarse_one_does_not(route, images):
    tight, coarse = (
        snrouter.reconstruct(route, images, BOUNDS, solver, levels=17).x for solver in (snrouter.ODE(), snrouter.Heun(3))
    )
    assert torch.equal(tight, images)
    assert not torch.equal(coarse, images)


def test_it_starts_from_the_scaled_image_and_passes_through_the_flows_noise(images):
    """Up from alpha_0 x to where the closed-form flow carries it, and down from there."""
    ends = []

    class Noted(Solver):
        def solve(self, expert, z, interval, *, direction="sample", **named):
            ends.append((direction, z))
            return snrouter.ODE(rtol=1e-9, atol=1e-9).solve(expert, z, interval, direction=direction)

    gaussian = oracle(0.4, (-14.0, 9.0))
    snrouter.reconstruct(gaussian, images, BOUNDS, Noted())
    (first, start), (second, noise) = ends
    assert (first, second) == ("encode", "sample")
    torch.testing.assert_close(start, alpha(-8.0) * images)
    torch.testing.assert_close(noise, gaussian.flow(start, *BOUNDS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("final", "more"), [("decode", 0), ("denoise", 1)])
def test_calls_of_both_ways_are_counted_by_expert(route, images, final, more):
    watched = Watched(route)
    solution = snrouter.reconstruct(route, images, BOUNDS, snrouter.Heun(10), final=final)
    snrouter.reconstruct(watched, images, BOUNDS, snrouter.Heun(10), final=final)
    assert solution.nfe == sum(solution.nfe_per_expert.values()) == 2 * 22 + more  # 10 steps and the seam's, two calls each
    assert set(solution.nfe_per_expert) == {"low", "high"}
    assert watched.rows / len(images) == 2 * 20 + more


def test_conditions_reach_the_expert_both_ways(images):
    watched = Watched(oracle(0.4, (-14.0, 9.0)))
    snrouter.reconstruct(watched, images, BOUNDS, snrouter.Heun(2), condition=torch.arange(6), final="denoise")
    assert watched.conditioned


@pytest.mark.parametrize("solver", [snrouter.Ancestral(8), snrouter.DDIM(8, stochasticity=0.5)])
def test_a_solver_that_draws_noise_is_refused_before_any_work(images, solver):
    watched = Watched(oracle(0.4, (-14.0, 9.0)))
    for refused in (lambda: check_encodes(solver), lambda: snrouter.reconstruct(watched, images, BOUNDS, solver)):
        with pytest.raises(SpecError, match=r"draws noise and cannot encode; .* solver: \{type: heun, steps: 50\}"):
            refused()
    assert watched.rows == 0


class Jumping(Policy):
    """Weights that jump in z."""

    experts = ("a",)
    seams = ()
    invertible = False

    def weights(self, gamma, z, condition=None):
        return torch.ones(len(z), 1, dtype=torch.float64)

    def restrict(self, lo, hi):
        return self

    def support(self, experts):
        return experts["a"].support


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"indices": [0, 1]}, "indices: expected 6, one per image; got 2"),
        ({"condition": torch.arange(2)}, "condition: expected 6, one per image; got 2"),
        ({"final": "decoded"}, "final: expected decode.*did you mean 'decode'"),
        ({"levels": 1}, "levels: expected at least 2"),
        ({"solver": "heun"}, "expected an Expert and a Solver"),
    ],
)
def test_what_makes_no_sense_is_refused(route, images, named, message):
    with pytest.raises(SpecError, match=message):
        snrouter.reconstruct(route, images, BOUNDS, **named)


def test_images_that_are_not_finite_and_flows_that_jump_are_refused(images):
    gaussian = oracle(0.4, (-14.0, 9.0))
    with pytest.raises(DataError, match="NaN or infinite"):
        snrouter.reconstruct(gaussian, images * torch.nan, BOUNDS)
    with pytest.raises(SpecError, match="needs an invertible flow"):
        snrouter.reconstruct(snrouter.merge({"a": gaussian}, Jumping()), images, BOUNDS)
