"""Sample i is the same whoever computes it: its draws bit for bit, its result to rounding or to the solver's tolerance."""

import pytest
import torch

import snrouter
from snrouter.errors import SpecError

BOUNDS, N = (-8.0, 4.0), 64
FIXED = {
    "rk4": snrouter.ODE("rk4", steps=8),
    "euler": snrouter.Euler(8),
    "heun": snrouter.Heun(8),
    "ddim": snrouter.DDIM(8),
    "stochastic ddim": snrouter.DDIM(8, stochasticity=0.7),
    "ancestral": snrouter.Ancestral(8),
}
SOLVERS = {**FIXED, "dopri5": snrouter.ODE(rtol=1e-6, atol=1e-6)}


def draw(expert, solver, size, n=N, **arguments):
    return snrouter.sample(expert, n, (6,), BOUNDS, solver, 5, batch_size=size, final="none", **arguments)


@pytest.fixture(scope="module")
def merged(pair):
    return snrouter.merge(pair, snrouter.Threshold("low", "high", -1.3))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_initial_noise_is_the_same_bit_for_bit(oracles, size):
    recorder = oracles.Recorder(oracles.Linear())
    draw(recorder, snrouter.Euler(1), size)
    assert len(recorder.z) == -(-N // size)
    whole = oracles.Recorder(oracles.Linear())
    draw(whole, snrouter.Euler(1), N)
    assert torch.equal(torch.cat(recorder.z), whole.z[0])


@pytest.mark.parametrize("solver", ["ancestral", "stochastic ddim"])
@pytest.mark.parametrize("size", [1, 7])
def test_the_noise_of_every_step_is_the_same_bit_for_bit(oracles, solver, size):
    """Element by element arithmetic does not depend on the batch, so equal results mean equal draws."""
    expert = oracles.Linear()
    assert torch.equal(draw(expert, FIXED[solver], size).x, draw(expert, FIXED[solver], N).x)


@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize("size", [1, 7])
def test_a_samples_result_does_not_depend_on_its_batch_with_fixed_steps(merged, solver, size):
    difference = (draw(merged, FIXED[solver], size).x - draw(merged, FIXED[solver], N).x).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.parametrize("size", [1, 7])
def test_with_an_adaptive_method_a_result_depends_on_its_batch_within_the_tolerance(merged, size):
    """One error norm serves the batch, so the steps differ; the results, twice the tolerance at the most."""
    parts, whole = (draw(merged, SOLVERS["dopri5"], s, n=16, dtype=torch.float64) for s in (size, 16))
    assert 0 < float((parts.x - whole.x).abs().max()) < 2e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_runs_are_identical_bit_for_bit_and_another_seed_is_another_run(merged, solver):
    one, two = draw(merged, SOLVERS[solver], 7, n=16), draw(merged, SOLVERS[solver], 7, n=16)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.z, two.z)
    assert (one.nfe, one.nfe_per_expert) == (two.nfe, two.nfe_per_expert)
    other = snrouter.sample(merged, 16, (6,), BOUNDS, SOLVERS[solver], 6, final="none")
    assert float((one.x - other.x).abs().max()) > 0.1


@pytest.mark.parametrize("solver", ["ancestral", "heun"])
def test_indices_choose_samples(merged, solver):
    some = snrouter.sample(merged, 3, (6,), BOUNDS, FIXED[solver], 5, indices=[40, 3, 17], final="none")
    torch.testing.assert_close(some.x, draw(merged, FIXED[solver], N).x[[40, 3, 17]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("final", ["decode", "sample"])
def test_the_final_step_draws_by_index_too(oracles, final):
    one, many = (
        snrouter.sample(oracles.Linear(), 16, (6,), BOUNDS, snrouter.Ancestral(4), final=final, levels=17, batch_size=size).x
        for size in (16, 3)
    )
    assert torch.equal(one, many)


def test_network_calls_are_the_mean_over_batches(merged):
    whole, parts = draw(merged, FIXED["heun"], N), draw(merged, FIXED["heun"], 7)
    assert whole.nfe == parts.nfe == 2 * 9  # eight steps and the one that the seam cuts in two
    assert whole.nfe_per_expert == pytest.approx(parts.nfe_per_expert)


def test_counts_that_disagree_are_refused(gaussian):
    for arguments, message in (
        ({"n": 0}, "n: expected at least 1 sample, got 0"),
        ({"n": 3, "indices": [0, 1]}, "indices: expected 3, one per sample; got 2"),
        ({"n": 3, "condition": torch.zeros(4)}, "condition: expected 3, one per sample; got 4"),
        ({"n": 3, "batch_size": -1}, "batch_size: expected at least 1, got -1"),
        ({"n": 3, "seed": -1}, "seed: expected an integer"),
    ):
        with pytest.raises(SpecError, match=message):
            snrouter.sample(gaussian, shape=(6,), interval=BOUNDS, **arguments)
    with pytest.raises(SpecError, match="indices: expected 2, one per sample; got 3"):
        snrouter.Ancestral(2).solve(gaussian, torch.zeros(2, 6), BOUNDS, indices=[0, 1, 2])
