"""Launch: how many processes, and what a launcher's environment must agree with."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from snrouter.errors import SpecError
from snrouter.launch import Launch
from snrouter.launched import Launched, is_first, launched

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
BATCH = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2"} | dict.fromkeys(
    ["SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"], "0"
)
SRUN = BATCH | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "1"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


def started(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("environment", "by"), [(TORCHRUN, "torchrun"), (SRUN, "srun"), (TORCHRUN | SRUN, "torchrun")])
def test_a_launchers_process_knows_its_place(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], by: str) -> None:
    assert is_first()
    started(monkeypatch, environment)
    assert launched() == Launched(by, 3, 4, 2, 2)
    assert not is_first()
    Launch("auto", 2)
    Launch(2, 2, "ddp")


@pytest.mark.parametrize("environment", [SRUN | {"SLURM_NTASKS": "1"}, SRUN | {"SLURM_JOB_NAME": "interactive"}, BATCH])
def test_one_task_of_slurm_is_a_process_like_any_other(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    started(monkeypatch, environment)
    assert launched() is None
    assert is_first()
    Launch(3, 1, "ddp")
    with pytest.raises(SpecError, match=r"^--nodes 2 need a launcher; start the same command on each with torchrun or srun$"):
        Launch(3, 2)


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
@pytest.mark.parametrize("devices", [1, 2])
def test_strategies_are_the_same(strategy: str, devices: int) -> None:
    trainer = Launch(devices, 1, strategy).trainer(9, None, [])
    assert isinstance(trainer.strategy, DDPStrategy) == (devices > 1)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "strategy", "expected"),
    [
        ({}, 1, 1, "dpp", "--strategy: expected auto or ddp, got 'dpp'; did you mean 'ddp'?"),
        ({}, 0, 1, "auto", "--devices: expected a number of at least 1, or auto; got 0"),
        ({}, "-1", 1, "auto", "--devices: expected a number of at least 1, or auto; got -1"),
        ({}, "two", 1, "auto", "--devices: expected a number of at least 1, or auto; got two"),
        ({}, 1, 0, "auto", "--nodes: expected at least 1, got 0"),
        ({}, 1, 2, "auto", "--nodes 2 need a launcher; start the same command on each with torchrun or srun"),
        (
            TORCHRUN,
            3,
            2,
            "auto",
            "torchrun started 4 processes, 2 a node; expected --devices 2 --nodes 2, got --devices 3 --nodes 2",
        ),
        (SRUN, "auto", 1, "auto", "srun started 4 processes, 2 a node; expected --devices 2 --nodes 2, got --devices 2 --nodes 1"),
        (SRUN | {"SLURM_NTASKS_PER_NODE": None}, 4, 1, "auto", "start it with --ntasks-per-node"),
        (
            SRUN | {"SLURM_NTASKS": "3"},
            2,
            2,
            "auto",
            "srun started 3 processes, but says 2 on each of 2 nodes; start as many on every node",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str | None],
    devices: int | str,
    nodes: int,
    strategy: str,
    expected: str,
) -> None:
    started(monkeypatch, environment)
    with pytest.raises(SpecError) as refusal:
        Launch(devices, nodes, strategy)
    assert expected in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    Launch(1)
    with pytest.raises(SpecError, match=r"^--devices 2, but CUDA has 1; ask for fewer, or auto$"):
        Launch(2)


def test_a_process_of_a_launcher_that_sees_but_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, SRUN)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SpecError, match=r"each sees 1 accelerators; .* --gres=gpu:2 instead of --gpus-per-task$"):
        Launch(2, 2)
