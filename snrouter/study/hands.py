"""Hands: processes that take tasks in turn. One that dies fails its task, and another takes its place."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from snrouter.errors import SnrouterError
from snrouter.evaluation.processes import end_with
from snrouter.quiet import silence_lightning
from snrouter.study.progress import Told
from snrouter.study.tasks import Task


@dataclass
class _Hand:
    """One process, and the task that it has."""

    number: int
    process: BaseProcess
    pipe: Connection
    task: Task | None = None


class Hands:
    """Carries tasks out: in so many processes, or in this one where that is one.

    Args:
        count: how many.
        fresh: a new process for each task, so that what it finds of its memory is its own.
    """

    def __init__(self, count: int, fresh: bool = False) -> None:
        self.count = count
        self.fresh = fresh
        self._hands: list[_Hand] = []

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        for hand in self._hands:
            if error is not None:
                hand.process.kill()  # what is on disk is whole, or goes on from its last checkpoint
            hand.pipe.close()  # with nothing more to do a process ends
        for hand in self._hands:
            hand.process.join()
        self._hands = []

    def carry_out(self, tasks: Sequence[Task], told: Told) -> dict[Path, str]:
        """Do them all; the errors of those that failed, by their receipts."""
        if self.count == 1 and not self.fresh:
            return {task.receipt: error for task in tasks if (error := told.during(task, _tried)) is not None}
        while len(self._hands) < min(self.count, len(tasks)):
            self._hands.append(_started(len(self._hands)))
        waiting, errors = list(tasks), dict[Path, str]()
        while True:
            for hand in self._hands:
                if hand.task is None and waiting:
                    hand.task = waiting.pop(0)
                    told.begin(hand.task)
                    with suppress(OSError):  # it is gone, which is seen below
                        hand.pipe.send(hand.task)
            busy = {hand.pipe: hand for hand in self._hands if hand.task is not None}
            if not busy:
                return errors
            for pipe in wait(list(busy)):
                hand = busy[pipe]  # type: ignore[index] # those that were given
                assert hand.task is not None
                error = self._answer(hand)
                if error is not None:
                    errors[hand.task.receipt] = error
                told.end(hand.task)
                hand.task = None
                if self.fresh and waiting:
                    self._replace(hand)

    def _answer(self, hand: _Hand) -> str | None:
        """What a process says of its task, or of what it died; then another is in its place."""
        try:
            answer: str | None = hand.pipe.recv()
        except (EOFError, OSError):
            hand.process.join()
            code = hand.process.exitcode or 0
            self._replace(hand)
            return f"its process was ended by {signal.Signals(-code).name if code < 0 else f'code {code}'}; run the command again"
        return answer

    def _replace(self, hand: _Hand) -> None:
        """Another process in the place of one that is gone, or is to go."""
        hand.pipe.close()
        hand.process.join()
        fresh = _started(hand.number)
        hand.process, hand.pipe = fresh.process, fresh.pipe


def _started(number: int) -> _Hand:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
    with _environment(_own_device(number)):
        process.start()
    theirs.close()
    return _Hand(number, process, ours)


def _own_device(number: int) -> dict[str, str]:
    """Variables that give a process one thread, or one of the accelerators that are here."""
    if not torch.cuda.is_available():
        return {"OMP_NUM_THREADS": "1"}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": visible[number] if visible[0] else str(number)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _serve(pipe: Connection, parent: int) -> None:
    """What a process does: tasks, until there are no more."""
    silence_lightning()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    end_with(parent)
    with suppress(EOFError):
        while True:
            task: Task = pipe.recv()
            pipe.send(_tried(task))


def _tried(task: Task) -> str | None:
    """Carry a task out; its error in a line, or None."""
    try:
        task.carry_out()
    except SnrouterError as error:
        return " ".join(str(error).split())
    except Exception as error:  # one cell must not end the others
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None
