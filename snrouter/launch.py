"""Launch: how many processes a command has, and who starts them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from snrouter.errors import SpecError, suggestion
from snrouter.launched import Launched, launched

STRATEGIES = ("auto", "ddp")


@dataclass(frozen=True)
class Launch:
    """How many processes compute, and who starts them.

    Args:
        devices: accelerators, or on a CPU processes, a node, as a number or its text; "auto": as many as torchrun or srun started
            there, or else every accelerator, or on a CPU one a core.
        nodes: machines; several need torchrun or srun.
        strategy: "auto", or Lightning's "ddp", which is what auto takes for more than one process.

    Raises:
        SpecError: when these are no such numbers and names, or a launcher started other processes.
    """

    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            close = suggestion(self.strategy, STRATEGIES)
            raise SpecError(f"--strategy: expected {' or '.join(STRATEGIES)}, got {self.strategy!r}{close}")
        if self.devices != "auto" and not (str(self.devices).isdecimal() and int(self.devices) > 0):
            raise SpecError(f"--devices: expected a number of at least 1, or auto; got {self.devices}")
        if self.nodes < 1:
            raise SpecError(f"--nodes: expected at least 1, got {self.nodes}")
        started = launched()
        if started:
            self._agree(started)
        elif self.nodes > 1:
            raise SpecError(f"--nodes {self.nodes} need a launcher; start the same command on each with torchrun or srun")
        elif torch.cuda.is_available() and self._devices() > torch.cuda.device_count():
            raise SpecError(f"--devices {self.devices}, but CUDA has {torch.cuda.device_count()}; ask for fewer, or auto")

    def _agree(self, started: Launched) -> None:
        if started.local is None:
            raise SpecError(f"{started.by} does not say how many processes a node has; start it with --ntasks-per-node")
        if started.local * started.nodes != started.world:
            raise SpecError(
                f"{started.by} started {started.world} processes, but says {started.local} on each of {started.nodes} nodes; "
                f"start as many on every node, and give that number, with srun as --ntasks-per-node"
            )
        devices = started.local if self.devices == "auto" else int(self.devices)
        if (devices, self.nodes) != (started.local, started.nodes):
            raise SpecError(
                f"{started.by} started {started.world} processes, {started.local} a node; "
                f"expected --devices {started.local} --nodes {started.nodes}, got --devices {devices} --nodes {self.nodes}"
            )
        if torch.cuda.is_available() and torch.cuda.device_count() < started.local:
            raise SpecError(
                f"{started.by} started {started.local} processes a node, but each sees {torch.cuda.device_count()} accelerators; "
                f"let each see all of its node, with srun by --gres=gpu:{started.local} instead of --gpus-per-task"
            )

    @property
    def processes(self) -> int:
        """How many compute, where there is work for all."""
        started = launched()
        return started.world if started else self._devices()

    def trainer(self, parts: int, logger: Logger | None, callbacks: Sequence[Callback]) -> Trainer:
        """Lightning's trainer for that many parts of work; of processes that it starts itself, none is without one.

        Processes exchange a list of shards and meet once at the end, through gloo; no tensor travels.
        """
        started = launched()
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        devices = started.local if started and started.local else min(self._devices(), parts)
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=self.nodes,
            strategy=_ddp(started, "gloo") if started or devices > 1 else "auto",
            plugins=[_environment(started)],
            logger=logger or False,
            callbacks=[*callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,  # likelihoods differentiate the network
        )

    def distributed(self, unused: bool) -> dict[str, Any]:
        """Arguments of Lightning's trainer for processes that train one network together.

        Args:
            unused: whether some of the network may have no part in the loss of a batch.
        """
        if self.processes == 1:
            return {"devices": 1}
        started, backend = launched(), "nccl" if torch.cuda.is_available() else "gloo"
        devices = started.local if started and started.local else self._devices()
        strategy = _ddp(started, backend, find_unused_parameters=unused)
        return {"devices": devices, "num_nodes": self.nodes, "strategy": strategy, "plugins": [_environment(started)]}

    def _devices(self) -> int:
        if self.devices != "auto":
            return int(self.devices)
        if torch.cuda.is_available():
            return torch.cuda.device_count()
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ddp(started: Launched | None, backend: str, **options: Any) -> DDPStrategy:
    method: Any = "popen" if started else "spawn"  # with a launcher's processes, popen starts none
    return DDPStrategy(start_method=method, process_group_backend=backend, **options)


def _environment(started: Launched | None) -> ClusterEnvironment:
    """Lightning's name for who started the processes."""
    if started is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if started.by == "torchrun" else SLURMEnvironment(auto_requeue=False)
