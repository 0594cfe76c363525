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
        local: how many on this node; None where the launcher does not say.
    """

    by: str
    rank: int
    world: int
    local: int | None

    @property
    def nodes(self) -> int:
        """Machines, if each has as many processes."""
        return self.world // (self.local or self.world)


def launched() -> Launched | None:
    """This process among those of a launcher; None where it is the only one."""
    found = None
    if "TORCHELASTIC_RUN_ID" in os.environ:  # first: torchrun may itself be started by srun
        found = Launched("torchrun", *(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))
    elif "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # as Lightning has it
        local = os.environ.get("SLURM_NTASKS_PER_NODE")
        world, rank = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_PROCID", 0))
        found = Launched("srun", rank, world, None if local is None else int(local))
    return found if found and found.world > 1 else None


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    found = launched()
    return found is None or found.rank == 0
