"""Checkpoints: what is saved is what is read back, and a damaged file says what is wrong with it."""

import hashlib
import json
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import snrouter
from snrouter.errors import CheckpointError, OutputError, SpecError
from snrouter.experts.checkpoints import (
    build_filled,
    card_path,
    check_sha256,
    load_expert_network,
    load_network,
    read_plain,
    save_checkpoint,
    sha256,
)
from snrouter.experts.networks import build
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
    [
        ("{", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("[]", "expected a mapping with format 1"),
        ('{"format": 2, "network": {}}', "format 1"),
    ],
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
        ({"type": "unet", "channels": [8, 8, 8]}, "has shape .*the network that its card or the spec gives is not the one"),
        ({"type": "unett"}, "unknown network type 'unett'; did you mean 'unet'"),
        ({"type": "unet", "width": 3}, "network 'unet' takes no 'width'"),
        ({"type": ["unet"]}, "unknown network type a list"),
        ({"type": "dit", "patch_size": 0}, "network 'dit' cannot be built .*by zero"),
    ],
)
def test_a_card_of_another_network_is_refused(saved, config, message):
    card = json.loads(card_path(saved).read_text())
    card_path(saved).write_text(json.dumps(card | {"network": config}))
    with pytest.raises(CheckpointError, match=message):
        load_network(saved)


class Attack:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", pickle.dumps(Attack()), "it is a pickle, not safetensors as its name says"),
        ("x.safetensors", b"PK\x03\x04" + bytes(20), "it is a file of torch.save, not safetensors"),
        ("x.pkl", b"PK\x03\x04" + bytes(20), "it is a file of torch.save, not a pickle"),
        ("x.pkl", (8).to_bytes(8, "little") + b"{}      ", "it is safetensors, not a pickle"),
        ("x.pt", pickle.dumps(Attack()), "it is a pickle, not a file of torch.save"),
        ("x.ckpt", pickle.dumps(Attack()), r"files '\.ckpt' are not read; read are \.safetensors, \.pkl, \.pt"),
        ("x", pickle.dumps(Attack()), "files '' are not read"),
    ],
)
def test_a_file_must_be_what_its_name_says(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "x.json").write_text(json.dumps({"format": 1, "network": CONFIG}))
    with pytest.raises(CheckpointError, match=message):
        snrouter.load_expert("edm", tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_safetensors_file_of_python_code_and_no_head_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"format": 1, "network": CONFIG}))
    (tmp_path / "x.safetensors").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_network(tmp_path / "x.safetensors")


def test_a_network_is_built_around_the_tensors_without_a_copy():
    tensors = unet().state_dict()
    network = build_filled(Path("x"), {"network": CONFIG}, tensors)
    assert all(tensor.data_ptr() == tensors[name].data_ptr() for name, tensor in network.state_dict().items())


def test_tensors_of_another_type_or_unaligned_are_copied_into_place():
    tensors = {name: tensor.half() for name, tensor in unet().state_dict().items()}
    name, first = next(iter(tensors.items()))
    raw = bytearray(4 * first.numel() + 1)
    shifted = torch.frombuffer(memoryview(raw)[1:], dtype=torch.float32).reshape(first.shape)
    shifted.copy_(first)
    network = build_filled(Path("x"), {"network": CONFIG}, tensors | {name: shifted})
    for key, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert tensor.data_ptr() % 4 == 0
        assert torch.equal(tensor, tensors[key].float())


def test_a_network_whose_buffers_are_not_saved_computes_them():
    config = {"type": "dit", "input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 16, "depth": 1, "num_heads": 2}
    network = build(config)
    filled = build_filled(Path("x"), {"network": config}, network.state_dict())
    buffers = dict(network.named_buffers())
    assert buffers.keys() - network.state_dict().keys()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in filled.named_buffers())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "c"}, r"expert\.kind: expected one of a, b, got 'c'"),
        ({"kind": ["a"]}, r"expert\.kind: expected one of a, b, got a list"),
        ({"ends": [1]}, r"expert\.ends: expected 2 numbers within 1e\+06, the smaller first, got \[1\]"),
        ({"ends": [1, "2"]}, "expected 2 numbers"),
        ({"ends": "ab"}, "expected 2 numbers .* got 'ab'"),
        ({"ends": [2, 1]}, r"expected 2 numbers .* got \[2, 1\]"),
        ({"ends": [-(10**400), 1]}, "expected 2 numbers .*an integer of 1329 bits"),
        ({"size": True}, r"expert\.size: expected a positive number up to 1e\+06, got True"),
        ({"size": 0}, "expected a positive number"),
        ({"size": 10**400}, "expected a positive number .* an integer of 1329 bits"),
        ({"size": 1e12}, "expected a positive number up to"),
        ({"sise": 1}, "sise: unknown; did you mean 'size'"),
        ([], r"expected a mapping under its card's expert, got \[\]"),
    ],
)
def test_what_a_card_holds_of_its_expert_is_checked(saved, value, message):
    expected = {"kind": ("a", "b"), "ends": "pair", "size": "number"}
    save_checkpoint(saved, unet(), {"network": CONFIG, "expert": {"kind": "a", "ends": [1, 2.5], "size": 3}})
    assert load_expert_network(saved, "edm", expected)[1] == {"kind": "a", "ends": [1, 2.5], "size": 3}
    save_checkpoint(saved, unet(), {"network": CONFIG, "expert": value})
    with pytest.raises(CheckpointError, match=message) as error:
        load_expert_network(saved, "edm", expected)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
@pytest.mark.parametrize("kind", ["edm", "vdm", "generic"])
def test_numbers_that_are_none_are_refused_for_every_type(saved, kind, number):
    card = card_path(saved).read_text()
    card_path(saved).write_text(card.replace("-7.86", number).replace("5.0", number))
    with pytest.raises(CheckpointError, match=r"expert\.safetensors: its card's expert\.support: expected 2 numbers"):
        snrouter.load_expert(kind, saved)


@pytest.mark.parametrize("expert", [[1], {"support": "ab"}, {"support": {"a": 1}}, {"support": [1, 2, 3]}])
def test_a_generic_experts_card_is_checked_too(saved, expert):
    save_checkpoint(saved, unet(), {"network": CONFIG, "expert": expert})
    with pytest.raises(CheckpointError, match=r"expert\.safetensors: .*expert"):
        snrouter.load_expert("generic", saved)


def test_a_card_that_is_no_json_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"expert\.json: cannot be written as JSON .*nan"):
        save_checkpoint(tmp_path / "expert.safetensors", unet(), {"network": CONFIG, "expert": {"size": math.nan}})
    assert not [*tmp_path.iterdir()]


def test_a_network_may_not_compute_what_its_file_does_not_hold(saved):
    config = {"type": "dit", "input_size": 65536, "patch_size": 1, "in_channels": 1, "hidden_size": 4, "depth": 0, "num_heads": 1}
    with torch.device("meta"):
        shapes = build(config).state_dict()
    tensors = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
    with pytest.raises(CheckpointError, match="its network computes 17179869184 numbers"):
        build_filled(saved, {"network": config}, tensors)


def test_a_card_of_another_type_is_refused(saved):
    save_checkpoint(saved, unet(), {"type": "vdm", "network": CONFIG})
    with pytest.raises(CheckpointError, match="it is of type 'vdm', not of type 'edm'; register it as what it is"):
        snrouter.load_expert("edm", saved)
    assert snrouter.load_expert("vdm", saved)


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


def test_a_plain_state_dict_is_read_into_the_network_that_the_spec_gives(tmp_path):
    z, arguments = images()[0], {"prediction": "x", "support": (-7.86, 5.0), "network": CONFIG}
    expected = snrouter.wrap(unet().eval(), "x", (-7.86, 5.0)).eps_hat(z, -1.0)
    state = unet().state_dict()
    torch.save(state, tmp_path / "plain.pt")
    assert torch.equal(snrouter.load_expert("generic", tmp_path / "plain.pt", **arguments).eps_hat(z, -1.0), expected)
    inside = {"epoch": 3, "ema": {f"module.{name}": tensor for name, tensor in state.items()} | {"steps": torch.tensor(1)}}
    torch.save(inside, tmp_path / "inside.pth")
    expert = snrouter.load_expert("generic", tmp_path / "inside.pth", key="ema", prefix="module.", **arguments)
    assert torch.equal(expert.eps_hat(z, -1.0), expected)
    save_file(state, tmp_path / "plain.safetensors")
    assert torch.equal(snrouter.load_expert("generic", tmp_path / "plain.safetensors", **arguments).eps_hat(z, -1.0), expected)
    for wrong, message in (
        ({"key": "model"}, "no state dict under 'model'; it holds epoch, ema"),
        ({"key": "ema"}, r"tensor 'module\..*expected nothing|tensor '.*' has shape nothing"),
        ({"key": "ema", "prefix": "net."}, "no name begins with 'net.'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            snrouter.load_expert("generic", tmp_path / "inside.pth", **arguments, **wrong)
    with pytest.raises(SpecError, match="key and prefix are for a plain state dict; say network"):
        snrouter.load_expert("generic", tmp_path / "inside.pth", key="ema")


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


def test_a_published_file_must_have_the_digest_it_is_known_by(tmp_path):
    (path := tmp_path / "net-0123abcd.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert (
        check_sha256(path) == check_sha256(path, digest.upper(), ["0123abcd"]) == check_sha256(path, None, ["ffffffff"]) == digest
    )
    with pytest.raises(
        CheckpointError, match=rf"net-0123abcd\.pth: its SHA-256 is {digest}, expected 0123abcd\.\.\.; .* as sha256$"
    ):
        check_sha256(path, None, ["ffffffff", "0123abcd"])
    (converted := tmp_path / "net-0123abcd.safetensors").write_bytes(b"the same tensors in another form")
    assert check_sha256(converted, None, ["0123abcd"])
    with pytest.raises(CheckpointError, match=f"expected {'a' * 64}; the file is damaged or another, copy it again$"):
        check_sha256(path, "a" * 64)
    with pytest.raises(CheckpointError, match="expected 64 hexadecimal digits, as sha256sum prints them, got '0123abcd'"):
        check_sha256(path, "0123abcd")
    with pytest.raises(CheckpointError, match="no such file"):
        check_sha256(tmp_path / "none.pth")


def test_a_state_dict_of_before_pytorch_1_6_is_read(tmp_path):
    state = {"features.a": torch.arange(4.0), "classifier.a": torch.zeros(2)}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    _, tensors = read_plain(tmp_path / "x.pth", {}, prefix="features.")
    assert tensors.keys() == {"a"}
    assert torch.equal(tensors["a"], state["features.a"])
