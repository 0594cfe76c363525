"""A shared U-Net with an adapter and an output layer for each head: its maths, its start, and what heads share."""

import pytest
import torch
from golden.weights import fill
from torch.nn import functional

from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.networks import build
from snrouter.experts.networks.adapter_unet import AdapterUNet, one_head

TRUNK = {"in_channels": 2, "channels": [4, 8], "fourier": [1.0], "noise_scale": 2.0, "classes": 3}
CONFIG = TRUNK | {"type": "adapter_unet", "heads": 3, "adapter": 5}


def batch(n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 4, 4, generator=generator), torch.rand(n, generator=generator), torch.arange(n) % 3


@pytest.fixture
def network() -> AdapterUNet:
    return fill(build(CONFIG)).eval()


def test_a_head_is_its_output_layer_on_features_and_what_its_adapter_adds(network):
    features = network.trunk(*batch())
    assert features.shape == (3, 4, 4, 4)
    for number in range(3):
        own = {name.removeprefix(f"heads.{number}."): value for name, value in network.state_dict().items()}

        def conv(h, name, own=own):
            return functional.conv2d(h, own[f"{name}.weight"], own[f"{name}.bias"], padding=1)

        def norm(h, name, own=own):
            return functional.group_norm(h, 4, own[f"{name}.weight"], own[f"{name}.bias"])

        hidden = conv(functional.silu(norm(features, "adapter.0")), "adapter.2")
        assert hidden.shape[1] == 5
        sum_ = features + conv(functional.silu(hidden), "adapter.4")
        expected = conv(functional.silu(norm(sum_, "leave.0")), "leave.2")
        torch.testing.assert_close(network.head(number)(*batch()), expected)


def test_all_heads_together_are_each_by_itself(network):
    together = network(*batch())
    assert together.shape == (3, 3, 2, 4, 4)
    for number in range(3):
        assert torch.equal(together[:, number], network.head(number)(*batch()))
    assert not torch.equal(together[:, 0], together[:, 1])


def test_before_training_every_head_is_a_unet_with_the_trunks_weights():
    network, unet = build(CONFIG).eval(), build(TRUNK | {"type": "unet"}).eval()
    assert not any(part.count_nonzero() for head in network.heads for part in head.adapter[-1].parameters())
    plain = fill(unet).state_dict()
    network.trunk.load_state_dict({name: value for name, value in plain.items() if not name.startswith("leave.")})
    for head in network.heads:
        head.leave.load_state_dict(
            {name.removeprefix("leave."): value for name, value in plain.items() if name.startswith("leave.")}
        )
    expected = unet(*batch())
    assert float(expected.detach().std()) > 0.1
    for number in range(3):
        assert torch.equal(network.head(number)(*batch()), expected)


def test_a_head_takes_the_trunks_labels(network):
    z, level, labels = batch()
    assert network.head(0).classes == 3
    assert not torch.equal(network.head(0)(z, level, labels), network.head(0)(z, level, (labels + 1) % 3))
    assert build({"type": "adapter_unet"}).head(1).classes == 0


def test_heads_begin_equal_but_with_adapters_of_their_own():
    network = build(CONFIG)
    first, second = network.heads[0], network.heads[1]
    assert torch.equal(first.leave[2].bias, second.leave[2].bias)
    assert first.leave[2].bias is not second.leave[2].bias
    assert not torch.equal(first.adapter[2].weight, second.adapter[2].weight)


def test_training_one_head_leaves_the_others_alone(network):
    before = network(*batch())
    network.zero_grad()
    network.head(1)(*batch()).square().sum().backward()
    with_gradient = {
        name.split(".")[1] for name, p in network.named_parameters() if name.startswith("heads") and p.grad is not None
    }
    assert with_gradient == {"1"}
    assert all(p.grad is not None for p in network.trunk.parameters())
    with torch.no_grad():
        for parameter in network.head(1).head.parameters():
            parameter.add_(0.1)
    after = network(*batch())
    assert [torch.equal(before[:, k], after[:, k]) for k in range(3)] == [True, False, True]


def test_its_parameters_are_one_trunk_and_small_heads(network):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    unet = build(TRUNK | {"type": "unet"})
    leave = count(unet.leave)
    adapter = 2 * 4 + (4 * 5 * 9 + 5) + (5 * 4 * 9 + 4)
    assert count(network) == count(unet) - leave + 3 * (leave + adapter)


@pytest.mark.parametrize("broken", [{"heads": 0}, {"adapter": 0}])
def test_no_head_and_no_width_are_refused(broken):
    with pytest.raises(SpecError, match="expected at least 1 each, got"):
        build(CONFIG | broken)


def test_more_heads_than_can_be_built_in_good_time_are_refused():
    with pytest.raises(CheckpointError, match="heads: expected whole numbers from 0 to 256"):
        build(CONFIG | {"heads": 257})


def test_which_head_is_meant_must_be_said_where_there_are_several_and_only_there(network):
    assert one_head(network, 2, "x").head is network.heads[2]
    for number in (None, -1, 3):
        with pytest.raises(SpecError, match=rf"^x: its network has 3 heads, got head: {number}; expected one from 0 to 2"):
            one_head(network, number, "x")
    plain = build(TRUNK | {"type": "unet"})
    assert one_head(plain, None, "x") is plain
    with pytest.raises(SpecError, match=r"^x: its network has no heads, got head: 0; leave it out"):
        one_head(plain, 0, "x")
