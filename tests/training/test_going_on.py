"""A training that was killed goes on, and ends with the bits of one that was not."""

import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from snrouter.data.digits import digits
from snrouter.errors import DamagedError, OutputError
from snrouter.experts.checkpoints import read_tensors
from snrouter.recipe import Recipe
from snrouter.spec import load
from snrouter.training import loop, train, train_recipe
from snrouter.training.objectives import objective

UNET = {"type": "unet", "channels": [4], "dropout": 0.1}
TINY = {"steps": 14, "batch_size": 16, "warmup": 3, "checkpoint_every": 3}
VDM = {"type": "vdm", "network": UNET, "support": (-7.86, 5.0)}
RECIPES = {
    "edm": {"type": "edm", "network": UNET, "support": (-7.86, 5.0), **TINY},
    "learned": {**VDM, "schedule": "learned_linear", **TINY},
    "classifier": {"type": "classifier", "network": {"type": "classifier", "channels": 4, "dropout": 0.3}, **TINY},
    "frozen": {"type": "gate", "experts": ["quality", "likelihood"], "gate": {"channels": [4], "width": 8}, **TINY},
    "mixture": {"type": "mixture", "experts": {"a": "round", "b": None, "c": None}, "expert": VDM, "warm": 0.2, "top_k": 2, **TINY},
    "adapters": {"type": "mixture", "experts": {"a": "round", "b": None}, "expert": VDM, "warm": 0.3, "adapter": 4, **TINY},
    "lots": {"type": "mixture", "experts": {"a": "round", "b": None}, "expert": VDM, "routing": "random", **TINY},
}


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"extends": "digits", "slices": {"round": {"classes": [0, 6]}}, "train": RECIPES}))
    return path


def weights(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_bytes().hex() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_that_was_stopped_at_any_step_ends_with_the_same_bits(name, spec, tmp_path, monkeypatch):
    document = load(spec)
    whole = train_recipe(document, name, tmp_path / "whole", progress=False, accelerator="cpu")
    step, steps = loop._Training.training_step, []

    def killed(self, batch, index):
        steps.append(self.global_step)
        if len(steps) in (5, 9):
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(loop._Training, "training_step", killed)
    for _ in range(2):
        with pytest.raises(Killed):
            train_recipe(document, name, tmp_path / "parts", progress=False, accelerator="cpu")
        torch.manual_seed(random.randrange(1000))  # what the process draws elsewhere is of no matter
    parts = train_recipe(document, name, tmp_path / "parts", progress=False, accelerator="cpu")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert parts.card == whole.card
    assert 3 in steps[5:9] or 0 in steps[5:9]  # went on from a checkpoint, or stood before the first
    assert not list((tmp_path / "parts").rglob("*.ckpt"))


def test_it_goes_on_from_the_last_checkpoint_and_not_from_the_beginning(tmp_path, monkeypatch):
    recipe, data, path = Recipe(**RECIPES["edm"]), digits("train"), tmp_path / "x.safetensors"
    step, seen = loop._Training.training_step, []

    def killed(self, batch, index):
        seen.append(self.global_step)
        if len(seen) == 9:
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(loop._Training, "training_step", killed)
    with pytest.raises(Killed):
        train(recipe, data, path, progress=False)
    assert path.with_suffix(".ckpt").is_file()
    train(recipe, data, path, progress=False)
    assert seen == [*range(9), *range(6, 14)]


def test_a_training_that_is_done_is_not_done_again_and_a_changed_one_is(spec, tmp_path, monkeypatch):
    first = train_recipe(load(spec), "mixture", tmp_path / "out", progress=False)
    done = []
    monkeypatch.setattr(loop._Training, "on_train_start", lambda self: done.append(self.recipe.type))
    again = train_recipe(load(spec), "mixture", tmp_path / "out", progress=False)
    assert done == []
    assert (again.card, again.route, again.experts) == (first.card, first.route, first.experts)
    assert again.steps["joint"] == first.steps["joint"] | {"found": True}
    train_recipe(load(spec, ["train.mixture.entropy=0.5"]), "mixture", tmp_path / "out", progress=False)
    assert done == ["mixture"]  # experts of the first phase do not depend on it
    train_recipe(load(spec, ["slices.round.classes=[0]"]), "mixture", tmp_path / "out", progress=False)
    assert done == ["mixture", "vdm", "mixture"]
    (tmp_path / "out" / "mixture" / "gate.safetensors").write_bytes(b"")
    train_recipe(load(spec, ["slices.round.classes=[0]"]), "mixture", tmp_path / "out", progress=False)
    assert done == ["mixture", "vdm", "mixture", "mixture"]


def test_a_checkpoint_of_another_training_is_written_over(tmp_path, monkeypatch):
    recipe, data, path = Recipe(**RECIPES["edm"]), digits("train"), tmp_path / "x.safetensors"
    step = loop._Training.training_step

    def killed(self, batch, index):
        if self.global_step == 7:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "training_step", killed)
        with pytest.raises(Killed):
            train(recipe, data, path, progress=False)
    other = recipe.model_copy(update={"seed": 1})
    assert train(other, data, path, progress=False) == train(other, data, tmp_path / "y.safetensors", progress=False)


def test_a_checkpoint_that_is_none_is_told_and_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "trapped").touch, ())

    torch.save({"snrouter": Trap()}, tmp_path / "x.ckpt")
    with pytest.raises(DamagedError, match=r"x\.ckpt.*remove it to start over") as caught:
        train(Recipe(**RECIPES["edm"]), digits("train"), tmp_path / "x.safetensors", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


def test_a_process_killed_at_a_random_moment_is_continued_by_the_same_command(spec, tmp_path):
    command = [
        sys.executable,
        "-m",
        "snrouter",
        "train",
        str(spec),
        "learned",
        "--set",
        "train.learned.steps=90",
        "--json",
        "--out",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def start(out: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, str(tmp_path / out)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    process = start("parts")
    running = tmp_path / "parts" / "learned.ckpt"
    while process.poll() is None and not running.is_file():
        time.sleep(0.01)
    time.sleep(random.random() / 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert running.is_file()
    for out in ("parts", "whole"):
        _, said = (process := start(out)).communicate()
        assert process.returncode == 0, said
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert not running.exists()


def test_no_line_of_the_log_is_lost(spec, tmp_path, monkeypatch):
    step = loop._Training.training_step

    def killed(self, batch, index):
        if self.global_step == 8:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "training_step", killed)
        with pytest.raises(Killed):
            train_recipe(load(spec), "frozen", tmp_path, progress=False, logger="csv")
    train_recipe(load(spec), "frozen", tmp_path, progress=False, logger="csv")
    logged = []
    for version in sorted((tmp_path / "logs" / "frozen").iterdir()):
        lines = (version / "metrics.csv").read_text().splitlines()
        logged += [int(line.split(",")[lines[0].split(",").index("step")]) for line in lines[1:]]
    assert sorted({*logged}) == list(range(14))
    assert logged[-8:] == list(range(6, 14))


def test_random_numbers_are_drawn_in_the_order_of_a_plain_loop(tmp_path):
    """What a recipe has always drawn: the network, one number for the loader, then each step's."""
    recipe, data = Recipe(**RECIPES["edm"]), digits("train")
    train(recipe, data, tmp_path / "x.safetensors", progress=False, accelerator="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        made = objective(recipe, data)
        average = [value.detach().clone() for value in made.network.parameters()]
        decayed = [value for value in made.network.parameters() if value.ndim > 1]
        others = [value for value in made.network.parameters() if value.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
        torch.empty((), dtype=torch.int64).random_()
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
        for number in range(recipe.steps):
            decay = (1 + math.cos(math.pi * number / recipe.steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (min(1.0, (number + 1) / (recipe.warmup + 1)) * decay)
            batch = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
            optimizer.zero_grad()
            made.loss(data.images(batch), data.labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(decayed + others, recipe.gradient_clip)
            optimizer.step()
            for mean, value in zip(average, made.network.parameters(), strict=True):
                with torch.no_grad():
                    mean.copy_(value) if number == 0 else mean.lerp_(value, 1 - min(recipe.ema, (1 + number) / (10 + number)))
    saved = read_tensors(tmp_path / "x.safetensors", {})
    for (name, _), mean in zip(made.network.named_parameters(), average, strict=True):
        assert torch.equal(saved[name], mean), name


def test_a_full_disk_is_told_as_one(tmp_path):
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, was[1]))
    try:
        with pytest.raises(OutputError, match=r"x\.ckpt: cannot be written .*free space"):
            train(Recipe(**RECIPES["edm"]), digits("train"), tmp_path / "x.safetensors", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
    assert not list(tmp_path.iterdir())
