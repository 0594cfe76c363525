"""Evaluation: a spec's metrics, computed in shards on any number of devices by Lightning, and written as results.

A run is a list of jobs (draw samples, measure a metric on data, ...), each cut into shards of `batch_size` consecutive indices, the
same for any number of processes. A shard is written atomically under its job's fingerprint and is not computed again. Draws are
keyed by (seed, index), so results are the same bit for bit on one process or several.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from snrouter.errors import DamagedError, SpecError
from snrouter.evaluation.jobs import make_job, plan
from snrouter.evaluation.launch import Launch
from snrouter.evaluation.logs import log_results
from snrouter.evaluation.processes import compute, compute_alone
from snrouter.evaluation.results import Results, plain, results_of, write_results
from snrouter.evaluation.routes import Route, own_route, sweep_routes
from snrouter.evaluation.shards import Job, collect, forget, remove_damaged, save_shard
from snrouter.evaluation.worker import Worker
from snrouter.files import check_writable
from snrouter.launched import is_first
from snrouter.solvers.base import smooth_pieces
from snrouter.spec import Document

T = TypeVar("T")

__all__ = ["Launch", "Results", "Worker", "draw", "own_route", "plain", "plan", "run", "sweep", "sweep_routes"]


def run(
    document: Document,
    out: Path,
    *,
    launch: Launch | None = None,
    limit: int | None = None,
    fresh: bool = False,
    trace: bool = False,
    progress: bool = True,
) -> Results | None:
    """Evaluate the spec's route with every metric of `evaluate`.

    Args:
        document: the spec.
        out: folder for results, samples and shards; shards already there are used.
        launch: how many processes compute; `Launch()`, one, when left out.
        limit: use at most this many images and samples, and stamp the results partial.
        fresh: remove this run's own shards and start over.
        trace: also keep what the route takes the image to be on the way of a few samples.
        progress: show a progress bar on standard error.

    Returns:
        The results; None in every process but the first, where a launcher started several.

    Raises:
        SpecError: when the spec is wrong or asks for nothing.
        OutputError: when the folder cannot be written.
        SnrouterError: when an expert or solver fails; shards already written stay.
    """
    return _evaluate(document, [own_route(document)], out, launch or Launch(), limit, fresh, trace, progress)


def sweep(
    document: Document,
    out: Path,
    *,
    launch: Launch | None = None,
    limit: int | None = None,
    fresh: bool = False,
    trace: bool = False,
    progress: bool = True,
) -> Results | None:
    """Evaluate the spec's threshold route at every switch of `sweep`, and each of its experts alone on its own support.

    All routes see the same images, times and noise, so that their differences are paired. Arguments and errors as `run`.
    """
    return _evaluate(document, sweep_routes(document), out, launch or Launch(), limit, fresh, trace, progress)


def draw(
    document: Document,
    n: int,
    out: Path,
    *,
    launch: Launch | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Tensor | None:
    """Draw n images [n, C, H, W] with the spec's route into samples.safetensors; arguments and errors as `run`."""
    if n < 1:
        raise SpecError(f"-n: expected at least 1 sample, got {n}")
    worker = _worker([own_route(document)])
    job = make_job(worker, 0, "samples", None, n)
    if not _compute(worker, [job], out, launch or Launch(), fresh, progress):
        return None
    images = _mended(lambda: collect(job, document.spec.batch_size, out), worker, [job], out, progress)["images"]
    save_shard(out / "samples.safetensors", {worker.routes[0].label: images})
    return images


def _evaluate(
    document: Document,
    routes: Sequence[Route],
    out: Path,
    launch: Launch,
    limit: int | None,
    fresh: bool,
    trace: bool,
    progress: bool,
) -> Results | None:
    if not document.spec.evaluate:
        raise SpecError("nothing to evaluate; add e.g. evaluate: [{metric: bpd, estimator: vlb}]")
    if limit is not None and limit < 1:
        raise SpecError(f"--limit: expected at least 1, got {limit}")
    worker = _worker(routes)
    jobs = plan(worker, limit, trace)
    if not _compute(worker, jobs, out, launch, fresh, progress):
        return None
    results = _mended(lambda: results_of(worker, jobs, out, partial=limit is not None), worker, jobs, out, progress)
    write_results(results)
    log_results(results)
    return results


def _worker(routes: Sequence[Route]) -> Worker:
    """A worker for these routes; refuses an impossible one before anything is computed."""
    worker = Worker(routes)
    for route in routes:
        smooth_pieces(worker.expert(route), route.bounds, "sample")
    return worker


def _compute(worker: Worker, jobs: Sequence[Job], out: Path, launch: Launch, fresh: bool, progress: bool) -> bool:
    """Compute the jobs, those on the route itself when all else is done; whether this process is the first."""
    document = worker.routes[0].document
    if (out / "spec.yaml").resolve() in document.files():
        raise SpecError(f"--out {out}: the resolved spec would replace {out / 'spec.yaml'}, which was read; choose another folder")
    if is_first():
        check_writable(out)
        if fresh:
            forget(jobs, out)
    first = compute(worker, [job for job in jobs if job.kind != "route"], out, launch, progress)
    if first:
        compute_alone(worker, [job for job in jobs if job.kind == "route"], out, progress)
    return first


def _mended(read: Callable[[], T], worker: Worker, jobs: Sequence[Job], out: Path, progress: bool) -> T:
    """Read shards that are all made; where some are damaged by then, this process makes these again."""
    try:
        return read()
    except DamagedError:
        removed = remove_damaged(jobs, worker.spec.batch_size, out)
        warnings.warn(f"damaged shards, which are made again: {', '.join(map(str, removed))}", stacklevel=2)
        compute_alone(worker, jobs, out, progress)
        return read()
