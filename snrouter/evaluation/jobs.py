"""Jobs of a run: what its metrics need on every route, each made once, under a fingerprint of all that it depends on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from typing import Any

from snrouter.errors import SpecError
from snrouter.evaluation.shards import Job, Kind, environment_identity, fingerprint
from snrouter.evaluation.trace import POSITIONS, TRACED
from snrouter.evaluation.worker import Worker
from snrouter.metrics.base import Context, DataMetric, Metric, PairMetric, RouteMetric
from snrouter.plugins import entry_points as plugins
from snrouter.solvers.reconstruct import check_encodes

Source = tuple[Kind, int | None]
"""What a metric is summarised from: the kind of a job, and the metric's position where the job is its own."""


def plan(worker: Worker, limit: int | None = None, trace: bool = False) -> list[Job]:
    """Every job of every route, each for as many indices as the metric that wants most.

    Args:
        worker: of the run.
        limit: at most this many indices a job.
        trace: also follow a few samples on their way.

    Raises:
        SpecError: when a metric cannot work.
    """
    jobs = []
    for number, route in enumerate(worker.routes):
        context = worker.context(route)
        counts: dict[Source, int] = {}
        for i, metric in enumerate(worker.metrics):
            count = route.document.at(("evaluate", i), partial(_count, worker, metric, context))
            made = source(metric, i)
            counts[made] = max(counts.get(made, 0), count)
        if trace:
            counts["trace", None] = TRACED
        for (kind, position), count in counts.items():
            jobs.append(make_job(worker, number, kind, position, count if limit is None else min(count, limit)))
    return jobs


def source(metric: Metric, position: int) -> Source:
    """What the metric at that position of `evaluate` is summarised from."""
    match metric:
        case DataMetric():
            return "measure", position
        case RouteMetric():
            return "route", position
        case PairMetric(pairs="reconstruction"):
            return "reconstructions", None
        case _:
            return "samples", None


def make_job(worker: Worker, number: int, kind: Kind, metric: int | None, count: int) -> Job:
    """A job on the route of that number, with its fingerprint."""
    route, spec = worker.routes[number], worker.spec
    document = route.document
    depends: dict[str, Any] = {
        "kind": kind,
        "experts": {
            name: document.identity(plugins.experts, spec.experts[name], ("experts", name)) for name in document.policy().experts
        },
        "route": [repr(document.policy()), document.spec.route.name],
        "bounds": list(route.bounds),
        "solver": repr(document.solver()),
        "condition": spec.condition,
        "packages": document.packages(),
        **environment_identity(spec.seed, spec.batch_size, worker.precision(kind)),
    }
    if kind != "measure":
        depends |= {"final": spec.final, "levels": worker.levels}
    if kind in ("samples", "trace", "route"):
        depends["shape"] = list(worker.shape)
    if kind == "trace":
        depends["positions"] = POSITIONS
    if kind == "route":
        depends |= {"machine": platform.node(), "residency": spec.residency}  # a time is true of one machine
    if metric is not None:
        depends["metric"] = document.identity(plugins.metrics, spec.evaluate[metric], ("evaluate", metric))
        depends["reference"] = worker.reference.content_hash() if worker.reference is not None else None
    if worker.data is not None and (kind in ("measure", "reconstructions", "route") or spec.condition == "labels"):
        depends["data"] = worker.data.content_hash()
    what = spec.evaluate[metric].name if metric is not None else kind
    return Job(kind, number, metric, count, fingerprint(depends), what)


def run_fingerprint(worker: Worker, jobs: Sequence[Job]) -> str:
    """Fingerprint of everything that the results of these jobs depend on."""
    document, spec = worker.routes[0].document, worker.spec
    metrics = [document.identity(plugins.metrics, part, ("evaluate", i)) for i, part in enumerate(spec.evaluate)]
    reference = worker.reference.content_hash() if worker.reference else None
    made = [[job.key, job.count] for job in jobs if job.kind != "trace"]
    return fingerprint({"jobs": made, "metrics": metrics, "reference": reference})


def _count(worker: Worker, metric: Metric, context: Context) -> int:
    """How many indices a metric asks for, when what it compares is there."""
    if isinstance(metric, PairMetric) and metric.pairs == "reconstruction":
        check_encodes(context.solver)
    elif isinstance(metric, PairMetric):
        labels = [route.label for route in worker.routes]
        if metric.against not in labels or len(labels) == 1:
            there = ", ".join(labels)
            raise SpecError(f"against: expected another route of this command, got {metric.against!r}; it has {there}")
    return metric.count(context)
