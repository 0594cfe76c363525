"""Experts that are heads of one network: its trunk runs once a batch, and the mixture is that of the heads one by one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from golden.weights import fill

import snrouter
from snrouter import spec
from snrouter.errors import SpecError, SupportError
from snrouter.evaluation import Worker, own_route
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.network import NetworkExpert
from snrouter.experts.networks import build
from snrouter.experts.networks.adapter_unet import AdapterUNet
from snrouter.experts.parameterization import eps
from snrouter.gamma import GammaInterval
from snrouter.router.base import Mixture
from snrouter.router.mixture import Fixed
from snrouter.router.offload import offload
from snrouter.schedules import LinearSchedule
from snrouter.testing import ExpertContract

SUPPORT = (-7.86, 5.0)
CONFIG = {"type": "adapter_unet", "heads": 4, "adapter": 3, "channels": [4, 8], "fourier": [1.0]}
NAMES = ("a", "b", "c", "d")
GAMMA = torch.tensor([-6.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
SHARES = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}


@dataclass(frozen=True)
class Table(Mixture):
    """The weights that each row of the batch has."""

    rows: torch.Tensor
    experts: tuple[str, ...] = NAMES

    def weights(self, gamma, z, condition=None):
        return self.rows


TOP_2 = Table(
    torch.tensor([[0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0], [0.2, 0, 0, 0.8], [0, 0, 0.5, 0.5], [0.9, 0.1, 0, 0]], dtype=torch.float64)
)


def states(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


class Watched:
    """How many rows the trunk was run on, call by call."""

    def __init__(self, network: AdapterUNet) -> None:
        self.rows: list[int] = []
        network.trunk.register_forward_hook(lambda module, given, output: self.rows.append(len(output)))


@pytest.fixture
def network() -> AdapterUNet:
    return fill(build(CONFIG)).eval()


def heads_of(network: AdapterUNet, **changed: Mapping[str, object]) -> dict[str, NetworkExpert]:
    row, clock = eps, LinearSchedule(*SUPPORT).t
    return {
        name: NetworkExpert(
            network.head(number),
            **{"parameterization": row, "clock": clock, "support": GammaInterval(*SUPPORT), "name": name} | changed.get(name, {}),
        )
        for number, name in enumerate(NAMES)
    }


def one_by_one(experts: Mapping[str, NetworkExpert], weights: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    parts = [experts[name].eps_hat(z, GAMMA) for name in NAMES]
    return sum(weights[:, k, None, None, None].to(z) * part for k, part in enumerate(parts))


def test_a_dense_mixture_is_the_heads_one_by_one_and_runs_the_trunk_once(network):
    experts, z = heads_of(network), states()
    expected = torch.zeros_like(z)
    for name, share in SHARES.items():
        expected = expected + torch.tensor(share) * experts[name].eps_hat(z, GAMMA)
    watched = Watched(network)
    prediction = snrouter.merge(experts, Fixed(SHARES))(z, GAMMA)
    assert watched.rows == [5]
    assert torch.equal(prediction.eps_hat, expected)
    assert prediction.calls == dict.fromkeys(NAMES, 5)
    assert float((experts["a"].eps_hat(z, GAMMA) - experts["b"].eps_hat(z, GAMMA)).detach().abs().max()) > 0.01


def test_a_sparse_mixture_runs_each_head_on_its_rows_alone(network):
    experts, z = heads_of(network), states()
    expected, watched, asked = one_by_one(experts, TOP_2.rows, z), Watched(network), []
    for head in network.heads:
        head.register_forward_hook(lambda module, given, output: asked.append(len(output)))
    prediction = snrouter.merge(experts, TOP_2)(z, GAMMA)
    assert watched.rows == [5]
    assert asked == [3, 3, 2, 2]
    assert prediction.calls == {"a": 3, "b": 3, "c": 2, "d": 2}
    torch.testing.assert_close(prediction.eps_hat, expected, rtol=1e-5, atol=1e-5)


def test_the_trunk_runs_on_no_row_that_only_other_experts_are_asked_for(network, oracles):
    experts = heads_of(network) | {"c": oracles.Linear(0.5, name="c"), "d": oracles.Linear(0.2, name="d")}
    z, watched = states(), Watched(network)
    expected = one_by_one(experts, TOP_2.rows, z)
    watched.rows.clear()
    got = snrouter.merge(experts, TOP_2)(z, GAMMA).eps_hat
    assert watched.rows == [4]  # row 3 is c's and d's
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [{"data_scale": 2.0}, {"clock": LinearSchedule(-13.3, 5.0).t}, {"parameterization": snrouter.experts.parameterization.edm}],
)
def test_heads_that_are_fed_otherwise_run_the_trunk_for_themselves(network, changed):
    supports = {"support": GammaInterval(-12.0, 9.0)}
    experts = heads_of(network, **{name: supports | (changed if name == "b" else {}) for name in NAMES})
    z, weights = states(), torch.tensor([[*SHARES.values()]], dtype=torch.float64).expand(5, 4)
    expected, watched = one_by_one(experts, weights, z), Watched(network)
    got = snrouter.merge(experts, Fixed(SHARES))(z, GAMMA).eps_hat
    assert watched.rows == [5, 5]
    torch.testing.assert_close(got, expected)


def test_one_head_alone_needs_no_sharing(network):
    experts, watched = heads_of(network), Watched(network)
    route = snrouter.merge(experts, snrouter.Threshold("a", "b", 0.0))
    route(states(), 3.0)
    assert watched.rows == [5]
    route(states(), GAMMA)
    assert watched.rows[1:] == [5]  # both heads have rows, and share


def test_every_head_keeps_its_own_support(network):
    experts = heads_of(network, b={"support": GammaInterval(-5.0, 5.0)})
    route = snrouter.merge(experts, snrouter.Threshold("a", "b", 0.0))
    route(states(), GAMMA)
    z, gamma = states()[:2], torch.tensor([-7.0, 6.0], dtype=torch.float64)
    with pytest.raises(SupportError, match="expert 'b' was asked at gamma=6"):
        route(z, gamma)


def test_what_is_wrong_with_the_images_is_said_of_the_expert(network):
    route = snrouter.merge(heads_of(network), Fixed(SHARES))
    with pytest.raises(SpecError, match="expert 'a': this U-Net halves images 1 times"):
        route(torch.zeros(1, 1, 3, 3), 0.0)
    plain = snrouter.wrap(torch.nn.Identity(), support=SUPPORT, name="plain")
    assert plain.trunk is None
    with pytest.raises(SpecError, match="expert 'plain': expected a network with a trunk and a head"):
        plain.features(states(), GAMMA)


def test_its_derivative_by_the_state_is_right(network):
    """By finite differences, in float64: the exact divergence is read off it."""
    experts = {name: expert.double() for name, expert in heads_of(network).items()}
    route = snrouter.merge(experts, Fixed(SHARES))
    z = states(torch.float64)[:2].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: route(z, GAMMA[:2]).eps_hat, z)


@pytest.mark.parametrize("policy", [Fixed(SHARES), TOP_2], ids=["dense", "sparse"])
def test_gradients_of_weights_are_those_of_the_heads_one_by_one(network, policy):
    experts, z = heads_of(network), states()
    weights = policy.weights(GAMMA, z)
    gradients = []
    for loss in (
        snrouter.merge(experts, policy)(z, GAMMA).eps_hat.square().sum(),
        one_by_one(experts, weights, z).square().sum(),
    ):
        gradients.append(torch.autograd.grad(loss, [*network.parameters()]))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert all(bool(gradient.any()) for gradient in gradients[0])


def test_heads_that_take_turns_on_the_device_say_the_same(network):
    z, watched = states(), Watched(network)
    expected = snrouter.merge(heads_of(network), Fixed(SHARES))(z, GAMMA)
    got = snrouter.merge(offload(heads_of(network)), Fixed(SHARES))(z, GAMMA)
    assert torch.equal(got.eps_hat, expected.eps_hat)
    assert watched.rows == [5, 5, 5, 5, 5]  # each for itself, since the one before it has left


class TestHead(ExpertContract):
    shape = (1, 4, 4)

    def make(self):
        return heads_of(fill(build(CONFIG)).eval())["b"]


class TestMixtureOfHeads(ExpertContract):
    shape = (1, 4, 4)

    def make(self):
        return snrouter.merge(heads_of(fill(build(CONFIG)).eval()), Fixed(SHARES))


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["vdm", "edm"])
def saved(request, tmp_path, network) -> tuple[str, Path]:
    path = tmp_path / "experts.safetensors"
    held = {"support": list(SUPPORT)} | ({"data_scale": 1.0, "sigma_data": 0.3} if request.param == "edm" else {})
    save_checkpoint(path, network, {"type": request.param, "network": CONFIG, "expert": held, "heads": [*NAMES]})
    return request.param, path


def test_experts_of_one_file_are_its_heads_and_share_its_trunk(saved, network):
    kind, path = saved
    loaded = {}
    experts = {name: snrouter.load_expert(kind, path, head=k, name=name, loaded=loaded) for k, name in enumerate(NAMES)}
    assert len({id(expert.network.trunk) for expert in experts.values()}) == 1
    assert len({expert.trunk for expert in experts.values()}) == 1
    trunk, z = experts["a"].network.trunk, states()
    apart = {name: snrouter.load_expert(kind, path, head=k) for k, name in enumerate(NAMES)}
    assert apart["a"].network.trunk is not trunk
    calls = []
    trunk.register_forward_hook(lambda *_: calls.append(1))
    merged = snrouter.merge(experts, Fixed(SHARES))
    got = merged(z, GAMMA)
    assert calls == [1]
    assert torch.equal(got.eps_hat, snrouter.merge(apart, Fixed(SHARES))(z, GAMMA).eps_hat)
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in network.parameters())
    level, fed = apart["c"].clock(GAMMA).float(), apart["c"].parameterization(GAMMA)
    told = network.head(2)(fed.c_in[:, None, None, None].float() * z, level)
    by_hand = fed.a[:, None, None, None] * z + fed.b[:, None, None, None] * told
    torch.testing.assert_close(apart["c"].eps_hat(z, GAMMA).double(), by_hand)


def test_a_head_must_be_named_for_a_file_of_several_and_be_there(saved):
    kind, path = saved
    for head in (None, 4):
        with pytest.raises(SpecError, match=rf"checkpoint .*experts.safetensors: its network has 4 heads, got head: {head}"):
            snrouter.load_expert(kind, path, head=head)


def test_a_run_has_one_trunk_for_all_experts_of_a_file(saved):
    kind, path = saved
    text = "\n".join(f"  {name}: {{type: {kind}, checkpoint: {path}, head: {k}}}" for k, name in enumerate(NAMES))
    file = path.with_name("spec.yaml")
    file.write_text(
        f"experts:\n{text}\nroute: {{type: fixed, shares: {{a: 0.25, b: 0.25, c: 0.25, d: 0.25}}}}\n"
        "interval: {gamma_min: -7.86, gamma_max: 5.0}\nshape: [1, 4, 4]\nprecision: float64\n"
    )
    worker = Worker([own_route(spec.load(file))])
    route = worker.expert(worker.routes[0])
    assert len({id(route.expert(name).network.trunk) for name in NAMES}) == 1
    watched = []
    route.expert("a").network.trunk.register_forward_hook(lambda module, given, output: watched.append(output.dtype))
    assert route(states(torch.float64), GAMMA).eps_hat.dtype == torch.float64
    assert watched == [torch.float64]


def test_a_document_names_an_unknown_head_where_it_was_written(saved):
    kind, path = saved
    file = path.with_name("spec.yaml")
    file.write_text(f"experts:\n  a: {{type: {kind}, checkpoint: {path}, head: 9}}\nroute: {{type: single, expert: a}}\n")
    with pytest.raises(SpecError, match=r"spec.yaml:2 experts.a: .*4 heads, got head: 9; expected one from 0 to 3"):
        spec.load(file).expert("a")
    file.write_text(f"experts:\n  a: {{type: {kind}, checkpoint: {path}, loaded: {{}}}}\nroute: {{type: single, expert: a}}\n")
    with pytest.raises(SpecError, match="loaded"):
        spec.load(file).check()
