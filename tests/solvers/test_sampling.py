"""Sampling: the named final step, costs, progress, grids, and solvers that are refused."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import snrouter
from snrouter.data.base import from_levels, to_levels
from snrouter.errors import SolverError, SpecError
from snrouter.gamma import GammaInterval, alpha, edm_sigma
from snrouter.solvers import grids
from snrouter.solvers.base import Solution
from snrouter.solvers.integrate import ADAPTIVE, FIXED
from snrouter.solvers.sample import finish, sample_routes

BOUNDS = GammaInterval(-8.0, 4.0)


class TestFinal:
    def test_decode_takes_the_nearest_level_and_keeps_to_the_range(self, gaussian):
        z = alpha(-8.0) * torch.tensor([[-3.0, -0.99, 0.01, 0.09, 0.99, 3.0]], dtype=torch.float64)
        x = finish(gaussian, Solution(z, 0, {}), BOUNDS, "decode", 17, range(1)).x
        assert to_levels(x, 17).tolist() == [[0, 0, 8, 9, 16, 16]]
        torch.testing.assert_close(x, from_levels(to_levels(x, 17), 17, torch.float64))

    def test_none_undoes_the_signal_scale_and_denoise_asks_the_expert_once_more(self, gaussian):
        plain, denoised = (
            snrouter.sample(gaussian, 3, (6,), BOUNDS, snrouter.Heun(5), final=final, dtype=torch.float64)
            for final in ("none", "denoise")
        )
        torch.testing.assert_close(plain.x, plain.z / alpha(-8.0))
        torch.testing.assert_close(denoised.x, gaussian.x_hat(plain.z, -8.0))
        assert (plain.nfe, denoised.nfe) == (10, 11)
        assert denoised.nfe_per_expert == {"expert": 11}

    def test_sample_draws_a_level_by_its_probability(self, gaussian):
        """Chi-square of 8,000 draws at one z_0 against the discretised softmax, at noise of about a bin."""
        bounds, n = GammaInterval(2 * math.log(0.15), 4.0), 8000
        z = torch.full((n, 1), 0.07 * alpha(bounds.gamma_min), dtype=torch.float64)
        x = finish(gaussian, Solution(z, 0, {}), bounds, "sample", 17, range(n), seed=1).x
        counts = torch.bincount(to_levels(x, 17)[:, 0], minlength=17).double()
        centres = torch.arange(17, dtype=torch.float64) * 2 / 17 - 16 / 17
        expected = n * (-0.5 * ((0.07 - centres) / edm_sigma(bounds.gamma_min)) ** 2).softmax(0)
        likely = expected > 5
        assert int(likely.sum()) >= 5
        assert stats.chisquare(counts[likely], expected[likely] * counts[likely].sum() / expected[likely].sum()).pvalue > 1e-3
        assert float(counts[~likely].sum()) <= 5 + 5 * float(expected[~likely].sum())

    def test_the_denoiser_at_the_end_is_the_lowest_pieces(self, pair):
        merged = snrouter.merge(pair, snrouter.Threshold("low", "high", 0.0))
        solution = snrouter.sample(merged, 3, (6,), BOUNDS, snrouter.Heun(5), final="denoise", dtype=torch.float64)
        torch.testing.assert_close(solution.x, pair["low"].x_hat(solution.z, -8.0))


def test_states_and_images_have_the_asked_dtype_and_shape(gaussian):
    for dtype in (torch.float32, torch.float64):
        solution = snrouter.sample(gaussian, 2, (6,), BOUNDS, snrouter.Heun(3), dtype=dtype)
        assert solution.z.dtype == solution.x.dtype == dtype
        assert solution.z.shape == solution.x.shape == (2, 6)
        assert not solution.z.requires_grad


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (snrouter.Euler(7), 7),
        (snrouter.Heun(7), 14),
        (snrouter.DDIM(7), 7),
        (snrouter.Ancestral(7), 7),
        (snrouter.ODE("euler", steps=7), 7),
        (snrouter.ODE("midpoint", steps=7), 14),
        (snrouter.ODE("rk4", steps=7), 28),
    ],
)
def test_network_calls_are_counted_and_progress_ends_at_one(gaussian, solver, calls):
    told: list[float] = []
    solution = snrouter.sample(gaussian, 4, (6,), BOUNDS, solver, batch_size=3, progress=told.append)
    assert solution.nfe == calls
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    assert told[0] <= 3 / 4 / 7 + 1e-9 or isinstance(solver, snrouter.Heun | snrouter.Euler)


def test_a_progress_bar_leaves_standard_output_and_the_result_alone(gaussian, capsys):
    quiet, shown = (
        snrouter.sample(gaussian, 4, (6,), BOUNDS, snrouter.Heun(3), batch_size=2, progress=progress) for progress in (False, True)
    )
    assert torch.equal(quiet.x, shown.x)
    assert capsys.readouterr().out == ""


def test_every_named_ode_method_runs_and_lands_near_the_flow(gaussian):
    z = 0.9 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = gaussian.flow(z, 4.0, -4.0)
    for method in (*ADAPTIVE, *FIXED):
        solver = snrouter.ODE(method, steps=150) if method in FIXED else snrouter.ODE(method, rtol=1e-4, atol=1e-4)
        assert solver.coupled == (method in ADAPTIVE)
        end = solver.solve(gaussian, z, (-4.0, 4.0)).z
        assert float((end - exact).abs().max()) < 2e-2, method


def test_a_tolerance_is_felt(gaussian):
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = gaussian.flow(z, 4.0, -8.0)
    solutions = [snrouter.ODE(rtol=tol, atol=tol).solve(gaussian, z, BOUNDS) for tol in (1e-3, 1e-5, 1e-7)]
    errors = [float((solution.z - exact).abs().max()) for solution in solutions]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert solutions[0].nfe < solutions[1].nfe < solutions[2].nfe


@given(lo=st.floats(-15, 0), length=st.floats(0.1, 15), steps=st.integers(1, 40), power=st.floats(1, 10))
def test_grids_ascend_from_one_end_of_the_interval_to_the_other(lo, length, steps, power):
    bounds = GammaInterval(lo, lo + length)
    for grid in (grids.uniform(bounds, steps), grids.rho(bounds, steps, power)):
        assert len(grid) == steps + 1
        assert (grid[0], grid[-1]) == bounds
        assert all(a < b for a, b in itertools.pairwise(grid))


def test_the_rho_grid_is_edms_and_the_split_puts_a_seam_among_its_nodes():
    grid = grids.rho(GammaInterval(2 * math.log(0.002), 2 * math.log(80)), 17)
    edm = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert [math.exp(gamma / 2) for gamma in grid] == pytest.approx(edm[::-1], rel=1e-12)
    assert grids.split([-2.0, -1.0, 0.0, 1.0], -1.5, 0.5) == [-1.5, -1.0, 0.0, 0.5]
    assert grids.split([-2.0, -1.0, 0.0], -1.0 + 1e-12, 0.0) == [-1.0 + 1e-12, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: snrouter.ODE("dopri"), "unknown ODE method 'dopri'; did you mean 'dopri[58]'.*known: dopri5"),
        (lambda: snrouter.ODE("explicit_adams", steps=9), "unknown ODE method 'explicit_adams'"),
        (lambda: snrouter.ODE("rk4"), "takes a fixed number of steps; add e.g. steps: 100"),
        (lambda: snrouter.ODE("dopri5", steps=10), "chooses its steps; leave steps out"),
        (lambda: snrouter.ODE(rtol=0.0), "expected positive numbers"),
        (lambda: snrouter.ODE(max_steps=0), "expected positive numbers"),
        (lambda: snrouter.ODE("rk4", steps=0), "steps: expected a whole number of at least 1, got 0"),
        (lambda: snrouter.Ancestral(-1), "steps: expected a whole number of at least 1, got -1"),
        (lambda: snrouter.Heun(2.5), "steps: expected a whole number of at least 1, got 2.5"),
        (lambda: snrouter.Heun(rho=0), "rho: expected a positive number, got 0"),
        (lambda: snrouter.Euler(18.0), "steps: expected a whole number of at least 1, got 18.0"),
        (lambda: snrouter.DDIM(5, stochasticity=1.5), "stochasticity: expected a number between 0 and 1, got 1.5"),
    ],
)
def test_a_solver_that_is_none_is_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_an_interval_that_is_none_is_refused(gaussian):
    for solver in (snrouter.ODE(), snrouter.Heun(2), snrouter.DDIM(2), snrouter.Ancestral(2)):
        with pytest.raises(SpecError, match="expected finite gamma_min < gamma_max"):
            solver.solve(gaussian, torch.zeros(1, 6), (4.0, -8.0))


def test_a_solver_that_runs_out_of_steps_says_where_and_what_to_do(gaussian):
    with pytest.raises(SolverError, match=r"dopri5 stopped on gamma in \[-8, 4\].*max_steps"):
        snrouter.sample(gaussian, 2, (6,), BOUNDS, snrouter.ODE(rtol=1e-8, atol=1e-8, max_steps=3))


def test_states_that_overflow_are_told_though_every_output_was_finite(oracles):
    wild = oracles.Linear(slope=1e30)
    with pytest.raises(SolverError, match=r"the states of Ancestral\(steps=8\) overflowed"):
        snrouter.sample(wild, 2, (3,), (-8.0, 4.0), snrouter.Ancestral(8))


def test_an_unknown_final_step_is_refused_before_any_work(oracles):
    recorder = oracles.Recorder(oracles.Linear())
    with pytest.raises(SpecError, match="final: expected decode, sample, denoise, none, got 'denose'; did you mean 'denoise'"):
        snrouter.sample(recorder, 2, (3,), (-8.0, 4.0), snrouter.Heun(2), final="denose")
    assert recorder.gamma == []


def test_slips_in_python_are_told(oracles):
    expert = oracles.Linear()
    with pytest.raises(SpecError, match="direction: expected sample or encode, got 'encod'"):
        snrouter.Heun(2).solve(expert, torch.zeros(1, 3), (-8.0, 4.0), direction="encod")
    for arguments in ({"solver": "heun"}, {"levels": 0}, {"levels": None}, {"indices": [-1, 2]}, {"seed": 1.5}):
        with pytest.raises(SpecError):
            snrouter.sample(expert, 2, (3,), (-8.0, 4.0), **arguments)
    with pytest.raises(SpecError, match="expected an Expert, got Identity; see"):
        snrouter.merge({"a": torch.nn.Identity()}, snrouter.Single("a"))
    for routes, message in (
        ({}, "routes: expected one or more by label"),
        ([expert], "routes: expected one or more by label"),
        ({"a": torch.nn.Identity()}, "route 'a': expected an Expert, got Identity; see"),
    ):
        with pytest.raises(SpecError, match=message):
            sample_routes(routes, 2, (3,), (-8.0, 4.0))
    for routes, message in (
        ({}, "routes: expected one or more by label"),
        ([expert], "expected an Expert, got list; see"),
        (torch.nn.Identity(), "expected an Expert, got Identity; see"),
        ({"a": torch.nn.Identity()}, "route 'a': expected an Expert, got Identity; see"),
    ):
        with pytest.raises(SpecError, match=message):
            snrouter.bits_per_dim(routes, oracles.images(2), (-8.0, 4.0))
    with pytest.raises(SpecError, match="expected experts by name"):
        snrouter.merge(snrouter.Single("a"), {"a": expert})
    with pytest.raises(SpecError, match="solver an ODE"):
        snrouter.bits_per_dim(expert, oracles.images(2), (-8.0, 4.0), solver=snrouter.Heun(2))
