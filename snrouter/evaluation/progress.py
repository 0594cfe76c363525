"""Progress over the shards of every process: a bar on the terminal of the first, and numbers for a logger."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from snrouter.evaluation.shards import Task

OFTEN = 1.0
"""Seconds between two counts: each lists the folders of all shards."""


class Told(Callback):
    """Tells how many images are done, counted by the shards on disk, whoever wrote them.

    Args:
        parts: all that is to be done, by what is made together.
        labels: of the routes.
        bar: also on standard error, where that is a terminal.
        before: images that were done before.
    """

    def __init__(self, parts: Sequence[Sequence[Task]], labels: Sequence[str], bar: bool, before: int = 0) -> None:
        self.parts = parts
        self.labels = labels
        self.bar = bar
        self.before = before
        self._progress: Progress | None = None

    def __enter__(self) -> Told:
        self._started = self._counted = time.monotonic()
        tasks = [task for part in self.parts for task in part]
        self._folders = {path.parent for task in tasks for path in task.paths}
        self._shards = [(len(task.indices), [*map(str, task.paths)]) for task in tasks]
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
        shown = self.bar and console.is_terminal
        words = TextColumn("{task.description:28}")
        self._progress = Progress(words, *columns, console=console, transient=True, disable=not shown)
        self._progress.start()
        total = self.before + sum(len(task.indices) for task in tasks)
        self._task = self._progress.add_task("starting", total=total, completed=self.before, rate="images")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def begin(self, number: int) -> None:
        """Work on the part of that number begins."""
        if self._progress is not None:
            part = self.parts[number]
            made = [one for task in part for one in (task, *task.then) if not one.path.exists()]
            who = self.labels[part[0].job.route] if len(part) == 1 else f"{len(part)} routes"
            who = "all experts" if part[0].job.cells else who
            what = ", ".join(dict.fromkeys(one.job.what for one in made))
            self._progress.update(self._task, description=f"{who}: {what}")

    def count(self) -> dict[str, float]:
        """Images on disk, and images a second since the start."""
        self._counted = time.monotonic()
        there = {file.path for folder in self._folders if folder.exists() for file in os.scandir(folder)}
        images = sum(count for count, paths in self._shards if there.issuperset(paths))
        rate = images / (self._counted - self._started)
        if self._progress is not None:
            self._progress.update(self._task, completed=self.before + images, rate=f"images, {rate:.3g}/s")
        return {"images": self.before + images, "images_per_second": rate}

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin, in the first process."""
        if trainer.is_global_zero:
            self.__enter__()

    def on_predict_batch_start(self, trainer: Trainer, module: LightningModule, batch: int | None, *_: object) -> None:
        """Name what this process begins."""
        if batch is not None:
            self.begin(batch)

    def on_predict_batch_end(self, trainer: Trainer, module: LightningModule, outputs: object, *_: object) -> None:
        """Count what is there, now and then."""
        if self._progress is not None and time.monotonic() > self._counted + OFTEN:
            self._tell(trainer)

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Count for the last time, and take the bar away."""
        if self._progress is not None:
            self._tell(trainer)
        self.__exit__()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self.__exit__()

    def _tell(self, trainer: Trainer) -> None:
        counted = self.count()
        if trainer.logger is not None:
            trainer.logger.log_metrics(counted, step=int(counted["images"]))
