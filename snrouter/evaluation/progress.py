"""Progress over the shards of every process: a bar on the terminal of the first, and numbers for a logger."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from snrouter.evaluation.shards import Task


class Told(Callback):
    """Tells how many images are done, counted by the shards on disk, whoever wrote them.

    Args:
        tasks: all of them.
        labels: of the routes.
        bar: also on standard error, where that is a terminal.
    """

    def __init__(self, tasks: Sequence[Task], labels: Sequence[str], bar: bool) -> None:
        self.tasks = tasks
        self.labels = labels
        self.bar = bar
        self._images = 0
        self._waiting = set(range(len(tasks)))
        self._progress: Progress | None = None

    def __enter__(self) -> Told:
        self._started = time.monotonic()
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
        shown = self.bar and console.is_terminal
        words = TextColumn("{task.description:28}")
        self._progress = Progress(words, *columns, console=console, transient=True, disable=not shown)
        self._progress.start()
        self._task = self._progress.add_task("starting", total=sum(len(task.indices) for task in self.tasks), rate="images")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def begin(self, number: int) -> None:
        """Work on the task of that number begins."""
        if self._progress is not None:
            task = self.tasks[number]
            self._progress.update(self._task, description=f"{self.labels[task.job.route]}: {task.job.what}")

    def count(self) -> dict[str, float]:
        """Images on disk, and images a second since the start."""
        there = {number for number in self._waiting if self.tasks[number].path.exists()}
        self._waiting -= there
        self._images += sum(len(self.tasks[number].indices) for number in there)
        rate = self._images / (time.monotonic() - self._started)
        if self._progress is not None:
            self._progress.update(self._task, completed=self._images, rate=f"images, {rate:.3g}/s")
        return {"images": self._images, "images_per_second": rate}

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin, in the first process."""
        if trainer.is_global_zero:
            self.__enter__()

    def on_predict_batch_start(self, trainer: Trainer, module: LightningModule, batch: int | None, *_: object) -> None:
        """Name the shard that this process begins."""
        if batch is not None:
            self.begin(batch)

    def on_predict_batch_end(self, trainer: Trainer, module: LightningModule, outputs: object, *_: object) -> None:
        """Count what is there."""
        if self._progress is not None:
            counted = self.count()
            if trainer.logger is not None:
                trainer.logger.log_metrics(counted, step=int(counted["images"]))

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the bar away."""
        self.__exit__()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self.__exit__()
