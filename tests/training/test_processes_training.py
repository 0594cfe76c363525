"""Several processes train one network together, each on its part of every batch."""

import json
import os
import pickle
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from snrouter.data.digits import digits
from snrouter.errors import NonFiniteError, SpecError
from snrouter.experts.checkpoints import read_tensors
from snrouter.experts.edm import PRECONDITIONINGS
from snrouter.launch import Launch
from snrouter.recipe import Recipe
from snrouter.scheduler_configs import Scheduler
from snrouter.schedules import schedule, scheduler_schedule
from snrouter.spec import load
from snrouter.training import train_recipe
from snrouter.training.batches import Shuffled
from snrouter.training.loop import Setting
from snrouter.training.networks import train_network
from snrouter.training.objectives import objective

UNET = {"type": "unet", "channels": [4], "dropout": 0.1}
VDM = {"type": "vdm", "network": UNET, "support": (-7.86, 5.0)}
OTHERS = {
    "quality": {**VDM, "type": "edm", "steps": 3, "batch_size": 8},
    "frozen": {"type": "gate", "experts": ["quality", "likelihood"], "steps": 3, "batch_size": 8},
}


def test_the_processes_batches_are_parts_of_the_one():
    recipe = Recipe(**VDM, steps=5, batch_size=12)
    images = [torch.arange(100)]
    whole = list(Shuffled(recipe, images, 2, 0, 1))
    parts = [list(Shuffled(recipe, images, 2, rank, 3)) for rank in range(3)]
    assert len(whole) == 3
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(index for part in parts for index in part[number])


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(
        SpecError, match=r"9 images cannot be divided among 2 processes; make it a multiple, or give fewer --devices"
    ):
        train_network(Recipe(**VDM, batch_size=9), digits("train"), tmp_path / "x.safetensors", Setting(False, launch=Launch(2)))


UNITS = ("gamma", "log_snr", "half_log_snr", "edm_sigma", "edm_c_noise")


def flow_steps():
    return scheduler_schedule(Scheduler(Path(), 1000, "epsilon", None, "leading", 0))


@pytest.fixture
def spec(tmp_path):
    mixture = {"type": "mixture", "experts": {"a": None, "b": None, "c": None}, "expert": VDM, "top_k": 2}
    mixture |= {"steps": 60, "batch_size": 64, "warm": 0.0, "warmup": 5, "checkpoint_every": 20}
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"extends": "digits", "train": {"mix": mixture} | OTHERS}))
    return path


SCRIPT = """
import sys
from pathlib import Path
import torch
from snrouter.launch import Launch
from snrouter.spec import load
from snrouter.training import loop, train_recipe

end = loop._Training.on_train_end
def told(self):
    out = Path(sys.argv[2]) / f"rank{self.global_rank}.pt"
    torch.save({"network": self.objective.network.state_dict(), "average": self.average.state_dict(), "drawn": torch.rand(1)}, out)
loop._Training.on_train_end = told
train_recipe(load(sys.argv[1]), "mix", Path(sys.argv[2]), progress=False, accelerator="cpu", logger="csv", launch=Launch(2))
"""


def test_two_processes_end_with_the_same_weights_and_a_lower_loss(spec, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "out"
    base = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    base |= {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    base |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_MAX_RESTARTS": "0", "ROLE_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(spec), str(out)],
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    one, two = (torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for key in ("network", "average"):
        assert all(torch.equal(one[key][name], two[key][name]) for name in one[key])
    assert not torch.equal(one["drawn"], two["drawn"])  # each drew its own noise
    saved = read_tensors(out / "mix" / "gate.safetensors", {})
    assert all(torch.equal(saved[name], one["average"][f"module.gate.{name}"]) for name in saved)
    lines = (out / "logs" / "mix" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("nll")
    losses = [float(line.split(",")[column]) for line in lines[1:]]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_processes_that_lightning_starts_bring_the_weights_back(spec, tmp_path):
    document = load(spec, ["train.mix.steps=4", "train.mix.expert.type=edm"])
    found = train_recipe(document, "mix", tmp_path / "out", progress=False, accelerator="cpu", launch=Launch(2))
    alone = train_recipe(document, "mix", tmp_path / "alone", progress=False, accelerator="cpu")
    assert found.card["processes"] == 2
    assert found.card["training_loss"] == pytest.approx(alone.card["training_loss"], rel=0.2)
    untrained = train_recipe(
        load(spec, ["train.mix.steps=1", "train.mix.expert.type=edm"]), "mix", tmp_path / "one", progress=False, accelerator="cpu"
    )
    weights = [read_tensors(tmp_path / name / "mix" / "a.safetensors", {}) for name in ("out", "one")]
    assert untrained.card["sha256"] != found.card["sha256"]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("name", OTHERS)
def test_edm_experts_and_gates_over_them_are_trained_by_processes_that_lightning_starts(name, spec, tmp_path):
    def done(processes):
        launch = Launch(processes)
        return train_recipe(load(spec), name, tmp_path / "out", progress=False, accelerator="cpu", launch=launch)

    two = done(2)
    assert two.card["processes"] == 2
    one = done(1)  # which is another training
    assert "processes" not in one.card
    assert one.card["sha256"] != two.card["sha256"]


@pytest.mark.parametrize("weighted", ["elbo", "simple", "edm"])
def test_every_weighting_can_be_sent_to_another_process(weighted):
    made = objective(Recipe(**VDM | {"type": "edm", "weighting": weighted}), digits("train"))
    pickle.loads(pickle.dumps(made))


@pytest.mark.parametrize("build", [*PRECONDITIONINGS.values(), *(partial(schedule, name) for name in UNITS), flow_steps])
def test_every_clock_can_be_sent_to_another_process(build):
    made, gamma = build(), torch.tensor([-3.0, 1.0], dtype=torch.float64)
    clock = getattr(made, "clock", None) or made.t
    assert torch.equal(pickle.loads(pickle.dumps(clock))(gamma), clock(gamma))


def test_what_another_process_raises_keeps_its_kind(tmp_path, monkeypatch):
    from torch.multiprocessing.spawn import ProcessRaisedException

    said = "\n\n-- Process 1 terminated with the following error:\nTraceback\nsnrouter.errors.NonFiniteError: training loss is nan at step 3"

    def fail(*_, **__):
        raise ProcessRaisedException(said, 1, 1)

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(NonFiniteError, match=r"^training loss is nan at step 3$"):
        train_network(Recipe(**VDM, steps=2), digits("train"), tmp_path / "x.safetensors", Setting(False))
