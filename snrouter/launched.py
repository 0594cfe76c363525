"""Processes that torchrun or srun started: which of them this is, read from the environment."""

from __future__ import annotations

import os
from typing import NamedTuple


class Launched(NamedTuple):
    """One of several processes that run the same command.

    Attributes:
        by: "torchrun" or "srun".
        rank: of this process among all.
        world: how many there are.
        local: how many on each node; None where the launcher does not say.
        nodes: machines.
    """

    by: str
    rank: int
    world: int
    local: int | None
    nodes: int


_TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
_SRUN = ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NNODES")
"""What srun sets; a batch script without it has some of them, but no step."""


def launched() -> Launched | None:
    """This process among those of a launcher; None where it is the only one."""
    found, env = None, os.environ
    if all(name in env for name in _TORCHRUN):  # first: torchrun may itself be started by srun
        found = Launched("torchrun", *(int(env[name]) for name in _TORCHRUN[1:]))
    elif all(name in env for name in _SRUN) and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # as Lightning has it
        local = env.get("SLURM_NTASKS_PER_NODE")
        world = int(env["SLURM_NTASKS"])
        found = Launched("srun", int(env["SLURM_PROCID"]), world, None if local is None else int(local), int(env["SLURM_NNODES"]))
    return found if found and found.world > 1 else None


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    found = launched()
    return found is None or found.rank == 0
