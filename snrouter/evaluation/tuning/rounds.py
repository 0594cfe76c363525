"""Rounds: samples along the candidates in growing number; a route that another beats in both numbers goes no further."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snrouter.evaluation.jobs import plan
from snrouter.evaluation.results import SHOWN, compare
from snrouter.evaluation.routes import Route
from snrouter.evaluation.rows import Made, Row, summarise
from snrouter.evaluation.shards import Job
from snrouter.evaluation.tuning.candidates import QUALITY, Beaten, Candidates, beaten, policy_of
from snrouter.evaluation.tuning.profiles import Measured
from snrouter.evaluation.work import Site
from snrouter.evaluation.worker import Worker
from snrouter.metrics.base import SampleMetric

ROUNDS = (0.25, 1.0)
"""How many of the samples that the metrics ask for each round has, in whole shards."""

SCORED = "those that the route was not chosen on"


class Round(NamedTuple):
    """So many samples of so many routes, and which were dropped then, by label."""

    samples: int
    routes: Sequence[str]
    dropped: Mapping[str, Beaten]


class Drawn(NamedTuple):
    """What the candidates gave.

    Attributes:
        rows: of results, by route; of those that were dropped the bound alone.
        rounds: in order; none where no metric of samples is asked for.
        worker: of the last round.
        jobs: of the last round, and of each route that was dropped those of its last.
        samples: the first ones of the last round by label.
        pictures: as in results.
    """

    rows: Sequence[Row]
    rounds: Sequence[Round]
    worker: Worker
    jobs: Sequence[Job]
    samples: Mapping[str, Tensor]
    pictures: Mapping[str, Tensor]

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Of all rows."""
        return [row.columns for row in self.rows]


def draw_rounds(found: Candidates, measured: Measured, scored_on: Tensor, limit: int | None, site: Site) -> Drawn:
    """Draw and compare the candidates; every route's bound comes from the profile.

    Args:
        found: routes to compare.
        measured: the profile of their experts.
        scored_on: rows of the profile that the bounds are means over.
        limit: at most this many samples.
        site: where and how to compute.
    """
    bounds = {route.label: _bound(route, measured, scored_on) for route in found.routes}
    routes = list(found.routes)
    rows, rounds, last = dict[str, list[Row]](), list[Round](), list[Job]()
    sizes = _sizes(Worker(routes), limit)
    for number, size in enumerate(sizes):
        worker = Worker(routes)
        jobs = [job for job in plan(worker, max(size, 1)) if job.kind == "samples"]
        here = site.alone() if size <= worker.spec.batch_size else site
        here._replace(fresh=site.fresh and number == 0).carry_out(worker, jobs)
        made = Made(worker, jobs, site.out, {(i, ("measure", 0)): bounds[route.label] for i, route in enumerate(routes)})
        told = site.read(worker, jobs, partial(summarise, made))
        ends = number + 1 == len(sizes)
        lost = {} if ends else beaten(told, found)
        last += [job for job in jobs if ends or routes[job.route].label in lost]
        rounds += [Round(size, [route.label for route in routes], lost)] if size else []
        rows |= {route.label: _kept(told, route.label, route.label in lost) for route in routes}
        routes = [route for route in routes if route.label not in lost]
    everything = [row for route in found.routes for row in rows[route.label]]
    compare(everything)
    pictures = {f"{i}/{title}": images for i, row in enumerate(everything) for title, images in row.pictures.items()}
    samples = {label: drawn["images"] for label, drawn in made.of_each_route(("samples", None), SHOWN).items()}
    return Drawn(everything, rounds, worker, last, samples, pictures)


def _kept(rows: Sequence[Row], label: str, lost: bool) -> list[Row]:
    """Of one route; where it was dropped, what does not depend on how many samples there were."""
    own = [row for row in rows if row.columns["label"] == label and not (lost and row.columns["metric"] != "bpd")]
    for row in own:
        if row.columns["metric"] == "bpd":
            row.columns["protocol"] |= {"time_sampling": "one in each cell of the profile", "images": SCORED}
    return own


def _bound(route: Route, measured: Measured, scored_on: Tensor) -> dict[str, Tensor]:
    """What a measure of the bound would give, from the profile."""
    estimate = measured.profile.subset(scored_on).vlb(policy_of(route), route.bounds)
    rows = {"values": estimate.values} | {f"term/{name}": term.values for name, term in estimate.terms.items()}
    return rows | {f"nfe/{name}": torch.full_like(estimate.values, calls) for name, calls in estimate.nfe_per_expert.items()}


def _sizes(worker: Worker, limit: int | None) -> list[int]:
    """Samples of each round: all at once where no route can be dropped, none where no metric asks for any."""
    context, step = worker.context(worker.routes[0]), worker.spec.batch_size
    asked = max((metric.count(context) for metric in worker.metrics if isinstance(metric, SampleMetric)), default=0)
    asked = asked if limit is None else min(asked, limit)
    decides = any(part.name == QUALITY for part in worker.spec.evaluate)
    return sorted({min(asked, step * math.ceil(asked * part / step)) for part in (ROUNDS if decides else ROUNDS[-1:])})
