"""Jobs of a run: what its metrics need on every route, each made once, under a fingerprint of all that it depends on."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from snrouter.errors import SpecError
from snrouter.evaluation.shards import Job, Kind, environment_identity, fingerprint
from snrouter.evaluation.trace import POSITIONS, TRACED
from snrouter.evaluation.worker import Worker
from snrouter.metrics.base import Context, DataMetric, Metric, PairMetric, RouteMetric, SampleMetric
from snrouter.plugins import entry_points as plugins
from snrouter.solvers.reconstruct import check_encodes

Source = tuple[Kind, int | None]
"""What a metric is summarised from: the kind of a job, and the metric's position where the job is its own."""

_NAMES = ("data", "data_protocol", "data_statistics")
"""What a protocol says for people of images that it also gives the hash of."""


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
        asked = [
            route.document.at(("evaluate", i), partial(_count, worker, metric, context)) for i, metric in enumerate(worker.metrics)
        ]
        asked = [count if limit is None else min(count, limit) for count in asked]
        counts: dict[Source, int] = {}
        for i, metric in enumerate(worker.metrics):
            made = source(metric, i)
            counts[made] = max(counts.get(made, 0), asked[i])
        if trace:
            counts["trace", None] = TRACED if limit is None else min(TRACED, limit)
        for (kind, position), count in counts.items():
            job = make_job(worker, number, kind, position, count)
            jobs.append(replace(job, then=_features(worker, job, asked)) if kind == "samples" else job)
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
    policy, told = route.document.policy(), protocol(worker, number, kind)
    depends: dict[str, Any] = {
        "kind": kind,
        "experts": {name: worker.identities[name] for name in policy.experts},
        "route": [repr(policy), route.document.spec.route.name],
        "solver": repr(route.document.solver()),
        "protocol": {key: value for key, value in told.items() if key not in _NAMES},
    }
    if kind in ("samples", "trace", "route"):
        depends["shape"] = list(worker.shape)
    if kind == "trace":
        depends["positions"] = POSITIONS
    if kind == "route":
        depends["machine"] = platform.node()  # a time is true of one machine
        depends["data"] = worker.data.content_hash() if worker.data is not None else None
    if metric is not None:
        depends["metric"] = route.document.identity(plugins.metrics, spec.evaluate[metric], ("evaluate", metric))
        depends["reference"] = worker.reference.content_hash() if worker.reference is not None else None
    return Job(kind, number, metric, count, fingerprint(depends), kind if metric is None else _named(worker, metric))


def _named(worker: Worker, metric: int) -> str:
    """A metric's name, with its estimator where it has several."""
    name, estimator = worker.spec.evaluate[metric].name, getattr(worker.metrics[metric], "estimator", None)
    return f"{name}/{estimator}" if estimator else name


def protocol(worker: Worker, number: int, kind: Kind) -> dict[str, Any]:
    """How what that kind of job makes on the route of that number is made; it enters the job's fingerprint, and rows tell it."""
    route, spec = worker.routes[number], worker.spec
    weights = {name: worker.weights[name] for name in route.document.policy().experts if worker.weights[name]}
    told: dict[str, Any] = {
        "condition": spec.condition,
        "gamma_min": route.bounds.gamma_min,
        "gamma_max": route.bounds.gamma_max,
        "weights_sha256": weights or None,
    }
    if kind != "measure":
        solver = route.document.solver()
        control = "fixed" if solver.grid(route.bounds) is not None else "one error norm a batch"
        levels = worker.levels if spec.final in ("decode", "sample") else None
        told |= {"solver": repr(solver), "step_control": control, "final": spec.final, "levels": levels}
    if worker.data is not None and (kind in ("measure", "reconstructions") or spec.condition == "labels"):
        told |= {
            "data": worker.data.name,
            "data_protocol": dict(worker.data.protocol) or None,
            "data_statistics": dict(worker.data.statistics),
            "data_sha256": worker.data.content_hash(),
        }
    if kind == "route":
        told["residency"] = spec.residency  # of no account but in time and memory
    told["packages"] = route.document.packages() or None
    return told | environment_identity(spec.seed, spec.batch_size, worker.precision(kind))


def run_fingerprint(worker: Worker, jobs: Sequence[Job]) -> str:
    """Fingerprint of everything that the results of these jobs depend on."""
    document, spec = worker.routes[0].document, worker.spec
    metrics = [document.identity(plugins.metrics, part, ("evaluate", i)) for i, part in enumerate(spec.evaluate)]
    reference = worker.reference.content_hash() if worker.reference else None
    made = [[part.key, part.count] for job in jobs if job.kind != "trace" for part in (job, *job.then)]
    slices = {name: hashlib.sha256(members.numpy().tobytes()).hexdigest() for name, members in worker.slices.items()}
    return fingerprint({"jobs": made, "metrics": metrics, "reference": reference} | ({"slices": slices} if slices else {}))


def _features(worker: Worker, samples: Job, asked: Sequence[int]) -> tuple[Job, ...]:
    """What networks find in samples, each once, in the shards that hold what the metric that wants most asks for."""
    jobs: dict[str, Job] = {}
    for i, metric in enumerate(worker.metrics):
        extracts = metric.extracts() if isinstance(metric, SampleMetric) else None
        if extracts is None or extracts[0].key is None:
            continue
        extractor, what = extracts
        key = fingerprint({"samples": samples.key, "extractor": extractor.key, "what": what})
        count = max(shard.stop for shard in samples.shards(worker.spec.batch_size) if shard.start < asked[i])
        if key not in jobs or jobs[key].count < count:
            jobs[key] = Job("features", samples.route, i, count, key, what)
    return tuple(jobs.values())


def _count(worker: Worker, metric: Metric, context: Context) -> int:
    """How many indices a metric asks for, when what it compares is there."""
    if isinstance(metric, PairMetric) and metric.pairs == "reconstruction":
        check_encodes(context.solver)
    elif isinstance(metric, PairMetric):
        labels = [route.label for route in worker.routes]
        if metric.against not in labels or len(labels) == 1:
            there = ", ".join(labels) + ("; use snrouter sweep, which compares routes" if len(labels) == 1 else "")
            raise SpecError(f"against: expected another route of this command, got {metric.against!r}; it has {there}")
    return metric.count(context)
