"""Mixtures: weights by shares, by lot, by label and by a gate, dense and sparse, against the routes and sums that they must be."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import snrouter
from snrouter import ByClass, Fixed, Gate, Piecewise, Random, Stretch, Threshold, TopK, merge
from snrouter.data.base import from_levels
from snrouter.errors import CheckpointError, NonFiniteError, SpecError, SupportError
from snrouter.experts.base import Prediction
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks.gate import GateNetwork
from snrouter.experts.networks.unet import UNet
from snrouter.gamma import GammaInterval
from snrouter.router.gate import gate as gate_of
from snrouter.router.gate import top_k as top_k_of
from snrouter.router.mixture import random as random_of

BOUNDS = GammaInterval(-8.0, 4.0)
SHAPE = (1, 8, 8)
NAMES = ("a", "b", "c", "d")


def filled(network: nn.Module, seed: int, spread: float = 0.3) -> nn.Module:
    """A network of normal weights, frozen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


def unet(seed: int, prediction: str = "v", classes: int = 0) -> snrouter.Expert:
    network = filled(UNet(in_channels=1, channels=(4,), fourier=(), classes=classes), seed)
    return snrouter.wrap(network, prediction, (-10.0, 6.0), clock="gamma", name=prediction, conditional=bool(classes))


def trained(experts: int = 4, seed: int = 0) -> GateNetwork:
    network = filled(GateNetwork(experts=experts, channels=[4], width=8), seed)
    assert isinstance(network, GateNetwork)
    return network


def soft(names=NAMES, seed: int = 0) -> Gate:
    return Gate(trained(len(names), seed), names)


class Steep(nn.Module):
    """A gate that puts all weight on one expert at each gamma: the lower one up to and at each switch."""

    def __init__(self, *switches: float) -> None:
        super().__init__()
        self.switches = nn.Parameter(torch.tensor(switches, dtype=torch.float64), requires_grad=False)  # so that gamma is float64

    def forward(self, z, gamma):
        piece = torch.bucketize(gamma.contiguous(), self.switches)
        return 1e4 * nn.functional.one_hot(piece, len(self.switches) + 1)


@pytest.fixture(scope="module")
def four() -> dict[str, snrouter.Expert]:
    """Networks of four kinds: what they predict does not matter to a mixture, which is of eps_hat."""
    return {name: unet(seed, kind) for seed, (name, kind) in enumerate(zip(NAMES, ("v", "eps", "x", "edm"), strict=True))}


def states(batch: int = 7, shape=SHAPE, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return z, BOUNDS.at(torch.rand(batch, generator=generator, dtype=torch.float64))


def pictures(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return from_levels(torch.randint(256, (count, *SHAPE), generator=generator), 256, dtype)


class Pixels(nn.Module):
    """A gate whose logits are pixels, so that its arithmetic does not depend on the batch."""

    def forward(self, z, gamma):
        return z.flatten(1)[:, :3]


class Elementwise(snrouter.Expert):
    """Arithmetic that does not depend on who shares the batch."""

    def __init__(self, name: str, slope: float) -> None:
        super().__init__(GammaInterval(-20.0, 20.0), name)
        self.slope = slope
        self.seen: list[int] = []

    def predict(self, z, gamma, condition=None):
        self.seen.append(len(z))
        eps = self.slope * z * (1 + 0.1 * z.abs())
        return Prediction(eps, z - eps, {"": len(z)})


def straight(names=NAMES) -> dict[str, Elementwise]:
    return {name: Elementwise(name, 0.2 + 0.15 * i) for i, name in enumerate(names)}


class TestWeights:
    def test_a_mixture_is_the_weighted_sum_of_noise_and_image(self, four):
        z, gamma = states()
        policy = soft()
        shares = policy.weights(gamma, z)
        told = merge(four, policy)(z, gamma)
        for got, parts in zip(told[:2], zip(*(four[name](z, gamma)[:2] for name in NAMES), strict=True), strict=True):
            wanted = sum(share[:, None, None, None].float() * part for share, part in zip(shares.T, parts, strict=True))
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        assert told.calls == dict.fromkeys(NAMES, len(z))
        assert float(shares.std(0).min()) > 0.01  # rows differ, or this shows little

    def test_image_and_noise_still_make_up_the_state(self, four):
        z, gamma = states(dtype=torch.float64)
        eps, x, _ = merge(four, TopK(soft(), 2))(z, gamma)
        al, si = (part.reshape(-1, 1, 1, 1) for part in ((1 + gamma.exp()).rsqrt(), (1 + (-gamma).exp()).rsqrt()))
        torch.testing.assert_close(al * x + si * eps, z, rtol=1e-9, atol=1e-9)

    def test_top_k_keeps_the_largest_and_renormalises(self):
        policy, (z, gamma) = soft(), states()
        dense, kept = policy.weights(gamma, z), TopK(policy, 2).weights(gamma, z)
        assert (kept != 0).sum(1).tolist() == [2] * len(z)
        torch.testing.assert_close(kept.sum(1), torch.ones(len(z)).double(), rtol=0, atol=1e-15)
        for row, full in zip(kept, dense, strict=True):
            top = full.argsort(descending=True)[:2]
            torch.testing.assert_close(row[top], full[top] / full[top].sum(), rtol=1e-15, atol=0)

    def test_of_equal_weights_the_first_are_kept(self):
        untrained = Gate(GateNetwork(experts=4, channels=[4]).eval(), NAMES)  # all logits are zero
        z, gamma = states()
        assert TopK(untrained, 2).weights(gamma, z).tolist() == [[0.5, 0.5, 0, 0]] * len(z)

    def test_fixed_weights_leave_out_those_of_no_weight(self, four):
        z, gamma = states()
        told = merge(four, Fixed({"a": 0.25, "b": 0.0, "c": 0.75}))(z, gamma)
        assert told.calls == {"a": 7, "c": 7}
        torch.testing.assert_close(told.eps_hat, 0.25 * four["a"].eps_hat(z, gamma) + 0.75 * four["c"].eps_hat(z, gamma))

    def test_the_label_chooses_the_expert(self):
        experts, (z, gamma) = straight(), states(6)
        labels = torch.tensor([0, 1, 2, 0, 2, 1])
        policy = ByClass({"a": [0, 2], "b": [1]})
        told = merge(experts, policy)(z, gamma, labels)
        for row, name in enumerate("abaaab"):
            assert torch.equal(told.eps_hat[row], experts[name].eps_hat(z[row : row + 1], 0.0)[0])
        assert told.calls == {"a": 4, "b": 2}
        for wrong, said in ((None, "got none"), (torch.eye(6), r"got a condition \[6, 6\]"), (labels + 5, "no expert has label 5")):
            with pytest.raises(SpecError, match=said):
                merge(experts, policy)(z, gamma, wrong)

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: Fixed({"a": 0.5, "b": 0.6}), "weights of at least 0 that sum to 1"),
            (lambda: Fixed({"a": 1.5, "b": -0.5}), "weights of at least 0 that sum to 1"),
            (lambda: Fixed({}), "weights of at least 0 that sum to 1"),
            (lambda: Random([]), "one or more experts, each once"),
            (lambda: Random(["a", "a"]), "one or more experts, each once"),
            (lambda: random_of((), available=("a", "b")), "one or more experts, each once"),
            (lambda: ByClass({"a": [0], "b": [0]}), "some for each expert, each once"),
            (lambda: ByClass({"a": [0], "b": []}), "some for each expert, each once"),
            (lambda: TopK(soft(), 5), "expected 1 to 4"),
            (lambda: TopK(soft(), 0), "expected 1 to 4"),
        ],
    )
    def test_what_is_no_mixture_is_refused(self, make, said):
        with pytest.raises(SpecError, match=said):
            make()

    def test_a_network_of_another_number_of_experts_is_refused(self, four):
        z, gamma = states()
        with pytest.raises(SpecError, match=r"expected logits \[7, 4\], one an expert, got \[7, 3\]"):
            merge(four, Gate(trained(3), NAMES))(z, gamma)

    def test_experts_without_a_common_support_are_refused(self):
        experts = {"a": snrouter.wrap(UNet(), "v", (-9.0, -2.0)), "b": snrouter.wrap(UNet(), "v", (-1.0, 4.0))}
        with pytest.raises(SupportError, match=r"no support in common: 'a' \[-9, -2\], 'b' \[-1, 4\]"):
            merge(experts, Fixed({"a": 0.5, "b": 0.5}))
        experts["b"] = snrouter.wrap(UNet(), "v", (-5.0, 4.0))
        assert merge(experts, Fixed({"a": 0.5, "b": 0.5})).support == (-5.0, -2.0)


class TestSparse:
    def test_experts_are_asked_for_just_the_rows_that_weight_them(self):
        experts, (z, gamma) = straight(), states(20)
        policy = TopK(soft(), 2)
        told = merge(experts, policy)(z, gamma)
        weights = policy.weights(gamma, z)
        counts = dict(zip(NAMES, (weights != 0).sum(0).tolist(), strict=True))
        assert told.calls == {name: count for name, count in counts.items() if count}
        assert sum(told.calls.values()) == 2 * len(z)
        assert {name: expert.seen for name, expert in experts.items()} == {
            name: [count][: bool(count)] for name, count in counts.items()
        }
        dense = sum(
            w.reshape(-1, 1, 1, 1).float() * experts[name].eps_hat(z, gamma) for name, w in zip(NAMES, weights.T, strict=True)
        )
        torch.testing.assert_close(told.eps_hat, dense)

    def test_all_of_k_is_the_dense_mixture_bit_for_bit(self, four):
        policy, (z, gamma) = soft(), states()
        dense, all_four = merge(four, policy), merge(four, TopK(policy, 4))
        assert all_four.invertible
        for first, second in zip(dense(z, gamma)[:2], all_four(z, gamma)[:2], strict=True):
            assert torch.equal(first, second)
        samples = [snrouter.sample(route, 3, SHAPE, BOUNDS, snrouter.Heun(4)).x for route in (dense, all_four)]
        assert torch.equal(*samples)
        images = pictures(3)
        for options in ({"estimator": "vlb", "times": 4}, {"solver": snrouter.ODE("rk4", steps=2)}):
            first, second = (snrouter.bits_per_dim(route, images, BOUNDS, **options).values for route in (dense, all_four))
            assert torch.equal(first, second)

    def test_one_of_k_is_the_expert_of_the_largest_weight(self):
        experts, (z, gamma) = straight(), states(20)
        told, weights = merge(experts, TopK(soft(), 1)).eps_hat(z, gamma), soft().weights(gamma, z)
        for row, column in enumerate(weights.argmax(1).tolist()):
            assert torch.equal(told[row], experts[NAMES[column]].eps_hat(z[row : row + 1], 0.0)[0])


class TestAsAPiecewiseRoute:
    SWITCH = BOUNDS.at(0.5)

    @pytest.mark.parametrize("sparse", [False, True])
    def test_the_bound_is_the_same_bit_for_bit(self, four, sparse):
        """At stratified times of which the switch parts two strata, so that networks see the same batches."""
        policy = Gate(Steep(self.SWITCH), ("a", "b"))
        routes = merge(four, TopK(policy, 1) if sparse else policy), merge(four, Threshold("a", "b", self.SWITCH))
        images = pictures(5)
        first, second = (snrouter.bits_per_dim(route, images, BOUNDS, "vlb", times=8) for route in routes)
        assert torch.equal(first.values, second.values)
        assert first.nfe_per_expert == (second.nfe_per_expert if sparse else {"a": 8, "b": 8})

    def test_so_it_is_where_a_switch_divides_a_batch(self):
        experts, switches = straight(("a", "b", "c")), (-5.1, 0.37)
        pieces = Piecewise([Stretch("a", switches[0]), Stretch("b", switches[1]), Stretch("c")])
        images = pictures(5, torch.float64)
        routes = merge(experts, Gate(Steep(*switches), ("a", "b", "c"))), merge(experts, pieces)
        first, second = (snrouter.bits_per_dim(route, images, BOUNDS, "vlb", times=5) for route in routes)
        assert torch.equal(first.values, second.values)

    @pytest.mark.parametrize(("solver", "allowed"), [(snrouter.DDIM(9), 0), (snrouter.Ancestral(9), 0), (snrouter.Euler(9), 1e-5)])
    def test_samples_are_the_same_bit_for_bit_where_the_switch_is_a_node(self, four, solver, allowed):
        """Of solvers that ask once a step, where it begins; at a seam Euler goes to z and back, and Heun asks whom it leaves."""
        node = solver.grid(BOUNDS)[3]
        routes = merge(four, Gate(Steep(node), ("a", "b"))), merge(four, Threshold("a", "b", node))
        first, second = (snrouter.sample(route, 3, SHAPE, BOUNDS, solver, final="none").x for route in routes)
        torch.testing.assert_close(first, second, rtol=allowed, atol=0)
        other = merge(four, Gate(Steep(node - 1e-9), ("a", "b")))  # the node is the upper expert's
        assert not torch.allclose(snrouter.sample(other, 3, SHAPE, BOUNDS, solver, final="none").x, second)


class TestLots:
    @pytest.fixture
    def routes(self, oracles):
        experts = straight(("a", "b", "c"))
        lots = merge(experts, Random(("a", "b", "c"), seed=1))
        other = oracles.Linear()
        return {
            "alone": lots,
            "below a switch": merge({"lots": lots, "other": other}, Threshold("lots", "other", 1.0)),
            "in a mixture": merge({"lots": lots, "other": other}, Fixed({"lots": 0.5, "other": 0.5})),
            "by lot among lots": merge({"lots": lots, "a": experts["a"]}, Random(("lots", "a"), seed=2)),
            "under a top-k": merge(
                {"lots": lots, "a": experts["a"], "b": experts["b"]}, TopK(Gate(Pixels(), ("lots", "a", "b")), 2)
            ),
        }

    KINDS = ("alone", "below a switch", "in a mixture", "by lot among lots", "under a top-k")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("solver", [snrouter.DDIM(6), snrouter.Heun(6)])
    def test_a_sample_is_the_same_in_any_batch_and_order(self, routes, kind, solver):
        draw = {"shape": SHAPE, "interval": BOUNDS, "solver": solver, "dtype": torch.float64}
        route, order = routes[kind], [5, 0, 3, 1, 4, 2]
        for final in ("none", "denoise"):
            whole = snrouter.sample(route, 6, **draw, final=final).x
            assert torch.equal(snrouter.sample(route, 6, **draw, final=final, batch_size=4).x, whole)
            assert torch.equal(snrouter.sample(route, 6, **draw, final=final, indices=order).x, whole[order])
        assert not torch.equal(whole[:3], snrouter.sample(route, 3, **draw, final=final, indices=[9, 1, 2]).x)

    @pytest.mark.parametrize("kind", KINDS)
    def test_so_is_the_bound_of_an_image(self, routes, kind):
        images = pictures(6, torch.float64)
        route, order = routes[kind], [5, 0, 3, 1, 4, 2]
        whole = snrouter.bits_per_dim(route, images, BOUNDS, "vlb", times=4).values
        turned = snrouter.bits_per_dim(route, images[order], BOUNDS, "vlb", times=4, indices=order).values
        alone = snrouter.bits_per_dim(route, images[4:5], BOUNDS, "vlb", times=4, indices=[4]).values
        assert torch.equal(turned, whole[order])
        assert torch.equal(alone, whole[4:5])

    def test_every_expert_is_as_likely_and_seeds_differ(self):
        gamma, z = BOUNDS.at(torch.linspace(0, 1, 3000, dtype=torch.float64)), torch.zeros(3000, 1)
        first, second = (Random(("a", "b", "c"), seed).weights(gamma, z) for seed in (0, 1))
        assert first.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
        assert float((first * second).sum(1).mean()) == pytest.approx(1 / 3, abs=0.03)
        at_once = Random(("a", "b", "c")).weights(gamma[:1].expand(3000), z)
        assert at_once.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)  # at one gamma, over samples


class TestLikelihood:
    @pytest.mark.parametrize(
        ("policy", "said"),
        [
            (TopK(soft(), 2), "policy TopK is not: its 2 largest weights jump where two weights cross in z"),
            (Random(NAMES), "policy Random is not: an expert is drawn anew at every noise level"),
            (TopK(Random(NAMES), 2), "policy TopK is not: an expert is drawn anew at every noise level"),
        ],
    )
    def test_the_exact_density_of_a_discontinuous_policy_is_refused_with_its_name_and_why(self, four, policy, said):
        routes = merge(four, policy), merge({"inner": merge(four, policy)}, snrouter.Single("inner"))
        for route in routes:
            with pytest.raises(SpecError, match=rf"needs an invertible flow, and that of the {said}.*; use estimator: vlb"):
                snrouter.bits_per_dim(route, pictures(2), BOUNDS)
            with pytest.raises(SpecError, match=f"a reconstruction needs .* {said}"):
                snrouter.reconstruct(route, pictures(2), BOUNDS)
            assert snrouter.bits_per_dim(route, pictures(2), BOUNDS, "vlb", times=4).value > 0

    @pytest.mark.parametrize("policy", [soft(), Fixed({"a": 0.3, "b": 0.7}), ByClass({"a": [0], "b": [1]})])
    def test_the_divergence_of_a_continuous_mixture_is_that_of_finite_differences(self, policy):
        """The gate's own gradient is part of it: with weights held still it would be another."""
        if isinstance(policy, Gate):
            policy = Gate(trained().double(), NAMES)
        experts = {name: unet(seed).double() for seed, name in enumerate(NAMES)}
        route = merge(experts, policy)
        labels = torch.tensor([0, 1]) if isinstance(policy, ByClass) else None
        z, _ = states(2, (1, 4, 4), torch.float64)
        exact = jacobian_trace(route, z, labels)
        h, numeric = 1e-5, torch.zeros(2, dtype=torch.float64)
        for i in range(16):
            step = h * nn.functional.one_hot(torch.tensor(i), 16).double().reshape(1, 1, 4, 4)
            ahead, behind = (route.eps_hat(z + sign * step, -1.0, labels) for sign in (1, -1))
            numeric += ((ahead - behind) / (2 * h)).flatten(1)[:, i]
        torch.testing.assert_close(exact, numeric, rtol=1e-6, atol=1e-7)
        if isinstance(policy, Gate):
            still = policy.weights(torch.full((2,), -1.0, dtype=torch.float64), z)
            parts = {name: jacobian_trace(experts[name], z, None) for name in NAMES}
            held = sum(share * parts[name] for share, name in zip(still.T, NAMES, strict=True))
            assert float((held - exact).abs().min()) > 1e-3

    def test_the_exact_density_of_a_soft_gate_runs(self, four):
        images = pictures(2)
        for divergence in ("exact", "hutchinson"):
            solver = snrouter.ODE("rk4", steps=2)
            found = snrouter.bits_per_dim(merge(four, soft()), images, BOUNDS, solver=solver, divergence=divergence)
            assert bool(torch.isfinite(found.values).all())
            assert set(found.nfe_per_expert) == set(NAMES)


def jacobian_trace(expert: snrouter.Expert, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    from snrouter.metrics.likelihood.ode import _exact_trace

    z = z.clone().requires_grad_()
    return _exact_trace(expert.eps_hat(z, -1.0, labels), z)


class TestPrecision:
    def test_in_float64_the_mixture_is_of_float64(self, four):
        z, gamma = states(dtype=torch.float64)
        route = merge(four, soft())
        eps = route.eps_hat(z, gamma)
        assert eps.dtype == torch.float64
        torch.testing.assert_close(eps.float(), route.eps_hat(z.float(), gamma), rtol=1e-4, atol=1e-4)

    def test_under_bfloat16_weights_sum_to_one(self, four):
        z, gamma = states()
        for policy in (soft(), TopK(soft(), 2)):
            with torch.autocast("cpu", torch.bfloat16):
                weights, told = policy.weights(gamma, z), merge(four, policy)(z, gamma)
            assert weights.dtype == torch.float64
            torch.testing.assert_close(weights.sum(1), torch.ones(len(z)).double(), rtol=0, atol=1e-12)
            assert told.eps_hat.dtype == torch.float32
            assert bool(torch.isfinite(told.eps_hat).all())

    def test_the_gate_goes_where_the_route_goes(self, four):
        route = merge(straight(), Gate(trained(), NAMES)).to("meta")
        assert {parameter.device.type for parameter in route.policy.network.parameters()} == {"meta"}
        assert len(list(route.parameters())) == len(list(trained().parameters()))
        nested = merge({"r": route, "a": Elementwise("a", 0.5)}, Threshold("r", "a", 0.0))
        assert sum(p.numel() for p in nested.parameters()) == sum(p.numel() for p in trained().parameters())


class TestCheckpoint:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        arguments = {"type": "gate", "experts": 4, "channels": [4], "width": 8}
        path = tmp_path / "gate.safetensors"
        save_checkpoint(path, trained(), {"network": arguments, "gate": {"experts": list(NAMES)}})
        return path

    def test_it_is_the_gate_that_was_saved(self, saved):
        z, gamma = states()
        for made, wanted in (
            (gate_of(saved), soft()),
            (top_k_of(saved, 3), TopK(soft(), 3)),
            (gate_of(saved, top_k=1), TopK(soft(), 1)),
        ):
            assert torch.equal(made.weights(gamma, z), wanted.weights(gamma, z))
            assert made.experts == NAMES
        assert gate_of(saved, experts=("w", "x", "y", "z")).experts == ("w", "x", "y", "z")

    def test_its_repr_tells_the_weights_and_no_address(self, saved, tmp_path):
        other = tmp_path / "other.safetensors"
        save_checkpoint(other, trained(seed=1), json.loads(saved.with_suffix(".json").read_text()))
        assert repr(gate_of(saved)) == repr(gate_of(saved)) != repr(gate_of(other))
        assert " at 0x" not in repr(gate_of(saved))

    def test_what_is_wrong_is_told(self, saved, tmp_path):
        with pytest.raises(SpecError, match=r"this gate has 4 \(a, b, c, d\); got 2"):
            gate_of(saved, experts=("a", "b"))
        unet_file = tmp_path / "unet.safetensors"
        save_checkpoint(
            unet_file, UNet(in_channels=1, channels=(4,)), {"network": {"type": "unet", "in_channels": 1, "channels": [4]}}
        )
        with pytest.raises(CheckpointError, match="its card is of no gate"):
            gate_of(unet_file)
        with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
            gate_of(tmp_path / "absent.safetensors")


class TestGateAskedWrongly:
    def test_a_gate_is_not_asked_where_it_was_not_trained(self):
        route = merge(straight(), Gate(trained(), NAMES, trained_on=GammaInterval(-5.0, 3.0)))
        with pytest.raises(SupportError, match=r"gate was asked at gamma=-6, and was trained on"):
            route.eps_hat(torch.zeros(2, 1, 8, 8), -6.0)
        with pytest.raises(SupportError, match="narrow the interval, or train it on this one"):
            route.require(-5.0, 4.0)
        route.require(-5.0, 3.0)

    @pytest.mark.parametrize("k", [1, 2, len(NAMES)])
    def test_nan_of_a_gate_is_told_however_few_experts_run(self, k):
        broken = trained()
        torch.nn.init.constant_(broken.mix[-1].bias, math.nan)
        with pytest.raises(NonFiniteError, match=r"gate returned NaN or infinity at gamma=-1 for 2 of 2 images"):
            merge(straight(), TopK(Gate(broken, NAMES), k)).eps_hat(torch.zeros(2, 1, 8, 8), -1.0)

    def test_images_of_other_channels_are_told(self):
        with pytest.raises(SpecError, match=r"gate cannot take images of shape \[3, 8, 8\]"):
            Gate(trained(), NAMES).weights(torch.zeros(2).double(), torch.zeros(2, 3, 8, 8))
