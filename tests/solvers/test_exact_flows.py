"""The probability-flow ODE lands on the closed-form flow."""

import pytest
import torch

import snrouter
from snrouter.draws import Draws
from snrouter.gamma import GammaInterval, sigma

BOUNDS = GammaInterval(-13.3, 5.0)


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
@pytest.mark.parametrize("shape", [(6,), (3, 8, 8)], ids=["D=6", "D=192"])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_sampling_lands_on_the_exact_flow_within_1e_6(oracles, kind, shape, method):
    oracle, solver = getattr(oracles, kind)(shape), snrouter.ODE(method, rtol=1e-9, atol=1e-9)
    solution = snrouter.sample(oracle, 3, shape, BOUNDS, solver, final="none", dtype=torch.float64)
    start = sigma(BOUNDS.gamma_max) * Draws(0).normal("initial", range(3), shape)
    exact = oracle.flow(start, BOUNDS.gamma_max, BOUNDS.gamma_min)
    assert float((solution.z - exact).abs().max()) < 1e-6


def test_encoding_lands_on_the_exact_flow_and_sampling_takes_it_back(gaussian, mixture):
    solver = snrouter.ODE(rtol=1e-9, atol=1e-9)
    z = 0.4 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for oracle in (gaussian, mixture):
        end = solver.solve(oracle, z, (-8.0, 4.0), direction="encode").z
        torch.testing.assert_close(end, oracle.flow(z, -8.0, 4.0), rtol=0, atol=1e-6)
        torch.testing.assert_close(solver.solve(oracle, end, (-8.0, 4.0)).z, z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", [snrouter.Heun(100), snrouter.Euler(2000), snrouter.DDIM(2000), snrouter.ODE("rk4", steps=60)])
def test_every_deterministic_solver_converges_to_the_same_flow(gaussian, solver):
    z = sigma(4.0) * torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(solver.solve(gaussian, z, (-8.0, 4.0)).z, gaussian.flow(z, 4.0, -8.0), rtol=0, atol=5e-3)
