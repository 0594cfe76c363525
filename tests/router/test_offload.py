"""Offload: of several experts one is on the device, and nothing else changes."""

import pytest
import torch

import snrouter
from snrouter import Piecewise, Stretch, Threshold, merge
from snrouter.experts.base import Expert, Prediction
from snrouter.gamma import interval
from snrouter.router.offload import offload

SUPPORT = (-7.86, 5.0)
SWITCH = Threshold("low", "high", -1.0)


class Tenant(Expert):
    """An expert that notes where it is, and must be alone there when it is asked."""

    def __init__(self, name: str, house: dict[str, str]) -> None:
        super().__init__(interval(SUPPORT), name)
        self.house = house

    def to(self, device):
        self.house[self.name] = torch.device(device).type
        assert list(self.house.values()).count("meta") <= 1
        return self

    def predict(self, z, gamma, condition=None):
        assert [name for name, device in self.house.items() if device == "meta"] == [self.name]
        return Prediction(z, z, {"": len(z)})


@pytest.fixture
def house() -> dict[str, str]:
    return {"low": "meta", "high": "cpu"}


@pytest.fixture
def experts(house):
    return offload({name: Tenant(name, house) for name in house})


def test_at_most_one_expert_is_on_the_device_at_any_moment(house, experts):
    assert set(house.values()) == {"cpu"}  # none has run
    route, z = merge(experts, SWITCH), torch.zeros(4, 6, device="meta")
    for gamma in (4.0, 2.0, -1.0, -3.0, 3.0):
        route(z, gamma)
    assert house == {"low": "cpu", "high": "meta"}
    for piece in route.pieces(*SUPPORT):
        piece.expert(z, piece.hi)


def test_an_expert_that_runs_again_is_not_moved_again(house, experts, monkeypatch):
    moves = []
    monkeypatch.setattr(Tenant, "to", lambda self, device: moves.append((self.name, str(device))) or self)
    for expert in experts.values():
        expert.expert.house = {expert.name: "meta"}
    route, z = merge(experts, SWITCH), torch.zeros(4, 6, device="meta")
    for gamma in (4.0, 2.0, -1.0, -3.0):
        route(z, gamma)
    assert moves == [("high", "meta"), ("high", "cpu"), ("low", "meta")]


@pytest.mark.parametrize("then", ["low", "high"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_move_that_fails_is_made_again(house, experts, monkeypatch, moved, then):
    z, move = torch.zeros(1, 3, device="meta"), Tenant.to

    def fail(self, device):
        if moved or device == "cpu":
            move(self, device)
        if device != "cpu":
            raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as full:
        full.setattr(Tenant, "to", fail)
        with pytest.raises(torch.OutOfMemoryError):
            experts["low"](z, 0.0)
    experts[then](z, 0.0)  # alone on the device


@pytest.mark.parametrize("policy", [SWITCH, Piecewise([Stretch("low", -4.0), Stretch("high", 1.0), Stretch("low")])])
def test_results_are_those_of_experts_that_stay_bit_for_bit(oracles, pair, policy):
    kept, moved = merge(pair, policy), merge(offload(pair), policy)
    assert moved.seams == kept.seams
    assert moved.support == kept.support
    settings = {"n": 3, "shape": (6,), "interval": SUPPORT, "dtype": torch.float64, "final": "none"}
    for solver in (snrouter.ODE(rtol=1e-3, atol=1e-3), snrouter.Ancestral(steps=5)):
        first, second = (snrouter.sample(route, solver=solver, **settings) for route in (kept, moved))
        assert torch.equal(first.x, second.x)
        assert first.nfe_per_expert == second.nfe_per_expert
    for estimator in ("ode", "vlb"):
        first, second = (
            snrouter.bits_per_dim(route, oracles.images(3, levels=17), SUPPORT, estimator, "uniform", levels=17, times=8)
            for route in (kept, moved)
        )
        assert torch.equal(first.values, second.values)


def test_a_merge_of_merges_is_offloaded_too(pair):
    inner = merge(pair, SWITCH)
    policy = Threshold("both", "high", 2.0)
    kept = merge({"both": inner, "high": pair["high"]}, policy)
    moved = merge(offload({"both": inner, "high": pair["high"]}), policy)
    assert moved.seams == kept.seams == (-1.0, 2.0)
    z = torch.ones(2, 6, dtype=torch.float64)
    for lo, hi, expert, _ in moved.pieces(*SUPPORT):
        assert torch.equal(expert(z, (lo + hi) / 2).eps_hat, kept(z, (lo + hi) / 2).eps_hat)
