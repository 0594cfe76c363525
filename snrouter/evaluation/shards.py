"""Jobs cut into shards, and shards on disk: written atomically, named by what they depend on, never computed twice."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from snrouter.errors import DamagedError, OutputError, SnrouterError
from snrouter.files import remove, write
from snrouter.gamma import GammaInterval

Kind = Literal["samples", "features", "measure", "reconstructions", "trace", "route", "profile"]
"""What a job makes: samples; what a network finds in them; a metric of each image of the data; the data encoded by the flow and
decoded again; the way of a few samples; a metric of the route itself, by one process while no other computes; the denoising errors
of all the worker's routes."""


SHARED: tuple[Kind, ...] = ("samples", "measure")
"""Kinds of which routes may have network calls in common."""


class Cells(NamedTuple):
    """What a profile is measured by.

    Attributes:
        edges: of the cells, ascending.
        levels: of the images; None for continuous data.
        gamma_min: lower ends of the interval to choose from.
        repeat: which repetition of the noise.
    """

    edges: tuple[float, ...]
    levels: int | None
    gamma_min: tuple[float, ...] = ()
    repeat: int = 0


@dataclass(frozen=True)
class Job:
    """Something to compute for every index of one route.

    Attributes:
        kind: what it makes.
        route: number of the route.
        metric: position in `evaluate` of the one metric that measures, or of one that asks for these features; None where several
            may use what is made.
        count: number of indices, 0 ... count - 1.
        key: fingerprint of everything that its result depends on.
        what: a word for it, e.g. "samples" or "bpd/vlb".
        then: jobs on what this one made, shard by shard.
        cells: of a profile.
    """

    kind: Kind
    route: int
    metric: int | None
    count: int
    key: str
    what: str
    then: tuple[Job, ...] = ()
    cells: Cells | None = None

    def shards(self, size: int) -> list[range]:
        """Blocks of consecutive indices; all at once where they are made together."""
        step = self.count if self.kind in ("trace", "route") else size
        return [range(start, min(start + step, self.count)) for start in range(0, self.count, step)]


@dataclass(frozen=True)
class Task:
    """One shard of one job, and those that are made of it, by one process."""

    job: Job
    indices: range
    path: Path
    then: tuple[Task, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Of every shard, in the order in which they are made."""
        return [self.path, *(path for later in self.then for path in later.paths)]

    @property
    def done(self) -> bool:
        """Whether every shard is on disk."""
        return all(whole(path) for path in self.paths)


def fingerprint(content: Any) -> str:
    """Short SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def environment_identity(seed: int, batch_size: int, precision: str) -> dict[str, Any]:
    """What results depend on beside the spec's components."""
    return {
        "seed": seed,
        "batch_size": batch_size,
        "precision": precision,
        "device": _devices() or f"cpu {platform.machine()}",
        "snrouter": version("snrouter"),
        "torch": torch.__version__,
    }


def shard_path(out: Path, job: Job, shard: range) -> Path:
    """Where a shard lies."""
    return _folder(out, job) / f"{shard.start:08d}-{shard.stop:08d}.safetensors"


def shards(jobs: Sequence[Job], size: int, out: Path) -> list[Task]:
    """Every shard of these jobs, those of several jobs once."""
    tasks = [_task(job, shard, out) for job in jobs for shard in job.shards(size)]
    return list({tuple(task.paths): task for task in reversed(tasks)}.values())[::-1]


def missing(jobs: Sequence[Job], size: int, out: Path) -> list[Task]:
    """Those that are not on disk, or lack one that is made of them."""
    return [task for task in shards(jobs, size, out) if not task.done]


def together(tasks: Sequence[Task], bounds: Sequence[GammaInterval], processes: int) -> list[tuple[Task, ...]]:
    """Tasks by who makes them together: the same shard of routes that run on the same interval, and have calls in common.

    Args:
        tasks: what is to be made.
        bounds: of each route.
        processes: how many share the parts, one each in turn; what is left for the last turn is divided among all.

    Returns:
        The parts, long ones first.
    """
    alike: dict[Hashable, list[Task]] = {}
    for number, task in enumerate(tasks):
        job = task.job
        key = (job.kind, job.metric, bounds[job.route], task.indices) if job.kind in SHARED else number
        alike.setdefault(key, []).append(task)
    parts = _long_first(tuple(part) for part in alike.values())
    turns = len(parts) - len(parts) % processes
    parts, last = parts[:turns], parts[turns:]
    while last and len(last) < min(processes, sum(map(len, last))):
        longest = last.pop(max(range(len(last)), key=lambda i: len(last[i])))
        half = len(longest) // 2
        last += [longest[:half], longest[half:]]
    return _long_first([*parts, *last])


def forget(jobs: Sequence[Job], out: Path) -> None:
    """Remove the shards of these jobs.

    Raises:
        OutputError: when one cannot be removed.
    """
    for job in jobs:
        for path in _folder(out, job).glob("*.safetensors"):
            remove(path)
        forget(job.then, out)


def save_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard atomically, with the hash of its tensors.

    Raises:
        OutputError: when it cannot be written.
    """
    there = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write(path, save(there, metadata={"sha256": _sha256(there)}))


def whole(path: Path) -> bool:
    """Whether a shard is there and as long as it says; its tensors are not read."""
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "sha256" in (file.metadata() or {})
    except SafetensorError:
        return False
    except OSError:
        return True  # who reads it tells why it cannot be


def collect(job: Job, size: int, out: Path, first: int | None = None) -> dict[str, Tensor]:
    """Shards of a job in index order, every index exactly once: all, or those that hold the first so many indices."""
    wanted = [shard for shard in job.shards(size) if first is None or shard.start < first]
    parts = [load_shard(shard_path(out, job, shard)) for shard in wanted]
    names = {name: next(part[name] for part in parts if name in part) for part in parts for name in part}
    joined = {
        name: torch.cat([part.get(name, torch.zeros(len(part["indices"]), *like.shape[1:], dtype=like.dtype)) for part in parts])
        for name, like in names.items()
    }
    if joined["indices"].tolist() != list(range(wanted[-1].stop)):
        raise SnrouterError(f"shards under {_folder(out, job)} do not hold each index once; delete that folder")
    return joined


def tell_spent(tasks: Sequence[Task], made: Sequence[dict[str, Tensor]], spent: Sequence[Tensor]) -> None:
    """Add to shards that were made together the calls made for each and none before it, and which one was made before it."""
    before = [tasks[0], *tasks]
    for task, rows, calls in zip(before, made, spent, strict=False):
        rows |= {"spent": calls, "after": torch.full(calls.shape, _number(task.job))}


def network_calls(jobs: Sequence[Job], size: int, out: Path) -> dict[str, dict[str, float]]:
    """Network calls by what jobs make, over all routes: `spent`, those that their shards took, and `alone`, what each takes alone.

    Of jobs whose routes may share calls, shards that several have counted once; nothing of what is made where a shard does not say
    it, or was made with one of a job that is not among these.
    """
    found: dict[str, dict[str, float]] = {}
    unknown = set[str]()
    there = {(_number(job), shard) for job in jobs for shard in job.shards(size)}
    for task in shards([job for job in jobs if job.kind in SHARED], size, out):
        with safe_open(task.path, framework="pt") as file:
            names = file.keys()
            calls = {name: float(file.get_tensor(name).sum()) for name in names if name == "spent" or name.startswith("nfe/")}
            after = int(file.get_tensor("after")[0]) if "after" in names else None
        if (after, task.indices) not in there:
            unknown.add(task.job.what)
        told = found.setdefault(task.job.what, {"spent": 0.0, "alone": 0.0})
        told["spent"] += calls.pop("spent", 0.0)
        told["alone"] += sum(calls.values())
    return {what: told for what, told in found.items() if told["alone"] and what not in unknown}


def load_shard(path: Path) -> dict[str, Tensor]:
    """Read a shard.

    Raises:
        DamagedError: when it does not hold what was written.
        OutputError: when it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OutputError(f"{path}: a shard that cannot be read ({error}); run the same command again") from None
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        intact = header["__metadata__"]["sha256"] == _sha256(tensors)
    except (SafetensorError, KeyError, ValueError):
        intact = False
    if not intact:
        raise DamagedError(f"{path}: a damaged shard; remove it and run the same command again")
    return tensors


def remove_damaged(jobs: Sequence[Job], size: int, out: Path) -> list[Path]:
    """Read every shard of these jobs, and remove those that are damaged.

    Raises:
        OutputError: when one cannot be read or removed.
    """
    removed = []
    for path in [path for task in shards(jobs, size, out) for path in task.paths]:
        try:
            load_shard(path)
        except DamagedError:
            remove(path)
            removed.append(path)
    return removed


def _task(job: Job, indices: range, out: Path) -> Task:
    then = tuple(_task(later, indices, out) for later in job.then if indices.start < later.count)
    return Task(job, indices, shard_path(out, job, indices), then)


def _long_first(parts: Iterable[tuple[Task, ...]]) -> list[tuple[Task, ...]]:
    return sorted(parts, key=lambda part: (-sum(len(task.indices) for task in part), part[0].job.kind))


def _number(job: Job) -> int:
    """The key of a job as tensors hold it, int64."""
    return int(job.key, 16) - (1 << 63)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _devices() -> str:
    """Names of the kinds of GPU that are here; "" where there is none."""
    return ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}))


def _folder(out: Path, job: Job) -> Path:
    return out / "shards" / job.key
