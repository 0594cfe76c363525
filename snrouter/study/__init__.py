"""Study: models x seeds, each trained where it needs to be, evaluated and set beside the others.

A cell is one model with one seed: the spec with the model's changes, and the experts and route that were trained or tuned for it.
What is trained is done once, whichever cells ask for it. Everything done leaves a receipt under a fingerprint of what it depends
on, so that a study that was interrupted goes on where it was, and a cell that fails takes no other with it. Processes take
trainings and cells in turn, with one thread each on a CPU, or an accelerator each; metrics of the route itself (times, memory) are
measured at the end, one cell after the other and alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from snrouter.errors import SpecError
from snrouter.evaluation import Launch, Worker, own_route, plain, plan
from snrouter.files import check_writable, write
from snrouter.launched import launched
from snrouter.spec import Document
from snrouter.study.cells import Cell, cells_of
from snrouter.study.hands import Hands
from snrouter.study.progress import Told
from snrouter.study.table import FILE, tabulate
from snrouter.study.tasks import Evaluate, Task

__all__ = ["FILE", "study"]

FOLDERS = ("trained", "shared", "cells")
"""What a study makes beside its table."""


def study(
    document: Document,
    out: Path,
    *,
    launch: Launch | None = None,
    limit: int | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, tune and evaluate every model of the spec's `study` with every seed, and tabulate them.

    Args:
        document: the spec.
        out: folder for trainings, cells and the table; what is done there is used.
        launch: how many processes take trainings and cells; `Launch()`, one, when left out.
        limit: use at most this many images and samples for each number, and stamp the results partial; trainings are not cut short.
        fresh: remove what an earlier study left in the folder, and start over.
        progress: show a progress bar on standard error.

    Returns:
        The content of study.json. Of a cell that failed it tells the error; the others are whole.

    Raises:
        SpecError: when the spec is wrong or has no study, before anything is trained.
        OutputError: when the folder cannot be written.
    """
    launch = launch or Launch()
    if launched() is not None or launch.nodes > 1:
        raise SpecError("study starts its own processes; run it without torchrun or srun, on one machine")
    if limit is not None and limit < 1:
        raise SpecError(f"--limit: expected at least 1, got {limit}")
    cells = cells_of(document, out, limit)
    check_writable(out)
    plan(Worker([own_route(document)]), limit)  # what is wrong with a metric is told now, and not after the trainings
    if fresh and (out / FILE).exists():
        for name in FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)

    def tell() -> dict[str, Any]:
        content: dict[str, Any] = plain(tabulate(document, cells, out, partial=limit is not None))
        write(out / FILE, json.dumps(content, indent=2).encode())
        return content

    tell()
    work = sum(len(cell.to_do) + 1 + cell.has_route_metrics for cell in cells)
    with Told(work, progress) as told:
        with Hands(launch.processes) as hands:
            while True:
                asked = [(cell, cell.next_training()) for cell in cells if cell.to_do and cell.error is None]
                if not asked:
                    break
                _carry_out(asked, hands.carry_out, told)
                for cell, _ in asked:
                    cell.advance()
                tell()
            _carry_out([(cell, cell.evaluation()) for cell in cells if cell.error is None], hands.carry_out, told)
        tell()
        with Hands(1, fresh=True) as alone:  # a time is true where nothing else runs
            later = [(cell, cell.evaluation(alone=True)) for cell in cells if cell.error is None and cell.has_route_metrics]
            _carry_out(later, alone.carry_out, told)
    return tell()


def _carry_out(
    asked: Sequence[tuple[Cell, Task]], carry_out: Callable[[Sequence[Task], Told], dict[Path, str]], told: Told
) -> None:
    """Do what is not done, each task once; what failed is told to every cell that asked for it."""
    tasks = {task.receipt: task for _, task in asked}
    told.found(len(asked) - sum(task.made() is None for task in tasks.values()))
    errors = carry_out([task for task in tasks.values() if task.made() is None], told)
    for cell, task in asked:
        error = errors.get(task.receipt)
        if error is not None:
            cell.error = error if isinstance(task, Evaluate) else f"{task.folder.name}: {error}"
