"""The `gating` metric tells whom a route weights where, and asks no expert."""

import math

import pytest
import torch

import snrouter
from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.networks.gate import GateNetwork
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.gating import Gating, shares, variation
from snrouter.metrics.likelihood.denoising import noisy_state, stratified
from snrouter.router.gate import Gate, TopK
from snrouter.router.mixture import ByClass, Fixed, Random
from snrouter.testing.oracles import Watched

BOUNDS = GammaInterval(-7.0, 4.0)
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def context() -> Context:
    pixels = torch.randint(17, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return Context(BOUNDS, snrouter.ODE("rk4", steps=3), ImageData(pixels, 17, torch.arange(40) % 4, "random"), None, 3)


@pytest.fixture
def experts(oracles):
    return {name: oracles.gaussian((1, 4, 4), seed=seed) for seed, name in enumerate(NAMES)}


def gate(seed: int = 0) -> Gate:
    """A gate whose weights are random, and depend on state and gamma."""
    torch.manual_seed(seed)
    network = GateNetwork(1, 4, channels=(4,), width=8, dropout=0.0).eval()
    torch.nn.init.normal_(network.mix[-1].weight)
    return Gate(network, NAMES, "random")


def measured(context, expert, metric=None, batch=40):
    """The rows of all images, in shards."""
    metric = metric or Gating(times=6)
    images = context.data.images(dtype=torch.float64)
    shards = [range(i, min(i + batch, 40)) for i in range(0, 40, batch)]
    rows = [metric.measure(context, expert, images[list(own)], own, context.data.labels[list(own)]) for own in shards]
    return {name: torch.cat([part[name] for part in rows]) for name in rows[0]}


def summary(context, expert, **options):
    metric = Gating(**({"times": 6} | options))
    return metric.summarise(context, measured(context, expert, metric))


def test_a_gate_is_asked_at_the_states_of_the_bound_and_no_expert_runs(context, experts):
    watched = {name: Watched(expert) for name, expert in experts.items()}
    policy = gate()
    rows = measured(context, snrouter.merge(watched, policy))
    assert [expert.rows for expert in watched.values()] == [0] * 4
    draws, images = Draws(context.seed), context.data.images(dtype=torch.float64)
    gamma = BOUNDS.at(stratified(6, draws, range(40)))
    with torch.no_grad():
        expected = torch.stack(
            [policy.weights(gamma[:, j], noisy_state(images, gamma, j, draws, range(40))[0]) for j in range(6)], 1
        )
    torch.testing.assert_close(torch.stack([rows[f"weight/{k}/{name}"] for k, name in enumerate(NAMES)], 2), expected)
    assert not any(name.startswith("nfe/") for name in rows)


def test_utilisation_entropy_and_load_are_means_of_the_weights(context, experts):
    route = snrouter.merge(experts, gate())
    told, rows = summary(context, route), measured(context, route)
    weights = torch.stack([rows[f"weight/{k}/{name}"] for k, name in enumerate(NAMES)], 2)
    columns = told.columns
    for k, name in enumerate(NAMES):
        assert columns["utilisation"][name] == pytest.approx(weights[:, :, k].mean(0).tolist())
        assert columns["load"][name] == pytest.approx(float(weights[..., k].mean()))
    entropy = [sum(-w * math.log(w) for w in row) for row in weights[:, 2].tolist()]
    assert columns["entropy"][2] == pytest.approx(sum(entropy) / 40)
    assert columns["gammas"] == pytest.approx(torch.linspace(-7, 4, 7, dtype=torch.float64).tolist())
    load = torch.tensor(list(columns["load"].values()))
    assert told.value == pytest.approx(float(load.std(correction=0) / load.mean()))
    assert sum(columns["load"].values()) == pytest.approx(1)


def test_experts_keep_the_order_of_the_route(context, experts):
    route = snrouter.merge(experts, Fixed({"d": 0.25, "a": 0.25, "c": 0.5}))
    rows = measured(context, route)
    told = Gating(times=6).summarise(context, {name: rows[name] for name in sorted(rows, reverse=True)})
    assert list(told.columns["load"].items()) == [("d", 0.25), ("a", 0.25), ("c", 0.5)]


def test_shards_make_no_difference(context, experts):
    route = snrouter.merge(experts, TopK(gate(), 2))
    whole, parts = measured(context, route), measured(context, route, batch=7)
    for name, rows in whole.items():
        torch.testing.assert_close(parts[name], rows)
    route = snrouter.merge(experts, Random(NAMES))  # its lots are those of the samples, not of rows
    for name, rows in measured(context, route).items():
        assert torch.equal(measured(context, route, batch=7)[name], rows)


def test_a_route_of_gamma_alone_is_all_or_nothing(context, experts):
    told = summary(context, snrouter.merge(experts, snrouter.Threshold("a", "b", BOUNDS.at(0.5))), times=4)
    assert told.columns["utilisation"] == {"a": [1, 1, 0, 0], "b": [0, 0, 1, 1]}
    assert told.columns["entropy"] == [0, 0, 0, 0]
    assert (told.value, told.standard_error) == (0, 0)
    told = summary(context, snrouter.merge(experts, snrouter.Threshold("a", "b", BOUNDS.at(0.25))), times=4)
    assert told.value == pytest.approx(0.5)  # loads 1/4 and 3/4: 1/4 about a mean of 1/2
    assert told.columns["load"] == {"a": 0.25, "b": 0.75}


def test_a_single_expert_has_all_the_load(context, experts):
    for expert in (experts["a"], snrouter.merge(experts, snrouter.Single("a"))):
        told = summary(context, expert)
        assert list(told.columns["load"].values()) == [1]
        assert (told.value, told.standard_error) == (0, 0)


def test_even_and_uneven_loads(context, experts):
    even = summary(context, snrouter.merge(experts, Fixed(dict.fromkeys(NAMES, 0.25))))
    assert even.value == pytest.approx(0, abs=1e-7)
    assert even.columns["entropy"] == pytest.approx([math.log(4)] * 6)
    one = summary(context, snrouter.merge(experts, Fixed({"a": 0.97, "b": 0.01, "c": 0.01, "d": 0.01})))
    assert one.value == pytest.approx(0.96 * math.sqrt(3))


def test_nested_routes_are_followed_to_their_experts(context, experts):
    inner = snrouter.merge({name: experts[name] for name in "ab"}, ByClass({"a": [0], "b": [1]}), "inner")
    outer = snrouter.merge({"mixed": inner, "c": experts["c"]}, ByClass({"mixed": [0, 1], "c": [2, 3]}))
    told = summary(context, outer)
    assert told.columns["load"] == pytest.approx({"mixed.a": 0.25, "mixed.b": 0.25, "c": 0.5})
    images, labels = context.data.images([2, 6], torch.float64), context.data.labels[[2, 6]]
    none = shares(outer, images, torch.zeros(2, dtype=torch.float64), [2, 6], labels)
    assert {name: part.tolist() for name, part in none.items()} == {"mixed.a": [0, 0], "mixed.b": [0, 0], "c": [1, 1]}


def test_the_error_is_that_of_the_load(context, experts):
    loads = Draws(0).uniform("loads", range(4000), (3,)) * torch.tensor([1.0, 2.0, 3.0])
    loads = (loads / loads.sum(1, keepdim=True)).double()
    value, influence = variation(loads)
    parts = torch.tensor([variation(part)[0] for part in loads.chunk(100)])
    assert float(influence.mean()) == pytest.approx(0, abs=1e-12)
    assert float(influence.std()) / math.sqrt(4000) == pytest.approx(float(parts.std()) / 10, rel=0.25)
    one = loads.clone()
    one[0] = torch.tensor([1.0, 0.0, 0.0])
    assert 4000 * (variation(one)[0] - value) == pytest.approx(float(variation(one)[1][0] - influence[0]), rel=0.05)


def test_what_cannot_be_measured_is_refused(context):
    with pytest.raises(SpecError, match="times: expected at least 1, got 0"):
        Gating(times=0)
    with pytest.raises(SpecError, match="images: expected 1 to 40, the size of the data; got 41"):
        Gating(images=41).count(context)
    assert Gating(images=7).count(context) == 7
    assert Gating().count(context) == 40
    with pytest.raises(SpecError, match="needs the spec's `data`"):
        Gating().count(context._replace(data=None))
