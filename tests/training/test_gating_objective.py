"""The objective of a mixture: its terms and gradients by hand, and what they do to a gate."""

import math

import pytest
import torch

from snrouter.experts.base import Expert, Prediction
from snrouter.experts.networks.gate import GateNetwork
from snrouter.gamma import GammaInterval
from snrouter.recipe import GateRecipe
from snrouter.training.gates import mixing
from snrouter.training.gating import Lots, entropy, load_balance

WEIGHTS = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]], dtype=torch.float64)


def test_the_squared_form_is_the_squared_coefficient_of_variation_of_the_mean_weights():
    mean = WEIGHTS.mean(0)  # 0.55, 0.35, 0.1
    assert float(load_balance(WEIGHTS, "squared")) == pytest.approx(3 * (0.55**2 + 0.35**2 + 0.1**2) - 1)
    assert float(load_balance(WEIGHTS, "squared")) == pytest.approx(float((mean.std(correction=0) / mean.mean()) ** 2))


def test_the_switch_form_weighs_mean_weights_by_the_share_of_rows_won():
    assert float(load_balance(WEIGHTS, "switch")) == pytest.approx(3 * (0.5 * 0.55 + 0.5 * 0.35 + 0 * 0.1) - 1)


@pytest.mark.parametrize("form", ["squared", "switch"])
def test_balance_is_zero_and_one_expert_for_all_is_k_less_one(form):
    assert float(load_balance(torch.eye(4, dtype=torch.float64), form)) == pytest.approx(0)
    assert float(load_balance(torch.eye(4, dtype=torch.float64)[[2] * 5], form)) == pytest.approx(3)


def test_gradients_of_the_terms_by_hand():
    for form, by_hand in (
        ("squared", 2 * 3 * WEIGHTS.mean(0) / 2),  # d/dw_bk K sum P^2 = 2 K P_k / B
        ("switch", 3 * torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64) / 2),  # K f_k / B
    ):
        weights = WEIGHTS.clone().requires_grad_()
        load_balance(weights, form).backward()
        assert torch.allclose(weights.grad, by_hand.expand(2, 3), atol=1e-12)
    weights = WEIGHTS.clone().requires_grad_()
    entropy(weights).backward()
    assert torch.allclose(weights.grad, -(WEIGHTS.log() + 1) / 2, atol=1e-12)


def test_entropy_is_in_nats_and_has_a_gradient_where_a_weight_is_zero():
    assert float(entropy(torch.full((3, 4), 0.25, dtype=torch.float64))) == pytest.approx(math.log(4))
    weights = torch.eye(2, dtype=torch.float64).requires_grad_()
    value = entropy(weights)
    value.backward()
    assert float(value.detach()) == 0
    assert bool(torch.isfinite(weights.grad).all())


class Constant(Expert):
    """Says that all noise is `value`."""

    def __init__(self, value, asked=None):
        super().__init__(GammaInterval(-8.0, 6.0), f"constant {value}")
        self.value = torch.nn.Parameter(torch.tensor(float(value)))
        self.asked = [] if asked is None else asked

    def predict(self, z, gamma, condition=None):
        self.asked.append(len(z))
        return Prediction(self.value.expand(z.shape), z, {"": len(z)})


class Affine(torch.nn.Module):
    """Logits that are parameters, whatever the state."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, z, gamma):
        return self.logits.expand(len(z), -1)


BOUNDS = GammaInterval(-6.0, 4.0)


def objective(recipe, gate, experts, bounds=BOUNDS):
    return mixing(recipe, gate, experts, gate, bounds, conditional=False)


def test_the_loss_and_its_gradients_by_hand():
    """eps_hat = sum_k w_k c_k is a number, so that E||eps - eps_hat||^2 and its gradients are sums over the noise drawn."""
    recipe = GateRecipe(type="gate", load_balance=0.3, entropy=0.2)
    gate, experts = Affine(0.5, -0.25), {"a": Constant(1.0), "b": Constant(-2.0)}
    made = objective(recipe, gate, experts)
    images = torch.rand(6, 1, 2, 2) * 2 - 1
    torch.manual_seed(3)
    loss = made.loss(images, None)
    loss.backward()
    torch.manual_seed(3)
    torch.rand((), dtype=torch.float64)  # the times
    eps = torch.randn_like(images).double()
    w = torch.tensor([0.5, -0.25], dtype=torch.float64).softmax(0)
    c, scale = torch.tensor([1.0, -2.0], dtype=torch.float64), 10 / (2 * math.log(2))
    rest = float(w @ c) - eps
    nll, spread = scale * rest.square().mean(), -(w * w.log()).sum()
    load = 2 * w.square().sum() - 1
    assert float(made.told()["nll"]) == pytest.approx(float(nll), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float(nll + 0.3 * load - 0.2 * spread), rel=1e-5)
    by_weight = scale * 2 * rest.mean() * c + 0.3 * 4 * w + 0.2 * (w.log() + 1)
    by_logit = w * (by_weight - w @ by_weight)
    assert torch.allclose(gate.logits.grad.double(), by_logit, rtol=1e-4)
    for k, expert in enumerate(experts.values()):
        assert float(expert.value.grad) == pytest.approx(float(scale * 2 * rest.mean() * w[k]), rel=1e-4)
    assert {name: float(value) for name, value in made.told().items() if name.startswith("utilisation/")} == pytest.approx(
        {"utilisation/a": float(w[0]), "utilisation/b": float(w[1])}
    )


def test_frozen_experts_are_neither_optimised_nor_in_the_checkpoint():
    made = objective(GateRecipe(type="gate"), Affine(0.0, 0.0), {"a": Constant(1.0), "b": Constant(2.0)})
    assert [name for name, _ in made.named_parameters()] == ["network.logits"]
    assert [*made.state_dict()] == ["network.logits"]


def test_sparse_training_runs_only_the_largest_but_balances_all():
    asked = {"a": [], "b": [], "c": []}
    gate = Affine(1.0, 0.5, -1.0)
    experts = {name: Constant(0.0, rows) for name, rows in asked.items()}
    made = objective(GateRecipe(type="gate", top_k=2, load_balance=1.0), gate, experts)
    made.loss(torch.zeros(5, 1, 2, 2), None).backward()
    assert asked == {"a": [5], "b": [5], "c": []}
    assert float(gate.logits.grad[2]) < 0  # descent raises what does not run
    assert made.sparse


def test_an_interval_beyond_an_experts_support_is_refused():
    from snrouter.errors import SupportError

    with pytest.raises(SupportError, match="constant 1"):
        objective(GateRecipe(type="gate"), Affine(0.0), {"a": Constant(1)}, GammaInterval(-9.0, 4.0))


def test_lots_give_each_row_one_expert_and_each_expert_its_share():
    torch.manual_seed(0)
    weights = Lots(("a", "b", "c")).weights(torch.zeros(3000), torch.zeros(3000, 1))
    assert torch.equal(weights.sum(1), torch.ones(3000, dtype=torch.float64))
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(weights.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.05)


@pytest.mark.parametrize(("factor", "even"), [(0.0, False), (100.0, True)])
def test_load_balance_keeps_a_gate_from_leaving_experts_idle(factor, even):
    torch.manual_seed(0)
    gate = GateNetwork(experts=2, channels=[2], width=4, gamma_min=-6, gamma_max=4, dropout=0.0)
    made = objective(GateRecipe(type="gate", load_balance=factor, entropy=0.0), gate, {"a": Constant(0.0), "b": Constant(2.0)})
    optimizer = torch.optim.Adam(gate.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        made.loss(torch.zeros(16, 1, 4, 4), None).backward()
        optimizer.step()
    assert (float(made.told()["utilisation/b"]) > 0.3) == even
