"""Evaluation: a spec's metrics, computed in shards on any number of devices by Lightning, and written as results.

A run is a list of jobs (draw samples, or measure a metric on data), each cut into shards of `batch_size` consecutive indices, the
same for any number of processes. A shard is written atomically under its job's fingerprint and is not computed again. Draws are
keyed by (seed, index), so results are the same bit for bit on one process or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from snrouter.errors import SpecError
from snrouter.evaluation.processes import compute
from snrouter.evaluation.results import Results, compare, plain, summarise, write_results
from snrouter.evaluation.routes import Route, own_route, sweep_routes
from snrouter.evaluation.shards import collect, save_shard
from snrouter.evaluation.worker import Worker
from snrouter.files import check_writable
from snrouter.solvers.base import smooth_pieces
from snrouter.spec import Document

__all__ = ["Results", "Worker", "draw", "own_route", "plain", "run", "sweep", "sweep_routes"]


def run(document: Document, out: Path, *, devices: int | str = 1, limit: int | None = None, progress: bool = True) -> Results:
    """Evaluate the spec's route with every metric of `evaluate`.

    Args:
        document: the spec.
        out: folder for results, samples and shards; shards already there are used.
        devices: number of processes or accelerators, or "auto": one a core on a CPU, as many as there are shards.
        limit: use at most this many images and samples, and stamp the results partial.
        progress: show a progress bar on standard error.

    Raises:
        SpecError: when the spec is wrong or asks for nothing.
        OutputError: when the folder cannot be written.
        SnrouterError: when an expert or solver fails; shards already written stay.
    """
    return _evaluate(document, [own_route(document)], out, devices, limit, progress)


def sweep(document: Document, out: Path, *, devices: int | str = 1, limit: int | None = None, progress: bool = True) -> Results:
    """Evaluate the spec's threshold route at every switch of `sweep`, and each of its experts alone on its own support.

    All routes see the same images, times and noise, so that their differences are paired. Arguments and errors as `run`.
    """
    return _evaluate(document, sweep_routes(document), out, devices, limit, progress)


def draw(document: Document, n: int, out: Path, *, devices: int | str = 1, progress: bool = True) -> Tensor:
    """Draw n images [n, C, H, W] with the spec's route into samples.safetensors; arguments and errors as `run`."""
    if n < 1:
        raise SpecError(f"n: expected at least 1 sample, got {n}")
    route = own_route(document)
    worker = Worker([route])
    smooth_pieces(worker.expert(route), route.bounds, "sample")
    job = worker.job("samples", 0, None, n)
    _prepare(document, out)
    compute(worker, [job], out, devices, progress)
    images = collect(job, document.spec.batch_size, out)["images"]
    save_shard(out / "samples.safetensors", {route.label: images})
    return images


def _evaluate(
    document: Document, routes: Sequence[Route], out: Path, devices: int | str, limit: int | None, progress: bool
) -> Results:
    if not document.spec.evaluate:
        raise SpecError("nothing to evaluate; add e.g. evaluate: [{metric: bpd, estimator: vlb}]")
    if limit is not None and limit < 1:
        raise SpecError(f"limit: expected at least 1, got {limit}")
    worker = Worker(routes, limit)
    for route in routes:  # refuse an impossible route before anything is computed
        smooth_pieces(worker.expert(route), route.bounds, "sample")
    jobs = worker.jobs()
    _prepare(document, out)
    compute(worker, jobs, out, devices, progress)
    rows, influences, samples = summarise(worker, jobs, out)
    results = Results(rows, document, worker.fingerprint(jobs), limit is not None, samples=samples, folder=out)
    if len(routes) > 1:
        compare(results, influences)
    write_results(results)
    return results


def _prepare(document: Document, out: Path) -> None:
    """Make the folder, unless what is written there would replace a spec that was read from there."""
    if (out / "spec.yaml").resolve() in document.files():
        raise SpecError(f"--out {out}: the resolved spec would replace {out / 'spec.yaml'}, which was read; choose another folder")
    check_writable(out)
