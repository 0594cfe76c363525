"""Evaluation: a spec's metrics, computed in shards on any number of devices by Lightning, and written as results.

A run is a list of jobs (draw samples, measure a metric on data, ...), each cut into shards of `batch_size` consecutive indices, the
same for any number of processes. A shard is written atomically under its job's fingerprint and is not computed again. Draws are
keyed by (seed, index), so results are the same bit for bit on one process or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from snrouter.errors import SpecError
from snrouter.evaluation.jobs import make_job, plan
from snrouter.evaluation.logs import log_results
from snrouter.evaluation.results import Results, plain, results_of, write_results
from snrouter.evaluation.routes import Route, own_route, sweep_routes
from snrouter.evaluation.shards import collect, save_shard
from snrouter.evaluation.tuning import tune
from snrouter.evaluation.work import Site, ready
from snrouter.evaluation.worker import Worker
from snrouter.launch import Launch
from snrouter.spec import Document

__all__ = ["Launch", "Results", "Worker", "draw", "own_route", "plain", "plan", "run", "sweep", "sweep_routes", "tune"]


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
    return _evaluate(document, [own_route(document)], Site(out, launch or Launch(), fresh, progress), limit, trace)


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
    return _evaluate(document, sweep_routes(document), Site(out, launch or Launch(), fresh, progress), limit, trace)


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
    site, worker = Site(out, launch or Launch(), fresh, progress), ready([own_route(document)])
    job = make_job(worker, 0, "samples", None, n)
    if not site.carry_out(worker, [job]):
        return None
    images = site.read(worker, [job], lambda: collect(job, document.spec.batch_size, out))["images"]
    save_shard(out / "samples.safetensors", {worker.routes[0].label: images})
    return images


def _evaluate(document: Document, routes: Sequence[Route], site: Site, limit: int | None, trace: bool) -> Results | None:
    if not document.spec.evaluate:
        raise SpecError("nothing to evaluate; add e.g. evaluate: [{metric: bpd, estimator: vlb}]")
    if limit is not None and limit < 1:
        raise SpecError(f"--limit: expected at least 1, got {limit}")
    worker = ready(routes)
    jobs = plan(worker, limit, trace)
    if not site.carry_out(worker, jobs):
        return None
    results = site.read(worker, jobs, lambda: results_of(worker, jobs, site.out, partial=limit is not None))
    write_results(results)
    log_results(results)
    return results
