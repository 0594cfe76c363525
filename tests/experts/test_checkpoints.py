"""Checkpoints: what is saved is what is read back, and a damaged file says what is wrong with it."""

import json
import math

import pytest
import torch

import snrouter
from snrouter.errors import CheckpointError, OutputError, SpecError
from snrouter.experts.checkpoints import card_path, load_network, save_checkpoint, sha256
from snrouter.experts.networks.unet import UNet

CONFIG = {"type": "unet", "channels": [8, 8]}


def unet(**arguments) -> UNet:
    torch.manual_seed(0)
    network = UNet(channels=(8, 8), **arguments)
    for parameter in network.parameters():  # the last layers start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "expert.safetensors"
    save_checkpoint(path, unet(), {"network": CONFIG, "expert": {"support": [-7.86, 5.0]}})
    return path


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.7])


def test_a_network_comes_back_frozen_with_its_card_and_extra_tensors(saved):
    save_checkpoint(saved, unet(), {"network": CONFIG}, {"schedule.b": torch.tensor(-9.0)})
    network, card, extra = load_network(saved)
    assert torch.equal(network(*images()), unet().eval()(*images()))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert card == {"format": 1, "network": CONFIG, "sha256": sha256(saved)}
    assert {name: float(tensor) for name, tensor in extra.items()} == {"schedule.b": -9.0}
    assert sorted(path.name for path in saved.parent.iterdir()) == ["expert.json", "expert.safetensors"]


def test_a_missing_file_or_card_is_named(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_network(tmp_path / "nothing.safetensors")
    card_path(saved).unlink()
    with pytest.raises(CheckpointError, match=r"its card expert\.json is missing"):
        load_network(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "expected a mapping with format 1"), ('{"format": 2, "network": {}}', "format 1")],
)
def test_a_card_that_is_none_is_refused(saved, text, message):
    card_path(saved).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_network(saved)


def test_a_truncated_file_is_refused_with_or_without_its_hash(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="its SHA-256 differs from its card's"):
        load_network(saved)
    card = json.loads(card_path(saved).read_text())
    del card["sha256"]
    card_path(saved).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_network(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "unet", "channels": [8, 16]}, r"tensor 'down.* has shape \[8\], expected \[16\]"),
        ({"type": "unet", "channels": [8]}, "has shape .* expected nothing"),
        ({"type": "unet", "channels": [8, 8, 8]}, "has shape .*the network in its card is not the one that was saved"),
        ({"type": "unett"}, "unknown network type 'unett'; did you mean 'unet'"),
        ({"type": "unet", "width": 3}, "network 'unet' cannot be built .*width"),
    ],
)
def test_a_card_of_another_network_is_refused(saved, config, message):
    card = json.loads(card_path(saved).read_text())
    card_path(saved).write_text(json.dumps(card | {"network": config}))
    with pytest.raises(CheckpointError, match=message):
        load_network(saved)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "expert.safetensors", unet(), {"network": CONFIG})


def test_an_edm_expert_takes_edms_own_constants_then_its_cards_then_the_callers(saved):
    save_checkpoint(saved, unet(), {"network": CONFIG})
    expert = snrouter.load_expert("edm", saved)
    shift = 2 * math.log(256 / 255)
    assert expert.data_scale == 256 / 255
    assert expert.support == pytest.approx((2 * math.log(0.002) - shift, 2 * math.log(80) - shift))
    save_checkpoint(saved, unet(), {"network": CONFIG, "expert": {"data_scale": 1.0, "support": [-8, 5], "sigma_data": 0.3}})
    expert = snrouter.load_expert("edm", saved)
    assert (expert.data_scale, tuple(expert.support)) == (1.0, (-8, 5))
    at = torch.zeros(1, dtype=torch.float64)
    assert float(expert.parameterization(at).b) == pytest.approx(-0.3 / math.sqrt(1.09))
    assert float(expert.clock(at + 4)) == 0.5
    assert snrouter.load_expert("edm", saved, data_scale=2.0, sigma_data=0.4).data_scale == 2.0


def test_a_vdm_experts_clock_is_the_time_of_its_schedule_fixed_or_learned(saved):
    expert = snrouter.load_expert("vdm", saved)
    assert tuple(expert.support) == (-7.86, 5.0)
    ends = torch.tensor([-7.86, 5.0], dtype=torch.float64)
    assert expert.clock(ends).tolist() == pytest.approx([0, 1])
    save_checkpoint(saved, unet(), {"network": CONFIG}, {"schedule.b": torch.tensor(-9.0), "schedule.w": torch.tensor(-12.0)})
    learned = snrouter.load_expert("vdm", saved)
    assert tuple(learned.support) == (-9.0, 3.0)
    assert learned.clock(torch.tensor([-3.0], dtype=torch.float64)).tolist() == pytest.approx([0.5])
    save_checkpoint(saved, unet(), {"network": CONFIG})
    assert tuple(snrouter.load_expert("vdm", saved).support) == (-13.3, 5.0)


def test_a_generic_expert_is_told_what_it_is(saved):
    expert = snrouter.load_expert(
        "generic", saved, prediction="v", clock="linear", clock_parameters={"gamma_min": -8, "gamma_max": 6}
    )
    z = images()[0]
    direct = snrouter.wrap(unet().eval(), "v", (-7.86, 5), clock="linear", gamma_min=-8, gamma_max=6)
    assert torch.equal(expert.eps_hat(z, -1.0), direct.eps_hat(z, -1.0))
    assert tuple(expert.support) == (-7.86, 5.0)
    save_checkpoint(saved, unet(), {"network": CONFIG})
    with pytest.raises(SpecError, match="its card gives no support; add support"):
        snrouter.load_expert("generic", saved)
    discrete = snrouter.load_expert("generic", saved, clock="discrete", clock_parameters={"alphas_cumprod": [0.99, 0.5]})
    assert tuple(discrete.support) == pytest.approx((-math.log(99), 0.0))


def test_an_expert_by_name_refuses_what_it_does_not_know(saved):
    with pytest.raises(SpecError, match="unknown expert type 'emd'; did you mean 'edm'"):
        snrouter.load_expert("emd", saved)
    with pytest.raises(SpecError, match="expert type 'edm' takes no 'data_scal'; did you mean 'data_scale'"):
        snrouter.load_expert("edm", saved, data_scal=1.0)
    with pytest.raises(SpecError, match="expert type 'edm' needs checkpoint"):
        snrouter.load_expert("edm")


def test_a_conditional_network_is_known_by_its_classes(saved):
    save_checkpoint(saved, unet(classes=3), {"network": CONFIG | {"classes": 3}})
    expert, z = snrouter.load_expert("vdm", saved), images()[0]
    one, two = (expert.eps_hat(z, -1.0, torch.full((2,), label)) for label in (1, 2))
    assert not torch.allclose(one, two)
    assert not torch.allclose(one, expert.eps_hat(z, -1.0))


def test_a_unet_refuses_what_it_cannot_take():
    with pytest.raises(SpecError, match=r"halves images 1 times, got \[5, 4\]; expected sides divisible by 2"):
        unet()(torch.zeros(1, 1, 5, 4), torch.zeros(1))
    with pytest.raises(SpecError, match="takes no condition"):
        unet()(torch.zeros(1, 1, 4, 4), torch.zeros(1), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("arguments", [{}, {"fourier": (1.0, 2.0)}, {"classes": 4}, {"blocks": 2}])
def test_a_unet_answers_each_image_by_itself_and_hears_the_noise_level(arguments):
    network = unet(**arguments).eval()
    z, level = images()
    together = network(z, level)
    assert together.shape == z.shape
    apart = torch.cat([network(z[i : i + 1], level[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together, network(z, level + 1), atol=1e-3)
