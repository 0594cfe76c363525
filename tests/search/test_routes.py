"""The best route for each number of seams, against trying them all."""

import itertools
import math
from functools import cache

import pytest
import torch
from made_up import made_up

import snrouter
from snrouter.errors import SpecError, SupportError
from snrouter.gamma import GammaInterval
from snrouter.router.base import GammaPolicy
from snrouter.search.profile import Profile
from snrouter.search.routes import Constraints, best_routes, route

CELLS = 6


def ragged(seed: int) -> Profile:
    """Three experts, one of them without support below -9.3, another without above 1.3."""
    means = torch.rand(3, CELLS, generator=torch.Generator().manual_seed(seed))
    profile = made_up(means, images=5, seed=seed)
    profile.errors["a"][:, 0] = torch.nan
    profile.errors["c"][:, -1] = torch.nan
    return profile


@cache
def every_route(seed: int) -> list[tuple[tuple[str, ...], GammaPolicy, float]]:
    """The expert of each cell, the policy and its bound, for all routes whose switches are edges."""
    profile, routes = ragged(seed), []
    for names in itertools.product("abc", repeat=CELLS):
        if names[0] != "a" and names[-1] != "c":
            seams = [j for j in range(1, CELLS) if names[j] != names[j - 1]]
            policy = route([names[j] for j in (0, *seams)], [float(profile.edges[j]) for j in seams])
            routes.append((names, policy, profile.vlb(policy).value))
    return routes


EDGE = float(torch.linspace(-12.0, 4.0, CELLS + 1, dtype=torch.float64)[2])
CASES = {
    "free": (Constraints(seams=4), lambda names, policy: True),
    "two experts": (Constraints(experts=("c", "b"), seams=5), lambda names, policy: "a" not in names),
    "order": (
        Constraints(order=("c", "b", "a"), seams=4),
        lambda names, policy: list(policy.route[0]) == sorted(set(names), reverse=True),
    ),
    "order of two": (
        Constraints(order=("b", "a"), seams=4),
        lambda names, policy: "c" not in names and list(policy.route[0]) == sorted(set(names), reverse=True),
    ),
    "above": (Constraints(above={"a": EDGE}, seams=4), lambda names, policy: set(names[2:]) == {"a"}),
    "exactly": (Constraints(seams=3, exactly=True), lambda names, policy: len(policy.route[1]) == 3),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_no_other_route_with_as_many_seams_is_better(case, seed):
    constraints, keeps = CASES[case]
    profile = ragged(seed)
    wanted: dict[int, float] = {}
    for names, policy, value in every_route(seed):
        m = len(policy.seams)
        if m <= constraints.seams and keeps(names, policy):
            wanted[m] = min(value, wanted.get(m, math.inf))
    found = best_routes(profile, constraints)
    assert {m: profile.vlb(policy).value for m, policy in found.items()} == pytest.approx(wanted)
    for m, policy in found.items():
        assert len(policy.route[1]) == len(policy.seams) == m


def test_policies_are_the_simplest_that_say_it():
    profile = made_up(torch.tensor([[1.0, 1.0, 1.0, 9.0, 9.0, 1.0], [9.0, 9.0, 9.0, 1.0, 1.0, 9.0]]))
    found = best_routes(profile, Constraints(seams=2))
    assert isinstance(found[0], snrouter.Single)
    assert isinstance(found[1], snrouter.Threshold)
    assert isinstance(found[2], snrouter.Piecewise)
    assert found[2].route == (("a", "b", "a"), (float(profile.edges[3]), float(profile.edges[5])))


def test_a_switch_may_lie_where_a_constraint_says():
    """Inside of a cell, where the images differ in who ran."""
    profile = made_up(torch.tensor([[1.0] * 6, [2.0] * 6]))
    found = best_routes(profile, Constraints(above={"b": -3.21}))
    assert found[1] == snrouter.Threshold("a", "b", -3.21)
    assert all(policy.route[0][-1] == "b" and max(policy.seams, default=-3.21) <= -3.21 for policy in found.values())
    assert found[0] == snrouter.Single("b")


def test_the_interval_may_be_narrower():
    profile = made_up(torch.tensor([[1.0] * 6, [5.0] * 3 + [0.1] * 3]))
    bounds = GammaInterval(-10.0, 0.0)
    for policy in best_routes(profile, Constraints(seams=3), bounds).values():
        assert all(bounds.gamma_min < seam < bounds.gamma_max for seam in policy.seams)
    profile.errors["a"][:, 0] = torch.nan
    assert 0 in best_routes(profile, Constraints(experts=("a",)), (-8.0, 4.0))


def test_as_many_seams_as_there_are_places_for():
    profile = made_up(torch.rand(2, 4))
    assert max(best_routes(profile, Constraints(seams=50))) == 3


def test_no_expert_runs_beyond_its_support_where_nobody_happened_to_ask(oracles):
    """Between the end of a support and a constraint close to it there may be none of twelve gammas."""
    experts = {"low": oracles.Linear(0.3, (-20.0, -3.05)), "high": oracles.Linear(0.9)}
    constraints = Constraints(experts=("low", "high"), above={"high": -3.0})
    for seed in range(30):
        profile = snrouter.profile(experts, oracles.images(12), (-9.0, 5.0), times=8, seed=seed)
        for policy in best_routes(profile, constraints).values():
            snrouter.merge(experts, policy).require(-9.0, 5.0)
            assert all(seam <= -3.05 for seam in policy.seams)


def test_impossible_constraints_are_told():
    profile = ragged(0)
    with pytest.raises(SupportError, match=r"no route of exactly 9 seams .* a \[-9\.333, 4\], b \[-12, 4\], c \[-12, 1\.333\]"):
        best_routes(profile, Constraints(seams=9, exactly=True))
    with pytest.raises(SupportError, match=r"at most 4 seams keeps the constraints; .* a nowhere, b nowhere, c nowhere"):
        best_routes(profile, Constraints(above={"a": -20.0, "b": -20.0}))
    with pytest.raises(SpecError, match="above names expert 'A', which was not profiled"):
        best_routes(profile, Constraints(above={"A": 1.0}))
    with pytest.raises(SpecError, match="no expert in common"):
        best_routes(profile, Constraints(experts=("a",), order=("b",)))
    with pytest.raises(SpecError, match="each expert once, got a, b, a"):
        Constraints(order=("a", "b", "a"))
    with pytest.raises(SpecError, match="seams: expected a whole number of at least 0, got -1"):
        Constraints(seams=-1)
    for faulty, message in (
        ({"order": "low"}, r"order: expected several names, e.g. \('low',\); got the text 'low'"),
        ({"experts": ("a", "a")}, "experts: expected each expert once, got a, a"),
        ({"seams": 1.5}, "seams: expected a whole number of at least 0, got 1.5"),
        ({"above": {"low": math.nan}}, "above: expected a finite gamma for 'low', got nan"),
    ):
        with pytest.raises(SpecError, match=message):
            Constraints(**faulty)
