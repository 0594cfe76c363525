"""Gates from the command line: trained on frozen experts, run, reported; killed and gone on with; experts that share an encoder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import snrouter
from snrouter import cli, spec
from snrouter.evaluation import Worker, own_route
from snrouter.experts.networks.unet import UNet
from snrouter.training.gating import Mixing

FROZEN = """
extends: digits
train:
  frozen:
    type: gate
    experts: [quality, likelihood]
    gate: {channels: [4], width: 8, dropout: 0.1}
    steps: 8
    batch_size: 16
    learning_rate: 0.01
    warmup: 0
    checkpoint_every: 2
solver: {type: heun, steps: 3}
batch_size: 8
evaluate:
  - {metric: bpd, estimator: vlb, times: 4, images: 16}
  - {metric: fid, samples: 16, features: classifier, checkpoint: CLASSIFIER}
  - {metric: gating, times: 4, images: 16}
"""

ADAPTERS = """
extends: digits
slices:
  round: {classes: [0, 6, 8, 9]}
train:
  both:
    type: mixture
    experts: {rounded: round, any: null}
    expert: {type: vdm, network: {type: unet, channels: [4, 8]}, support: [-7.86, 5.0]}
    adapter: 3
    gate: {channels: [4], width: 8}
    steps: 8
    warm: 0.5
    batch_size: 8
    warmup: 0
    checkpoint_every: 3
solver: {type: heun, steps: 3}
batch_size: 8
evaluate:
  - {metric: bpd, estimator: vlb, times: 4, images: 8}
"""

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command line in a folder that holds the specs; gives the exit code and standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    classifier = Path(snrouter.__file__).parent / "embedded/digits-classifier.safetensors"
    (tmp_path / "gates.yaml").write_text(FROZEN.replace("CLASSIFIER", str(classifier)))
    (tmp_path / "adapters.yaml").write_text(ADAPTERS)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["snrouter", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), capsys.readouterr().out

    return run


def row(folder: str, metric: str) -> dict[str, Any]:
    (found,) = [each for each in json.loads(Path(folder, "results.json").read_text())["results"] if each["metric"] == metric]
    return found


def test_a_gate_is_trained_run_and_reported(command: Command) -> None:
    code, out = command("train", "gates.yaml", "frozen", "--out", "trained", "--json")
    assert code == 0
    card = json.loads(out)["frozen"]
    assert card["network"] | {"type": "gate", "experts": 2, "channels": [4], "gamma_min": -7.86} == card["network"]
    assert card["gate"]["experts"] == ["quality", "likelihood"]
    assert not list(Path("trained").rglob("*.ckpt"))
    assert bool(load_file("trained/frozen.safetensors")["mix.3.weight"].any())  # zero before training

    code, _ = command("run", "trained/frozen.yaml", "--out", "run", "--devices", "1")
    assert code == 0
    bpd, gating = row("run", "bpd"), row("run", "gating")
    assert (bpd["label"], bpd["route"], bpd["experts"]) == ("gate", "gate", ["quality", "likelihood"])
    assert bpd["nfe_per_expert"] == {"quality": 4.0, "likelihood": 4.0}
    shares = torch.tensor([gating["utilisation"][name] for name in bpd["experts"]])
    torch.testing.assert_close(shares.sum(0), torch.ones(shares.shape[1]))
    assert row("run", "fid")["n"] == 16

    document = spec.load("trained/frozen.yaml")
    experts = {name: document.expert(name) for name in bpd["experts"]}
    route = snrouter.merge(experts, document.policy())
    data = document.dataset("data")
    again = snrouter.bits_per_dim(route, data.images(range(16)), tuple(document.bounds), "vlb", levels=data.levels, times=4)
    assert bpd["value"] == pytest.approx(float(again.value), rel=1e-5)

    Path("run/report.html").unlink()
    code, out = command("report", "run")
    assert code == 0
    page = Path("run/report.html").read_text()
    assert "gate: which expert is weighted where" in page


def test_a_training_that_is_done_is_not_done_again(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("train", "gates.yaml", "frozen", "--out", "trained")[0] == 0
    made = Path("trained/frozen.safetensors").stat()
    monkeypatch.setattr(Mixing, "loss", None)  # whatever asks for it fails
    code, out = command("train", "gates.yaml", "frozen", "--out", "trained")
    assert code == 0
    assert "done before" in out
    assert Path("trained/frozen.safetensors").stat().st_mtime_ns == made.st_mtime_ns


def test_a_training_that_was_killed_goes_on_to_the_same_weights(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    many = ("--set", "train.frozen.steps=60")
    asked = [sys.executable, "-m", "snrouter", "train", "gates.yaml", "frozen", "--out", "killed", *many]
    running = Path("killed/frozen.ckpt")
    process = subprocess.Popen(
        asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not running.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("killed/frozen.safetensors").exists()
    kept = torch.load(running, weights_only=True)["global_step"]
    assert 2 <= kept < 60

    losses, loss = [], Mixing.loss
    monkeypatch.setattr(Mixing, "loss", lambda self, *batch: losses.append(1) or loss(self, *batch))
    assert command("train", "gates.yaml", "frozen", "--out", "killed", *many)[0] == 0
    assert len(losses) == 60 - kept
    assert not running.exists()
    assert command("train", "gates.yaml", "frozen", "--out", "whole", *many)[0] == 0
    assert Path("killed/frozen.safetensors").read_bytes() == Path("whole/frozen.safetensors").read_bytes()


def test_experts_that_share_an_encoder_are_trained_and_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, z, *rest: calls.append(len(z)) or forward(self, z, *rest))
    assert command("train", "adapters.yaml", "both", "--out", "trained")[0] == 0
    assert sum(calls) == 4 * 8 + 4 * 8  # steps x images of both phases: in the second the trunk ran once for both heads
    assert sorted(file.name for file in Path("trained/both").glob("*.safetensors")) == ["experts.safetensors", "gate.safetensors"]
    document = spec.load("trained/both.yaml")
    assert {name: document.spec.experts[name].arguments["head"] for name in ("rounded", "any")} == {"rounded": 0, "any": 1}
    weights = load_file("trained/both/experts.safetensors")
    assert not torch.equal(weights["heads.0.leave.2.weight"], weights["heads.1.leave.2.weight"])

    calls.clear()
    assert command("run", "trained/both.yaml", "--out", "run", "--devices", "1")[0] == 0
    assert row("run", "bpd")["nfe_per_expert"] == {"rounded": 4.0, "any": 4.0}
    assert sum(calls) == 8 * 4  # images x times: the trunk ran once for both heads
    worker = Worker([own_route(document)])
    route = worker.expert(worker.routes[0])
    assert sum(p.numel() for p in route.experts.parameters()) == sum(tensor.numel() for tensor in weights.values())
