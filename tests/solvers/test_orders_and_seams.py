"""Every method keeps its order, by regression of log error on log step in float64, and a seam costs it none.

The exact flow of a route is the exact flow of each expert on its piece, one after the other.
"""

import pytest
import torch

import snrouter
from snrouter.gamma import GammaInterval, alpha, sigma

BOUNDS = GammaInterval(-6.0, 3.0)
SWITCH = -1.37  # on no grid below


def dopri5_at_fixed_steps(steps: int) -> snrouter.ODE:
    h = BOUNDS.length / steps
    return snrouter.ODE("dopri5", rtol=1e3, atol=1e3, first_step=h, max_step=h)


METHODS = {
    "euler": (1, snrouter.Euler, (100, 200, 400)),
    "ddim": (1, snrouter.DDIM, (100, 200, 400)),
    "heun": (2, snrouter.Heun, (40, 80, 160)),
    "ode euler": (1, lambda steps: snrouter.ODE("euler", steps=steps), (100, 200, 400)),
    "ode midpoint": (2, lambda steps: snrouter.ODE("midpoint", steps=steps), (40, 80, 160)),
    "ode heun3": (3, lambda steps: snrouter.ODE("heun3", steps=steps), (40, 80, 160)),
    "ode rk4": (4, lambda steps: snrouter.ODE("rk4", steps=steps), (40, 80, 160)),
    "ode dopri5": (5, dopri5_at_fixed_steps, (32, 64, 128)),
}


@pytest.fixture(scope="module")
def experts(oracles):
    return {"low": oracles.gaussian(seed=1, spread=0.1), "high": oracles.gaussian(seed=2, spread=0.15)}


@pytest.fixture(scope="module")
def merged(experts):
    return snrouter.merge(experts, snrouter.Threshold("low", "high", SWITCH))


def flow_across(experts, z, start, end):
    """Exact flow of the route, either way."""
    first, second = ("high", "low") if start > end else ("low", "high")
    return experts[second].flow(experts[first].flow(z, start, SWITCH), SWITCH, end)


def start_of(direction: str) -> torch.Tensor:
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z * sigma(BOUNDS.gamma_max) if direction == "sample" else 0.3 * z


def measured_order(oracles, method, direction, expert, flow) -> tuple[float, list[float]]:
    _, make, steps = METHODS[method]
    z = start_of(direction)
    exact = flow(z, *(BOUNDS[::-1] if direction == "sample" else BOUNDS))
    errors = [float((make(n).solve(expert, z, BOUNDS, direction=direction).z - exact).norm()) for n in steps]
    return oracles.order(steps, errors), errors


@pytest.mark.parametrize("direction", ["sample", "encode"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_its_order(oracles, experts, method, direction):
    order, errors = measured_order(oracles, method, direction, experts["low"], experts["low"].flow)
    assert order == pytest.approx(METHODS[method][0], abs=0.1), errors


@pytest.mark.parametrize("direction", ["sample", "encode"])
@pytest.mark.parametrize("method", METHODS)
def test_a_seam_between_different_experts_costs_no_order(oracles, experts, merged, method, direction):
    order, errors = measured_order(oracles, method, direction, merged, lambda z, start, end: flow_across(experts, z, start, end))
    assert order == pytest.approx(METHODS[method][0], abs=0.1), errors


@pytest.mark.parametrize("method", ["ode rk4", "ode dopri5"])
def test_a_seam_costs_the_log_density_no_order_either(oracles, experts, merged, method):
    """Log density of the route: prior at the end of the exact flow, plus both pieces' log-determinants."""
    x = 0.3 * start_of("sample")
    z = alpha(BOUNDS.gamma_min) * x
    end = flow_across(experts, z, *BOUNDS)
    prior = torch.distributions.Normal(torch.zeros_like(end), sigma(BOUNDS.gamma_max)).log_prob(end).sum(1)
    log_det = experts["low"].flow_log_det(BOUNDS.gamma_min, SWITCH) + experts["high"].flow_log_det(SWITCH, BOUNDS.gamma_max)
    exact = prior + log_det + 6 * torch.tensor(alpha(BOUNDS.gamma_min), dtype=torch.float64).log()
    number, make, steps = METHODS[method]
    errors = []
    for n in steps:
        estimate = snrouter.bits_per_dim(merged, x, BOUNDS, dequantization="none", solver=make(n), divergence="exact")
        errors.append(float((estimate.values + oracles.bits(exact, 6)).norm()))
    assert oracles.order(steps, errors) == pytest.approx(number, abs=0.1), errors


@pytest.mark.parametrize("eta", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("direction", ["sample", "encode"])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_a_seam_costs_at_most_a_tenth_more_network_calls(oracles, kind, direction, eta):
    """At a tolerance of 1e-6, carrying the step size over.

    Against the same drift without a seam (a route over two copies of one expert and that expert alone), and for two different experts
    against each solving its own piece from scratch, which chooses a first step twice.
    """
    make, bounds, solver = getattr(oracles, kind), GammaInterval(-8.0, 4.0), snrouter.ODE(rtol=1e-6, atol=1e-6)
    low, high = make(seed=1), make(seed=2)
    switch, z = bounds.at(eta), start_of(direction)

    def calls(expert, z, bounds):
        return solver.solve(expert, z, bounds, direction=direction)

    def route(low, high):
        return snrouter.merge({"low": low, "high": high}, snrouter.Threshold("low", "high", switch))

    assert calls(route(low, low), z, bounds).nfe <= 1.1 * calls(low, z, bounds).nfe
    stretches = [(low, (bounds.gamma_min, switch)), (high, (switch, bounds.gamma_max))]
    apart, here = 0.0, z
    for expert, stretch in stretches if direction == "encode" else stretches[::-1]:
        solution = calls(expert, here, stretch)
        apart, here = apart + solution.nfe, solution.z
    merged = calls(route(low, high), z, bounds)
    assert merged.nfe <= 1.1 * apart
    torch.testing.assert_close(merged.z, here, rtol=1e-5, atol=1e-5)
    assert set(merged.nfe_per_expert) == {"low", "high"}
    assert sum(merged.nfe_per_expert.values()) == merged.nfe


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [snrouter.ODE("rk4", steps=10), snrouter.ODE()])
def test_a_piece_too_short_for_float32_is_crossed(experts, solver, dtype):
    """A switch an ulp below gamma_max: a piece of 1e-15, whose two ends are one number in float32."""
    merged = snrouter.merge(experts, snrouter.Threshold("low", "high", 3.0 - 4e-16))
    assert len(list(merged.pieces(*BOUNDS))) == 2
    ours, alone = (snrouter.sample(e, 3, (6,), BOUNDS, solver, final="none", dtype=dtype).x for e in (merged, experts["low"]))
    torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-4)
