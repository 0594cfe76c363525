"""The probe names what was planted in a registration, and nothing in the right ones.

Right experts are the embedded two and two small networks trained here in seconds; every wrong one reads the same weights wrongly.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snrouter
from snrouter import cli
from snrouter.data.base import ImageData
from snrouter.data.digits import digits
from snrouter.errors import SnrouterError
from snrouter.experts import parameterization
from snrouter.experts.base import Expert, Prediction, expand
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.gaussian import Gaussian
from snrouter.experts.generic import wrap
from snrouter.experts.network import NetworkExpert
from snrouter.experts.networks import build
from snrouter.experts.parameterization import PARAMETERIZATIONS
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.probe import Probe, probe
from snrouter.probe.readings import TABLES, Reading, changes
from snrouter.router.piecewise import Single
from snrouter.router.threshold import Threshold
from snrouter.schedules import schedule
from snrouter.spec import load

SUPPORT = GammaInterval(-7.86, 5.0)
KEYS = {"prediction", "clock", "clock_parameters", "data_scale"}


@dataclass(frozen=True)
class Case:
    """What a network is registered as; a plant replaces some of it."""

    network: nn.Module
    prediction: parameterization.Parameterization
    clock: Callable[[Tensor], Tensor]
    data_scale: float = 1.0

    def expert(self, **planted: Any) -> NetworkExpert:
        held = vars(self) | planted
        return NetworkExpert(held["network"], held["prediction"], held["clock"], SUPPORT, data_scale=held["data_scale"])


class Negated(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *state: Tensor) -> Tensor:
        return -self.network(*state)


class OnUnitImages(nn.Module):
    """A network as it would be had it been trained on images in [0, 1], predicting noise, its clock gamma."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, z: Tensor, gamma: Tensor, condition: Tensor | None) -> Tensor:
        own = gamma.double()
        ours = own + 2 * math.log(2)
        z = expand(2 * alpha(ours) / alpha(own), z) * (z - expand(alpha(own) / 2, z))
        return self.expert.predict(z, ours.clamp(*SUPPORT)).eps_hat


def trained(prediction: str, clock: str, noise_scale: float, **arguments: Any) -> NetworkExpert:
    """A small network trained for some seconds on the noise error of its output."""
    images = digits("train").images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build({"type": "unet", "channels": [8, 16], "noise_scale": noise_scale})
        expert = wrap(network, prediction, SUPPORT, clock=clock, **arguments)
        steps = 150
        optimizer = torch.optim.AdamW(network.parameters())
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
        for _ in range(steps):
            x = images[torch.randint(len(images), (64,))]
            gamma = SUPPORT.at((torch.rand((), dtype=torch.float64) + torch.arange(64) / 64) % 1)
            noise = torch.randn_like(x)
            z = expand(alpha(gamma), x) * x + expand(sigma(gamma), x) * noise
            scale = expand(expert.parameterization(gamma).b.abs().clamp(min=0.3), x)
            loss = ((expert.predict(z, gamma).eps_hat - noise) / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    network.eval().requires_grad_(False)
    return expert


@functools.cache
def right(name: str) -> Case:
    if name in ("quality", "likelihood"):
        expert = load("digits", []).expert(name)
    elif name == "v, cosine":
        expert = trained("v", "cosine", 10.0)
    else:
        expert = trained("eps", "discrete", 0.01, alphas_cumprod=TABLES["DDPM's table"])
    return Case(expert.network, expert.parameterization, expert.clock)


@functools.cache
def some() -> ImageData:
    """Fewer images than the probe would take, for speed."""
    data = digits()
    return ImageData(data.pixels[::12][:32], data.levels, None, "some digits")


def ask(expert: Expert, data: ImageData | None = None) -> Probe:
    return probe({"it": expert}, data or some(), Single("it"), SUPPORT, keys={"it": KEYS})


def plants(name: str) -> Iterator[tuple[str, set[str], dict[str, Any]]]:
    """What is planted, the kinds of fault it may be called, and what it replaces in the right registration."""
    case = right(name)
    yield "sign", {"sign"}, {"network": Negated(case.network)}
    yield "x", {"prediction"}, {"prediction": parameterization.x}
    yield "clock turned", {"clock"}, {"clock": lambda gamma: case.clock(sum(SUPPORT) - gamma)}
    if name in ("quality", "likelihood"):  # trained long enough to see the grid
        yield "scale 17/16", {"data_scale"}, {"data_scale": 17 / 16}
    else:
        yield "scale 2", {"data_scale"}, {"data_scale": 2.0}
    if name == "quality":
        yield "sigma_data 1", {"sigma_data"}, {"prediction": partial(parameterization.edm, sigma_data=1.0)}
    elif name == "likelihood":
        yield "two at once", {"prediction", "clock"}, {"prediction": parameterization.edm, "clock": schedule("edm_c_noise").t}
    elif name == "v, cosine":
        yield "clock log_snr", {"clock"}, {"clock": schedule("log_snr").t}
    else:
        yield "scale 127.5", {"data_scale"}, {"data_scale": 127.5}


@pytest.mark.parametrize("name", ["quality", "likelihood", "v, cosine", "eps, DDPM"])
def test_planted_faults_are_named_and_right_ones_raise_none(name: str) -> None:
    assert ask(right(name).expert()).faults == []
    table = {label: (kinds, ask(right(name).expert(**planted)).faults) for label, kinds, planted in plants(name)}
    missed = {label: list(map(str, faults)) for label, (kinds, faults) in table.items() if {f.fault for f in faults} != kinds}
    assert not missed


def test_a_fault_says_how_it_shows_and_what_to_change() -> None:
    (fault,) = ask(right("v, cosine").expert(prediction=parameterization.eps)).faults
    assert str(fault).startswith("the output looks like v, not eps (error ")
    assert fault.fix == "set prediction: v"
    found = probe({"it": right("v, cosine").expert(prediction=parameterization.eps)}, some(), Single("it"), SUPPORT, keys={})
    whole = "prediction: v, clock: cosine, support: [-7.86, 5], data_scale: 1.0"
    assert found.faults[0].fix == f"register it as type: generic with {whole}"


def test_what_is_told_is_the_difference_from_the_registration() -> None:
    """The search goes by way of v, which is neither."""
    wrong = right("likelihood").expert(prediction=parameterization.x, clock=schedule("log_snr").t)
    faults = {fault.fault: fault.looks for fault in ask(wrong, digits()).faults}
    assert faults == {
        "prediction": "the output looks like eps, not x",
        "clock": "the clock looks like linear on [-7.86, 5], not log_snr",
    }


def test_the_range_of_images() -> None:
    unit = ImageData((2 * some().pixels.float() + 1) / 34, None, None, "digits in [0, 1]")
    (fault,) = ask(right("likelihood").expert(), unit).faults
    assert "it expects images in [-1, 1], and gets [0, 1]" in str(fault)
    (fault,) = ask(wrap(OnUnitImages(right("likelihood").expert()), "eps", SUPPORT)).faults
    assert "it expects images in [0, 1], and gets [-1, 1]" in str(fault)


def test_swapped_networks_are_told_of_both_and_exchanged_roles_are_a_note() -> None:
    quality, likelihood = right("quality"), right("likelihood")
    threshold = Threshold("likelihood", "quality", SUPPORT.at(0.2))

    def pair(quality: Expert, likelihood: Expert, policy: Threshold = threshold) -> Probe:
        return probe({"quality": quality, "likelihood": likelihood}, some(), policy, SUPPORT, keys={})

    assert pair(quality.expert(), likelihood.expert()).notes == []
    swapped = pair(quality.expert(network=likelihood.network), likelihood.expert(network=quality.network))
    assert [(fault.expert, fault.fault) for fault in swapped.faults] == [("quality", "swapped"), ("likelihood", "swapped")]
    assert "looks like that of 'likelihood'" in str(swapped.faults[0])
    (note,) = pair(quality.expert(), likelihood.expert(), Threshold("quality", "likelihood", SUPPORT.at(0.2))).notes
    assert "the route runs 'quality' on [-7.86, -5.29], where 'likelihood' has less error" in note


def test_experts_without_a_network_are_held_to_the_linear_predictor() -> None:
    images = digits("train").images().double()
    mean, flat = images.mean(0), images.flatten(1)
    fitted = Gaussian(mean, flat.T.cov(), tuple(SUPPORT))
    found = ask(fitted, digits("train"))
    assert found.faults == []
    levels = found.levels["it"]
    assert all(level.error < level.linear for level in levels[2:])
    (fault,) = ask(Gaussian(-mean, 0.01 * torch.eye(64), tuple(SUPPORT))).faults
    assert "worse than its images' means and variances alone" in str(fault)


def test_an_untrained_network_is_a_fault_without_a_name() -> None:
    torch.manual_seed(0)
    network = build({"type": "unet", "channels": [8, 8]})
    nn.init.normal_(network.leave[-1].weight)
    (fault,) = ask(wrap(network, "eps", SUPPORT)).faults
    assert fault.fault == "unknown"


def smooth() -> ImageData:
    """Images with neighbours alike, of EDM's standard deviation a pixel."""
    grid = torch.arange(8) / 8
    wave = torch.randn(64, 1, 1, 1, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    basis = torch.stack([torch.cos(math.pi * (k * grid[:, None] + m * grid[None])) for k in (0, 1) for m in (0, 1)], -1)
    x = (wave * basis).sum(-1)
    return ImageData((0.5 * x / x.std(0)).clamp(-1, 1), None, None, "waves")


def test_an_untrained_edm_network_does_not_denoise() -> None:
    """Its skip connection is the linear predictor of images whose mean is 0 and standard deviation sigma_data."""
    torch.manual_seed(0)
    network = build({"type": "unet", "channels": [8, 8]})
    found = ask(wrap(network, "edm", (-10, 5), clock="edm_c_noise"), smooth())
    assert found.right == []
    (fault,) = found.faults
    assert "nowhere better than its images' means and variances" in str(fault)
    assert all(abs(level.error / level.linear - 1) < 0.1 for level in found.levels["it"])


def test_nowhere_better_is_a_note_where_little_could_be_better() -> None:
    images = digits("train").images().double()
    found = ask(Gaussian(images.mean(0), images.flatten(1).var(0).diag(), tuple(SUPPORT)), digits("train"))
    assert (found.faults, found.right) == ([], [])
    assert "nowhere better than a linear predictor" in found.notes[0]
    high = right("quality")
    found = ask(NetworkExpert(high.network, high.prediction, high.clock, GammaInterval(3.0, 5.0)))
    assert (found.faults, found.right) == ([], [])


def test_nan_is_an_error_like_any_other() -> None:
    class Broken(nn.Module):
        def forward(self, z: Tensor, noise_level: Tensor, condition: Tensor | None) -> Tensor:
            return z * torch.nan

    (fault,) = ask(wrap(Broken(), "eps", SUPPORT)).faults
    assert fault.fault == "unknown"


class Nothing(Expert):
    """Predicts no noise, at no cost."""

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        return Prediction(torch.zeros_like(z), z, {})


def test_the_linear_predictor_is_the_best_affine_map_of_each_pixel() -> None:
    """Against least squares on many draws; the images are large, so that one draw of noise will do."""
    images = digits("train").images().double()[:64].repeat(1, 1, 8, 8)
    found = ask(Nothing(SUPPORT, "nothing"), ImageData(images, None, None, "large"))
    generator = torch.Generator().manual_seed(0)
    for level in (found.levels["it"][1], found.levels["it"][5]):
        x = images[..., :8, :8].repeat(400, 1, 1, 1).flatten(1)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        z = alpha(level.gamma) * x + sigma(level.gamma) * noise
        z, target = z - z.mean(0), noise - noise.mean(0)
        slope = (z * target).mean(0) / z.square().mean(0)
        assert float((target - slope * z).square().mean()) == pytest.approx(level.linear, rel=0.01)


@pytest.mark.parametrize("prediction", [*PARAMETERIZATIONS])
def test_the_registered_reading_is_the_expert(prediction: str) -> None:
    expert = wrap(right("quality").network, prediction, SUPPORT, clock="edm_c_noise", data_scale=1.1)
    z, gamma = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([-7.0, -1.0, 4.0]).double()
    reading = Reading.of(expert)
    assert torch.allclose(reading.eps_hat(z, gamma), expert.predict(z, gamma).eps_hat, rtol=1e-4, atol=1e-5)
    assert not any(change.of(reading).same(reading, gamma) for change in changes(reading, SUPPORT, 0.7))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def validate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["snrouter", "validate", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        streams = capsys.readouterr()
        return int(stop.value.code or 0), streams.out, streams.err

    return call


def test_the_embedded_spec_passes(validate: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = validate("digits", "--probe")
    assert (code, err) == (0, "")
    assert "ok probe: quality denoises as registered" in out
    assert "ok probe: likelihood denoises as registered" in out
    assert "ok probe: discrete denoises as registered, and no other reading of it does better (0 network calls)" in out
    assert "note:" not in out


def test_a_fault_is_an_error_of_the_spec(validate: Callable[..., tuple[int, str, str]]) -> None:
    wrong = "--set=experts.likelihood.data_scale=1.0625"
    code, out, err = validate("digits", "--probe", wrong, "--json")
    assert code == 2
    told = json.loads(out)
    assert told["exit_code"] == 2
    assert err == f"error: {told['error']}\n"
    assert "experts.likelihood: its pixels look 1 times ours" in err
    (fault,) = told["probe"]["faults"]
    assert (fault["expert"], fault["fault"], fault["fix"]) == ("likelihood", "data_scale", "set data_scale: 1.0")
    assert set(told["probe"]["experts"]["quality"][0]) == {"gamma", "error", "standard_error", "linear"}
    assert told["checks"][0]["name"] == "schema"
    assert set(told["probe"]["calls"]) == {"quality", "likelihood", "discrete"}


def test_labels_reach_the_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    from snrouter.checks import probe_experts

    seen: list[Tensor | None] = []

    def predict(self: NetworkExpert, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Any:
        seen.append(condition)
        raise SnrouterError("enough")

    monkeypatch.setattr(NetworkExpert, "predict", predict)
    with pytest.raises(SnrouterError, match="enough"):
        probe_experts(load("digits", ["condition=labels"]))
    (labels,) = seen
    assert labels is not None
    indices = torch.linspace(0, 399, 64).long()
    assert labels.tolist() == digits().labels[indices][: len(labels)].tolist()


def test_bfloat16_is_for_drawing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from snrouter.checks import probe_experts

    def predict(self: NetworkExpert, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Any:
        raise SnrouterError(f"{z.dtype} {next(self.parameters()).dtype}")

    monkeypatch.setattr(NetworkExpert, "predict", predict)
    with pytest.raises(SnrouterError, match=r"torch.float32 torch.float32"):
        probe_experts(load("digits", ["precision=bfloat16"]))


def test_a_probe_needs_images(validate: Callable[..., tuple[int, str, str]]) -> None:
    none = ["--set=data=null", "--set=reference=null", "--set=evaluate=[]", "--set=shape=[1, 8, 8]"]
    code, _, err = validate("digits", "--probe", *none)
    assert code == 2
    assert "--probe needs images, 8 or more; add data" in err
    assert "--limit: --probe needs 8 images or more, got 4" in validate("digits", "--probe", "--limit=4")[2]
    assert "--limit is for --probe" in validate("digits", "--limit=16")[2]


def test_the_probe_runs_where_a_wrong_scale_moved_a_support_off_the_route(validate: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = validate("digits", "--probe", "--limit=16", "--set=experts.quality.data_scale=2")
    coverage, fault = err.splitlines()
    assert code == 2
    assert "'quality' was asked at gamma in [-5.288, 5], 1.39 beyond its support" in coverage
    assert "experts.quality: its pixels look 1 times ours, not 2 times" in fault
    assert "ok gamma coverage" not in out
    assert "ok probe: likelihood" in out


def test_an_expert_that_cannot_run_is_told_once_and_the_others_are_probed(
    validate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    described = {"type": "unet", "channels": [8, 8], "in_channels": 3}
    save_checkpoint(tmp_path / "rgb.safetensors", build(described), {"format": 1, "network": described, "expert": {}})
    wrong = f"--set=experts.quality.checkpoint={tmp_path / 'rgb.safetensors'}"
    code, out, err = validate("digits", "--probe", "--limit=16", wrong)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "cannot take images of shape [1, 8, 8]" in err
    assert "ok probe: likelihood" in out


def test_the_clock_of_a_vdm_is_put_right_in_its_card(validate: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    folder = Path(snrouter.__file__).parent / "embedded"
    (tmp_path / "mine.safetensors").write_bytes((folder / "digits-likelihood.safetensors").read_bytes())
    card = json.loads((folder / "digits-likelihood.json").read_text())
    planted = [f"--set=experts.likelihood.checkpoint={tmp_path / 'mine.safetensors'}", "--limit=32"]

    def told(**expert: Any) -> tuple[int, str, str]:
        (tmp_path / "mine.json").write_text(json.dumps(card | {"expert": expert}))
        return validate("digits", "--probe", *planted)

    code, _, err = told(support=[-13.3, 5], clock=[-13.3, 5])
    assert code == 2
    assert err.endswith('set "clock": [-7.86, 5], and narrow "support" to it, in mine.json\n')
    assert told(support=[-7.86, 5], clock=[-13.3, 5])[2].endswith('set "clock": [-7.86, 5] in mine.json\n')
    assert told(support=[-7.86, 5], clock=[-7.86, 5])[0] == 0
