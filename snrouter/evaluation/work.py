"""Work: routes made ready, jobs carried out on all processes, and what they made read, damaged shards being made again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from snrouter.errors import DamagedError, SpecError
from snrouter.evaluation.processes import compute, compute_alone
from snrouter.evaluation.routes import Route
from snrouter.evaluation.shards import Job, forget, remove_damaged
from snrouter.evaluation.worker import Worker
from snrouter.files import check_writable
from snrouter.launch import Launch
from snrouter.launched import is_first, launched
from snrouter.solvers.base import smooth_pieces

T = TypeVar("T")


def ready(routes: Sequence[Route]) -> Worker:
    """A worker for these routes; refuses an impossible one before anything is computed."""
    worker = Worker(routes)
    for route in routes:
        smooth_pieces(worker.expert(route), route.bounds, "sample")
    return worker


class Site(NamedTuple):
    """Where and how jobs are carried out.

    Attributes:
        out: the run's folder.
        launch: how many processes compute.
        fresh: remove the jobs' own shards first.
        progress: show a progress bar on standard error.
    """

    out: Path
    launch: Launch
    fresh: bool = False
    progress: bool = True

    def alone(self) -> Site:
        """With this process alone, unless a launcher started several."""
        return self if launched() else self._replace(launch=Launch())

    def carry_out(self, worker: Worker, jobs: Sequence[Job]) -> bool:
        """Compute the jobs, those on the route itself when all else is done; whether this process is the first."""
        document, spec = worker.routes[0].document, self.out / "spec.yaml"
        if spec.resolve() in document.files():
            raise SpecError(f"--out {self.out}: the resolved spec would replace {spec}, which was read; choose another folder")
        if is_first():
            check_writable(self.out)
            if self.fresh:
                forget(jobs, self.out)
        first = compute(worker, [job for job in jobs if job.kind != "route"], self.out, self.launch, self.progress)
        if first:
            compute_alone(worker, [job for job in jobs if job.kind == "route"], self.out, self.progress)
        return first

    def read(self, worker: Worker, jobs: Sequence[Job], read: Callable[[], T]) -> T:
        """Read shards that are all made; where some are damaged by then, this process makes these again."""
        try:
            return read()
        except DamagedError:
            removed = remove_damaged(jobs, worker.spec.batch_size, self.out)
            warnings.warn(f"damaged shards, which are made again: {', '.join(map(str, removed))}", stacklevel=2)
            compute_alone(worker, jobs, self.out, self.progress)
            return read()
