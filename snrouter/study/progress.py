"""Progress of a study: one bar over all trainings and cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from snrouter.study.tasks import Task

T = TypeVar("T")


class Told:
    """Tells how many tasks are done, and which are being done.

    Args:
        total: tasks.
        bar: on standard error, where that is a terminal.
    """

    def __init__(self, total: int, bar: bool) -> None:
        console = Console(stderr=True)
        words = (TextColumn("{task.description:50}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*words, console=console, transient=True, disable=not (bar and console.is_terminal))
        self._bar = self._progress.add_task("starting", total=total)
        self._now: list[str] = []

    def __enter__(self) -> Told:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def found(self, tasks: int) -> None:
        """So many need not be done."""
        self._progress.advance(self._bar, tasks)

    def begin(self, task: Task) -> None:
        """Work on a task begins."""
        self._now.append(task.what)
        self._show()

    def end(self, task: Task) -> None:
        """A task is done, or has failed."""
        self._now.remove(task.what)
        self._progress.advance(self._bar)
        self._show()

    def during(self, task: Task, work: Callable[[Task], T]) -> T:
        """Work on a task, told from beginning to end."""
        self.begin(task)
        try:
            return work(task)
        finally:
            self.end(task)

    def _show(self) -> None:
        self._progress.update(self._bar, description=", ".join(self._now))
