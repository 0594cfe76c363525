"""Jobs cut into shards, and shards on disk: written atomically, named by what they depend on, never computed twice."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from snrouter.errors import OutputError, SnrouterError
from snrouter.files import remove, write

Kind = Literal["samples", "measure", "reconstructions", "trace", "route"]
"""What a job makes: samples; a metric of each image of the data; the data encoded by the flow and decoded again; the way of a few
samples; a metric of the route itself, by one process while no other computes."""


@dataclass(frozen=True)
class Job:
    """Something to compute for every index of one route.

    Attributes:
        kind: what it makes.
        route: number of the route.
        metric: position in `evaluate` of the one metric that measures; None where several may use what is made.
        count: number of indices, 0 ... count - 1.
        key: fingerprint of everything that its result depends on.
        what: a word for it, e.g. "samples" or "bpd".
    """

    kind: Kind
    route: int
    metric: int | None
    count: int
    key: str
    what: str

    def shards(self, size: int) -> list[range]:
        """Blocks of consecutive indices; all at once where they are made together."""
        step = self.count if self.kind in ("trace", "route") else size
        return [range(start, min(start + step, self.count)) for start in range(0, self.count, step)]


@dataclass(frozen=True)
class Task:
    """One shard of one job."""

    job: Job
    indices: range
    path: Path


def fingerprint(content: Any) -> str:
    """Short SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def environment_identity(seed: int, batch_size: int, precision: str) -> dict[str, Any]:
    """What results depend on beside the spec's components."""
    return {
        "seed": seed,
        "batch_size": batch_size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu {platform.machine()}",
        "snrouter": version("snrouter"),
        "torch": torch.__version__,
    }


def shard_path(out: Path, job: Job, shard: range) -> Path:
    """Where a shard lies."""
    return _folder(out, job) / f"{shard.start:08d}-{shard.stop:08d}.safetensors"


def shards(jobs: Sequence[Job], size: int, out: Path) -> list[Task]:
    """Every shard of these jobs."""
    return [Task(job, shard, shard_path(out, job, shard)) for job in jobs for shard in job.shards(size)]


def missing(jobs: Sequence[Job], size: int, out: Path) -> list[Task]:
    """Those that are not on disk."""
    return [task for task in shards(jobs, size, out) if not task.path.exists()]


def forget(jobs: Sequence[Job], out: Path) -> None:
    """Remove the shards of these jobs.

    Raises:
        OutputError: when one cannot be removed.
    """
    for job in jobs:
        for path in _folder(out, job).glob("*.safetensors"):
            remove(path)


def save_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard atomically.

    Raises:
        OutputError: when it cannot be written.
    """
    write(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}))


def collect(job: Job, size: int, out: Path, first: int | None = None) -> dict[str, Tensor]:
    """Shards of a job in index order, every index exactly once: all, or those that hold the first so many indices."""
    wanted = [shard for shard in job.shards(size) if first is None or shard.start < first]
    parts = [_load_shard(shard_path(out, job, shard)) for shard in wanted]
    names = {name: next(part[name] for part in parts if name in part) for part in parts for name in part}
    joined = {
        name: torch.cat([part.get(name, torch.zeros(len(part["indices"]), *like.shape[1:], dtype=like.dtype)) for part in parts])
        for name, like in names.items()
    }
    if joined["indices"].tolist() != list(range(wanted[-1].stop)):
        raise SnrouterError(f"shards under {_folder(out, job)} do not hold each index once; delete that folder")
    return joined


def _folder(out: Path, job: Job) -> Path:
    return out / "shards" / job.key


def _load_shard(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
        tensors["indices"]  # what every shard has
    except Exception as error:
        path.unlink(missing_ok=True)
        raise OutputError(f"{path}: a damaged shard ({error}), now removed; run the same command again") from None
    return tensors
