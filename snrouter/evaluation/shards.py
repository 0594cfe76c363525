"""Jobs cut into shards, and shards on disk: written atomically, named by what they depend on, never computed twice."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from snrouter.errors import OutputError, SnrouterError
from snrouter.files import write


@dataclass(frozen=True)
class Job:
    """Something to compute for every index of one route.

    Attributes:
        kind: draw samples, or measure the metric at `metric` of the spec's `evaluate`.
        route: number of the route.
        metric: position in `evaluate`; None for samples.
        count: number of indices, 0 ... count - 1.
        key: fingerprint of everything that its result depends on.
    """

    kind: Literal["samples", "measure"]
    route: int
    metric: int | None
    count: int
    key: str

    def shards(self, size: int) -> list[range]:
        """Blocks of consecutive indices."""
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]


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
    return out / "shards" / job.key / f"{shard.start:08d}-{shard.stop:08d}.safetensors"


def save_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard atomically.

    Raises:
        OutputError: when it cannot be written.
    """
    write(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}))


def collect(job: Job, size: int, out: Path) -> dict[str, Tensor]:
    """All shards of a job in index order, every index exactly once."""
    parts = [_load_shard(shard_path(out, job, shard)) for shard in job.shards(size)]
    names = {name: next(part[name] for part in parts if name in part) for part in parts for name in part}
    joined = {
        name: torch.cat([part.get(name, torch.zeros(len(part["indices"]), *like.shape[1:], dtype=like.dtype)) for part in parts])
        for name, like in names.items()
    }
    if joined["indices"].tolist() != list(range(job.count)):
        raise SnrouterError(f"shards under {shard_path(out, job, range(0)).parent} do not hold each index once; delete that folder")
    return joined


def _load_shard(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
        tensors["indices"]  # what every shard has
    except Exception as error:
        path.unlink(missing_ok=True)
        raise OutputError(f"{path}: a damaged shard ({error}), now removed; run the same command again") from None
    return tensors
