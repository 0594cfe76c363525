"""Rows: shards joined, and summarised by each metric into a row of results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from snrouter.evaluation.jobs import Source, protocol, source
from snrouter.evaluation.shards import Job, collect
from snrouter.evaluation.worker import Worker
from snrouter.metrics.base import Metric, PairMetric


class Row(NamedTuple):
    """One route by one metric: a row of results, the metric's position in `evaluate`, and what else its summary holds."""

    columns: dict[str, Any]
    metric: int
    influence: Tensor | None
    pictures: Mapping[str, Tensor]


_NOTHING: Mapping[tuple[int, Source], dict[str, Tensor]] = {}


class Made:
    """What the jobs of a run made.

    Args:
        worker: of the run.
        jobs: all done.
        out: the run's folder.
        known: what no job made, by route and source.
    """

    def __init__(
        self, worker: Worker, jobs: Sequence[Job], out: Path, known: Mapping[tuple[int, Source], dict[str, Tensor]] = _NOTHING
    ) -> None:
        self.worker = worker
        self.labels = [route.label for route in worker.routes]
        self.jobs = {(job.route, (job.kind, job.metric)): job for job in jobs}
        self.out = out
        self.known = known

    def rows(self, route: int, made: Source, first: int | None = None) -> dict[str, Tensor]:
        """Per-index tensors [n, ...] of one job, joined from its shards; of all indices, or at least the first ones."""
        if (route, made) in self.known:
            return self.known[route, made]
        return collect(self.jobs[route, made], self.worker.spec.batch_size, self.out, first)

    def features(self, route: int, made: Source) -> dict[str, Tensor]:
        """What networks found in the images of one job, float64 [n, ...], by the names under which `found` looks for it."""
        later = self.jobs[route, made].then if (route, made) in self.jobs else ()
        parts = (collect(job, self.worker.spec.batch_size, self.out) for job in later)
        return {name: values.double() for part in parts for name, values in part.items() if name != "indices"}

    def of_each_route(self, made: Source, first: int) -> dict[str, dict[str, Tensor]]:
        """The first rows of that kind of job, by the labels of the routes that have one."""
        return {
            label: {name: rows[:first].clone() for name, rows in self.rows(number, made, first).items()}
            for number, label in enumerate(self.labels)
            if (number, made) in self.jobs
        }


def summarise(made: Made) -> list[Row]:
    """A row for each route and metric, by route and then in the order of `evaluate`; no route is compared with itself."""
    rows = []
    for number, label in enumerate(made.labels):
        seen = _Seen(made, number)
        for i, metric in enumerate(made.worker.metrics):
            if not (isinstance(metric, PairMetric) and metric.against == label):
                rows.append(_row(made, number, i, seen.by(metric, source(metric, i))))
    return rows


class _Seen:
    """What the metrics of one route are summarised from: those that see the same images share a mapping, and what they find."""

    def __init__(self, made: Made, route: int) -> None:
        self.made = made
        self.route = route
        self.kept: dict[Hashable, dict[str, Tensor]] = {}

    def by(self, metric: Metric, made: Source) -> dict[str, Tensor]:
        """The rows that a metric sees, with the others of its pairs."""
        if isinstance(metric, PairMetric):
            return self._once((made, metric.against), lambda: self._rows(made) | {"others": self._others(metric, made)})
        return self._rows(made)

    def _rows(self, made: Source) -> dict[str, Tensor]:
        return self._once(made, lambda: self.made.rows(self.route, made) | self.made.features(self.route, made))

    def _others(self, metric: PairMetric, made: Source) -> Tensor:
        worker = self.made.worker
        if metric.pairs == "reconstruction":
            data = worker.context(worker.routes[self.route]).need("data")
            return data.images(range(len(self._rows(made)["images"])), worker.dtype)
        return self.made.rows(self.made.labels.index(str(metric.against)), made)["images"]

    def _once(self, key: Hashable, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


def _row(made: Made, number: int, position: int, measured: dict[str, Tensor]) -> Row:
    worker = made.worker
    route, metric = worker.routes[number], worker.metrics[position]
    kind, _ = source(metric, position)
    nfe = {name.removeprefix("nfe/"): float(v.mean()) for name, v in measured.items() if name.startswith("nfe/")}
    summary = metric.summarise(worker.context(route), measured)
    told = protocol(worker, number, kind) | dict(summary.protocol)
    columns = {
        "metric": worker.spec.evaluate[position].name,
        **({"title": metric.title} if metric.title else {}),
        **({"better": metric.direction} if metric.direction else {}),
        **summary.columns,
        "label": route.label,
        **route.columns,
        "value": summary.value,
        "standard_error": summary.standard_error,
        "n": summary.n or (len(summary.influence) if summary.influence is not None else len(measured["seconds"])),
        **({"nfe": sum(nfe.values()), "nfe_per_expert": nfe} if nfe else {}),
        **({"seconds": float(measured["seconds"].sum())} if "seconds" in measured else {}),
        **({"terms": summary.terms} if summary.terms else {}),
        "protocol": {key: value for key, value in told.items() if value is not None},
    }
    return Row(columns, position, summary.influence, summary.pictures)
