"""Routes solved together give, bit for bit, what each gives alone, and ask the experts no more than what is new."""

import itertools
import weakref

import pytest
import torch

import snrouter
from snrouter.draws import Draws
from snrouter.errors import SupportError
from snrouter.experts.wrapper import ExpertWrapper
from snrouter.gamma import GammaInterval
from snrouter.metrics.likelihood.ode import log_densities
from snrouter.router.piecewise import Stretch
from snrouter.solvers.base import Solver
from snrouter.solvers.fork import solve_routes
from snrouter.solvers.sample import sample_routes

BOUNDS = GammaInterval(-6.0, 3.0)
SOLVERS = {
    "euler": snrouter.Euler(9),
    "heun": snrouter.Heun(9),
    "stochastic ddim": snrouter.DDIM(9, stochasticity=0.5),
    "ancestral": snrouter.Ancestral(9),
    "rk4": snrouter.ODE("rk4", steps=9),
    "dopri5": snrouter.ODE(rtol=1e-3, atol=1e-3),
    "dopri8": snrouter.ODE("dopri8", rtol=0.1, atol=0.1),
    "adaptive_heun": snrouter.ODE("adaptive_heun", rtol=2e-2, atol=2e-2),
    "steps that end on a switch": snrouter.ODE(rtol=1e3, atol=1e3, first_step=1.0, max_step=1.0),
    "steps that are rejected": snrouter.ODE(rtol=1e-3, atol=1e-3, first_step=6.0, max_step=6.0),
}
SWITCHES = [-4.0, -4.0 + 5e-10, -4.0 + 3e-8, -1.37, 3.0 - 1e-7]
"""On a node of the uniform grid, next to it, close to one another, and nearer to an end than the first step's probe."""


class Counted(ExpertWrapper):
    """An expert that counts rows, and how many of its answers are alive when it is asked."""

    def __init__(self, expert):
        super().__init__(expert)
        self.rows, self.alive, self.answers, self.gammas = 0, 0, [], []

    def around(self, expert):
        return Counted(expert)

    def predict(self, z, gamma, condition=None):
        self.answers = [answer for answer in self.answers if answer() is not None]
        self.alive = max(self.alive, len(self.answers))
        self.rows += len(z)
        self.gammas.append(float(gamma[0]))
        prediction = self.expert.predict(z, gamma, condition)
        self.answers.append(weakref.ref(prediction.eps_hat))
        return prediction


class Wavy(ExpertWrapper):
    """An expert that changes much from one gamma to the next, so that a first step depends on where it is probed."""

    def around(self, expert):
        return Wavy(expert)

    def predict(self, z, gamma, condition=None):
        prediction = self.expert.predict(z, gamma, condition)
        return prediction._replace(eps_hat=torch.cos(40 * gamma)[:, None] * prediction.eps_hat)


@pytest.fixture
def experts(oracles):
    return {name: Counted(oracles.gaussian(seed=seed)) for seed, name in enumerate(("low", "mid", "high"))}


def rows(experts):
    return sum(expert.rows for expert in experts.values())


def piecewise(*pieces):
    return snrouter.Piecewise([Stretch(*piece) for piece in pieces])


def all_routes(experts):
    """Thresholds, singles, three pieces with one expert twice, the same route again, and routes over routes."""
    policies = {f"{switch}": snrouter.Threshold("low", "high", switch) for switch in SWITCHES}
    policies |= {"low": snrouter.Single("low"), "high": snrouter.Single("high")}
    policies |= {f"ends {at}": piecewise(("low", -4.5), ("mid", at), ("high",)) for at in (-2.0, 0.5)}
    policies["aba"] = piecewise(("high", -4.5), ("low", 0.5), ("high",))
    policies["again"] = piecewise(("high", -4.5), ("low", 0.5), ("high",))
    routes = {label: snrouter.merge(experts, policy) for label, policy in policies.items()}
    inner = snrouter.merge(experts, snrouter.Threshold("low", "mid", -1.37))
    for at in (-3.0, 1.0):
        routes[f"nested {at}"] = snrouter.merge({"inner": inner, "high": experts["high"]}, snrouter.Threshold("inner", "high", at))
    return routes


def some_routes(experts):
    policies = {f"{at}": snrouter.Threshold("low", "high", at) for at in (-4.0, -1.37, 1.0)} | {"low": snrouter.Single("low")}
    return {label: snrouter.merge(experts, policy) for label, policy in policies.items()}


def start(dtype=torch.float64):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["sample", "encode"])
@pytest.mark.parametrize("name", SOLVERS)
def test_each_route_gets_what_it_gets_alone_and_every_call_is_counted_once(experts, name, direction, dtype):
    solver, z, routes = SOLVERS[name], start(dtype), all_routes(experts)
    if direction == "encode" and not solver.encodes:
        return
    alone, calls = {}, 0
    for label, route in routes.items():
        before = rows(experts)
        alone[label] = solver.solve(route, z, BOUNDS, direction=direction, seed=3)
        assert alone[label].nfe == (rows(experts) - before) / 4
        calls += alone[label].nfe
    before = rows(experts)
    forked = solve_routes(solver, routes, z, BOUNDS, direction=direction, seed=3)
    for label, solution in forked.solutions.items():
        assert torch.equal(solution.z, alone[label].z), label
        assert (solution.nfe, solution.nfe_per_expert) == (alone[label].nfe, alone[label].nfe_per_expert)
    assert sum(forked.spent.values()) == (rows(experts) - before) / 4 < 0.85 * calls
    assert forked.spent["again"] == 0


@pytest.mark.parametrize("direction", ["sample", "encode"])
def test_a_switch_before_the_probe_of_the_first_step_shares_nothing_wrong(oracles, direction):
    experts = {name: Wavy(oracles.gaussian(seed=seed)) for seed, name in enumerate(("low", "high"))}
    switches = [1.0, 2.99] if direction == "sample" else [-4.0, -5.99]
    routes = {f"{at}": snrouter.merge(experts, snrouter.Threshold("low", "high", at)) for at in switches}
    forked = solve_routes(SOLVERS["dopri5"], routes, start(), BOUNDS, direction=direction)
    for label, route in routes.items():
        alone = SOLVERS["dopri5"].solve(route, start(), BOUNDS, direction=direction)
        assert torch.equal(forked.solutions[label].z, alone.z)
        assert forked.solutions[label].nfe == alone.nfe


def test_the_order_of_routes_changes_no_result(experts):
    routes = all_routes(experts)
    backward = dict(reversed(routes.items()))
    here, there = (solve_routes(SOLVERS["dopri5"], order, start(), BOUNDS) for order in (routes, backward))
    assert list(there.solutions) == list(there.spent) == list(backward)
    assert all(torch.equal(here.solutions[label].z, there.solutions[label].z) for label in routes)
    assert sum(here.spent.values()) == sum(there.spent.values())


def test_a_branch_is_charged_what_it_adds(experts):
    """18 steps of 0.5: high to the switch at 0 is shared; then 12 steps each."""
    solver = snrouter.DDIM(18)
    routes = {name: snrouter.merge(experts, snrouter.Threshold(name, "high", 0.0)) for name in ("low", "mid")}
    assert solve_routes(solver, routes, start(), BOUNDS).spent == {"low": 18, "mid": 12}
    assert solve_routes(solver, routes, start(), BOUNDS, direction="encode").spent == {"low": 18, "mid": 18}


def test_adaptive_routes_go_on_from_the_last_step_that_is_their_own(experts):
    """Together they take what the longest takes, and of every other only what comes after it has left, and the step it cuts."""
    solver = snrouter.ODE()
    routes = {f"{at}": snrouter.merge(experts, snrouter.Threshold("low", "high", at)) for at in (2.0, -1.0, -4.0)}
    forked = solve_routes(solver, routes, start(), BOUNDS)
    for label, at in (("2.0", 2.0), ("-1.0", -1.0)):
        above = solver.solve(experts["high"], start(), (at, 3.0)).nfe
        assert forked.spent[label] <= forked.solutions[label].nfe - above + 6 + 6 * (at == 2.0)
    assert forked.spent["-4.0"] == forked.solutions["-4.0"].nfe


@pytest.mark.parametrize("name", ["heun", "rk4", "dopri5", "ancestral"])
def test_progress_of_one_route_says_where_a_step_ends(experts, name):
    heard, route = [], snrouter.merge(experts, snrouter.Threshold("low", "high", -1.37))
    SOLVERS[name].solve(route, start(), BOUNDS, progress=heard.append)
    asked = torch.tensor([*experts["low"].gammas, *experts["high"].gammas, BOUNDS.gamma_min], dtype=torch.float64)
    for fraction in heard:
        assert float((asked - BOUNDS.at(1 - fraction)).abs().min()) < 1e-6
    if name != "ancestral":
        assert min(abs(BOUNDS.at(1 - fraction) + 1.37) for fraction in heard) < 1e-9


@pytest.mark.parametrize("name", ["heun", "dopri5"])
def test_progress_rises_to_one_over_all_routes(experts, name):
    heard, together, routes = [], [], all_routes(experts)
    solver = {"heun": snrouter.Heun(9), "dopri5": snrouter.ODE()}[name]
    solver.solve(routes["-1.37"], start(), BOUNDS, progress=heard.append)
    solve_routes(solver, routes, start(), BOUNDS, progress=together.append)
    for fractions in (heard, together):
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
        assert all(new - old < 0.3 for old, new in itertools.pairwise(fractions))
    assert len({*together}) > 4 * len({*heard})


@pytest.mark.parametrize(("name", "most"), [("heun", 2), ("ancestral", 1)])
def test_a_branch_is_forgotten_when_it_is_done(experts, name, most):
    routes = {f"{at}": snrouter.merge(experts, snrouter.Threshold("low", "high", at)) for at in SWITCHES}
    solve_routes(SOLVERS[name], routes, start(), BOUNDS)
    assert experts["low"].alive + experts["high"].alive <= 2 * most


def test_a_solver_that_only_solves_solves_them_one_by_one(experts):
    class Plain(Solver):
        def solve(self, expert, z, interval, **arguments):
            return snrouter.Heun(4).solve(expert, z, interval, **arguments)

    heard, routes = [], all_routes(experts)
    forked = solve_routes(Plain(), routes, start(), BOUNDS, progress=heard.append)
    together = solve_routes(snrouter.Heun(4), routes, start(), BOUNDS)
    for label, solution in forked.solutions.items():
        assert torch.equal(solution.z, together.solutions[label].z)
        assert forked.spent[label] == solution.nfe
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)


def test_a_built_in_solver_that_is_overridden_is_what_solves(experts):
    class Half(snrouter.Heun):
        def solve(self, expert, z, interval, **arguments):
            return super().solve(expert, z / 2, interval, **arguments)

    routes = some_routes(experts)
    forked = solve_routes(Half(4), routes, start(), BOUNDS)
    for label, route in routes.items():
        assert torch.equal(forked.solutions[label].z, snrouter.Heun(4).solve(route, start() / 2, BOUNDS).z)
        assert forked.spent[label] == forked.solutions[label].nfe


def test_no_route_is_solved_where_one_may_not_run(experts, oracles):
    narrow = Counted(oracles.gaussian(support=(-2.0, 3.0)))
    routes = {"whole": experts["high"], "narrow": narrow}
    with pytest.raises(SupportError):
        solve_routes(snrouter.Heun(4), routes, start(), BOUNDS)
    assert rows(experts) == 0


@pytest.mark.parametrize("final", ["denoise", "sample"])
def test_samples_of_routes_are_those_that_each_draws(experts, final):
    routes = some_routes(experts)
    arguments = {"indices": range(5, 12), "final": final, "batch_size": 4, "levels": 17}
    before = rows(experts)
    forked = sample_routes(routes, 7, (6,), BOUNDS, SOLVERS["dopri5"], 1, **arguments)
    assert sum(forked.spent.values()) * 7 == pytest.approx(rows(experts) - before)
    for label, route in routes.items():
        alone = snrouter.sample(route, 7, (6,), BOUNDS, SOLVERS["dopri5"], 1, **arguments)
        assert torch.equal(forked.solutions[label].x, alone.x)
        assert torch.equal(forked.solutions[label].z, alone.z)
        assert forked.solutions[label].nfe_per_expert == alone.nfe_per_expert


@pytest.mark.parametrize("divergence", ["hutchinson", "exact"])
@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_log_densities_of_routes_are_those_that_each_has(experts, solver, divergence):
    routes = some_routes(experts)
    arguments = {
        "solver": SOLVERS[solver],
        "divergence": divergence,
        "probes": 2,
        "probe_noise": "rademacher",
        "draws": Draws(0),
        "indices": range(4),
    }
    before = rows(experts)
    densities = log_densities(routes, start(), BOUNDS, **arguments)
    assert sum(densities.spent.values()) == (rows(experts) - before) / 4
    for label, route in routes.items():
        alone = log_densities({"": route}, start(), BOUNDS, **arguments).each[""]
        ours = densities.each[label]
        assert torch.equal(ours.prior, alone.prior)
        assert torch.equal(ours.divergence, alone.divergence)
        assert ours.tally.rows == alone.tally.rows


def test_eleven_thresholds_cost_far_less_than_eleven_routes(experts):
    """At most 0.6 of the calls for likelihoods, 0.7 for samples."""
    routes = {f"{k}": snrouter.merge(experts, snrouter.Threshold("low", "high", BOUNDS.at((k + 1) / 12))) for k in range(11)}
    for solver in (snrouter.ODE(), snrouter.Heun(18), snrouter.Ancestral(64)):
        forked = solve_routes(solver, routes, start(), BOUNDS)
        assert sum(forked.spent.values()) <= 0.7 * sum(solution.nfe for solution in forked.solutions.values())
    densities = log_densities(
        routes,
        start(),
        BOUNDS,
        solver=snrouter.ODE(),
        divergence="hutchinson",
        probes=1,
        probe_noise="rademacher",
        draws=Draws(0),
        indices=range(4),
    )
    assert sum(densities.spent.values()) <= 0.6 * sum(each.tally.total for each in densities.each.values()) / 4
