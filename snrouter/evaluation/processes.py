"""Processes: Lightning runs the shards, each written by the process that made it.

A prediction is one shard, or the same of several routes, which share what they have in common; rank r takes parts[r::world] of the
list that the first process made. On a CPU every process runs one thread, so that results do not depend on how many share the
machine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader

import snrouter.errors
from snrouter.errors import DamagedError, SnrouterError
from snrouter.evaluation.progress import Told
from snrouter.evaluation.shards import Job, Task, load_shard, missing, save_shard, shards, together, whole
from snrouter.evaluation.worker import Worker
from snrouter.files import remove_leftovers
from snrouter.launch import Launch
from snrouter.launched import is_first, launched
from snrouter.loggers import make_logger
from snrouter.quiet import quiet_lightning, silence_lightning

PATIENCE = timedelta(days=7)
"""How long a process that is done waits for the others."""

LATE = 60.0
"""Seconds after which a network file system shows a file that another machine wrote."""


class _Shards(LightningModule):
    """Lightning's view of the work: a prediction is shards that are made together, written by the process that made them."""

    def __init__(self, worker: Worker, parts: Sequence[Sequence[Task]]) -> None:
        super().__init__()
        self.worker = worker
        self.parts = parts
        self.errors = multiprocessing.get_context("spawn").SimpleQueue()
        self.made_by = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["made_by"] != os.getpid():  # a spawned process begins here
            silence_lightning()
            end_with(state["made_by"])
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def setup(self, stage: str) -> None:
        self.at_sigterm = signal.getsignal(signal.SIGTERM)

    def predict_dataloader(self) -> DataLoader[int | None]:
        self.parts = self.trainer.strategy.broadcast(self.parts)  # another may have seen shards of the first already
        world = self.trainer.world_size
        mine: list[int | None] = list(range(self.trainer.global_rank, len(self.parts), world))
        mine += [None] * (-(-len(self.parts) // world) - len(mine))  # as many for all, so that none leaves before the others
        return DataLoader(mine or [None], batch_size=None)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # Lightning's own would wait for the end of an epoch, and for processes that are dead
            signal.signal(signal.SIGTERM, self.at_sigterm)
        self.others = distributed.new_group(timeout=PATIENCE, backend="gloo") if distributed.is_initialized() else None

    def predict_step(self, number: int | None, index: int) -> None:
        if number is None:
            return
        try:
            with one_thread(self.device):
                _make(self.worker, self.parts[number], self.device)
        except Exception as error:
            if os.getpid() != self.made_by:  # what is raised reaches the other as text
                self.errors.put((type(error).__name__, str(error)[:1000]))
            raise

    def on_predict_end(self) -> None:
        if self.others is not None:
            distributed.barrier(self.others)  # a process that leaves early takes its connections with it


def end_with(parent: int) -> None:
    """End this process when its parent is gone; shards are whole or absent, so that any moment will do."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute with one thread on a CPU, so that results do not depend on how many processes share it."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute(worker: Worker, jobs: Sequence[Job], out: Path, launch: Launch, progress: bool) -> bool:
    """Compute every shard that is not on disk, on all processes; whether this one is the first.

    Raises:
        PluginError: when the logger is not installed.
        SnrouterError: when an expert or solver fails, or a process ended before its work was done.
    """
    first, size = is_first(), worker.spec.batch_size
    if first:
        for folder in (out, out / "shards", *(out / "shards").glob("*")):
            remove_leftovers(folder)
    everything, tasks = shards(jobs, size, out), missing(jobs, size, out)
    parts = together(tasks, [route.bounds for route in worker.routes], launch.processes)
    started = launched()
    if not tasks and not started:
        return True
    if started and started.by == "torchrun":
        end_with(os.getppid())
    there = sum(len(task.indices) for task in everything) - sum(len(task.indices) for task in tasks)
    told = Told(parts, [route.label for route in worker.routes], progress, there)
    logger = make_logger(worker.spec.logger, out / "logs", "progress")
    with quiet_lightning():
        trainer, module = launch.trainer(len(parts), logger, [told]), _Shards(worker, parts)
        others, at_interrupt = multiprocessing.active_children(), signal.getsignal(signal.SIGINT)
        try:
            trainer.predict(module, return_predictions=False)
        except SystemExit:  # Lightning's way of ending on an interrupt, which it goes on to ignore
            for process in set(multiprocessing.active_children()) - set(others):
                process.kill()
            signal.signal(signal.SIGINT, at_interrupt)
            raise KeyboardInterrupt from None
        except Exception as error:
            _explain(error, module, trainer, everything)
            raise
    _await(tasks)
    return first


def compute_alone(worker: Worker, jobs: Sequence[Job], out: Path, progress: bool) -> None:
    """Compute every shard that is not on disk in this process, the first, on the device that it had."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    parts = together(missing(jobs, worker.spec.batch_size, out), [route.bounds for route in worker.routes], 1)
    if not parts:
        return
    with one_thread(device), Told(parts, [route.label for route in worker.routes], progress) as told:
        for number, part in enumerate(parts):
            told.begin(number)
            _make(worker, part, device)
            told.count()


def _make(worker: Worker, part: Sequence[Task], device: torch.device) -> None:
    """Make what is not on disk: the shards, and then those that are made of them as they were written.

    Raises:
        SnrouterError: when a route fails; what can be made of the others is on disk.
    """
    lacking = [task for task in part if not _intact(task.path)]
    try:
        made = worker.compute(lacking, device) if lacking else []
    except SnrouterError as error:
        if len(part) > 1:
            _make_each(worker, part, device)
            return
        if len(worker.routes) > 1 and not lacking[0].job.cells:
            raise type(error)(f"{worker.routes[lacking[0].job.route].label}: {error}") from error
        raise
    for task, rows in zip(lacking, made, strict=True):
        save_shard(task.path, rows)
    for task in part:
        later = [one for one in task.then if not one.done]
        rows = load_shard(task.path) if later else {}
        for one in later:
            save_shard(one.path, worker.extract(one, rows))


def _make_each(worker: Worker, part: Sequence[Task], device: torch.device) -> None:
    """Make the shards of a part that failed one by one, and raise the first error when all are through."""
    errors = []
    for task in part:
        try:
            _make(worker, [task], device)
        except SnrouterError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _intact(path: Path) -> bool:
    """Whether a shard is there and holds what was written."""
    if whole(path):
        with suppress(DamagedError):
            return bool(load_shard(path))
    return False


def _await(tasks: Sequence[Task]) -> None:
    """Wait until shards that other machines wrote are seen."""
    deadline = time.monotonic() + LATE
    while not all(task.done for task in tasks) and time.monotonic() < deadline:
        time.sleep(0.2)


def _explain(error: Exception, module: _Shards, trainer: Trainer, tasks: Sequence[Task]) -> None:
    """Raise what ended another process: an error that it has told, or its death; return where it was this one that failed."""
    if not module.errors.empty():
        name, message = module.errors.get()
        ours = getattr(snrouter.errors, name, None)
        said = f"{name}: {' '.join(message.split())} (in a process that computes shards)"
        raise (ours(message) if ours else SnrouterError(said)) from error
    death = _death(error, trainer)
    if death:
        paths = [path for task in tasks for path in task.paths]
        kept = f"{sum(path.exists() for path in paths)} of {len(paths)} shards are on disk, run the same command again to go on"
        raise SnrouterError(f"{death}; {kept}") from error


def _death(error: Exception, trainer: Trainer) -> str | None:
    """Which other process died, where that is known, and of what; None where none did."""
    if isinstance(error, ProcessExitedException):
        return f"process {error.error_index} of {trainer.world_size} was ended by {error.signal_name or f'code {error.exit_code}'}"
    for rank, process in enumerate(getattr(trainer.strategy.launcher, "procs", ())):
        code = getattr(process, "exitcode", None) or 0
        if code < 0 and -code != signal.SIGTERM:  # with which the others are ended
            return f"process {rank} of {trainer.world_size} was ended by {signal.Signals(-code).name}"
    last = " ".join(str(error).strip().splitlines()[-1:])
    if isinstance(error, ProcessRaisedException):
        return f"process {error.error_index} of {trainer.world_size} failed ({last})"
    vanished = isinstance(error, distributed.DistError) or "gloo" in str(error)
    return "another process ended before its work was done" if vanished else None
