"""Profiles: the errors of all experts that may run, asked in shards; a pilot on few images first finds where errors are noisy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from snrouter.errors import SpecError
from snrouter.evaluation.jobs import make_job
from snrouter.evaluation.routes import Route
from snrouter.evaluation.shards import Cells, Job, collect, fingerprint
from snrouter.evaluation.tuning.possible import check_possible, own_bounds, widest
from snrouter.evaluation.work import Site
from snrouter.evaluation.worker import Worker
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.search.cells import budget, cells, marks
from snrouter.search.profile import Profile
from snrouter.spec import Document
from snrouter.spec.models import Tune

FEWEST = 4
"""Images without which there are no two halves to choose and to score on."""


class Measured(NamedTuple):
    """A profile and how it was made.

    Attributes:
        profile: of the first images of the data.
        experts: by name.
        networks: names of those that call a network.
        levels: of the images; None for continuous data.
        pilot: network calls of the pilot.
        key: fingerprint of all that the profile depends on.
    """

    profile: Profile
    experts: Mapping[str, Expert]
    networks: tuple[str, ...]
    levels: int | None
    pilot: int
    key: str


def measure(document: Document, tune: Tune, limit: int | None, site: Site) -> Measured:
    """Profile the experts that may run, over all that the interval may be.

    Args:
        document: the spec.
        tune: its `tune`, resolved.
        limit: at most this many images.
        site: where and how to compute.

    Raises:
        SpecError: when there are no images, or too few.
        SupportError: when no route that `tune` allows is within the experts' supports.
    """
    worker, experts, levels, count = prepared(document, tune, limit)
    interval = widest(tune)
    few, times = budget(count, tune.times, document.spec.batch_size)  # one shard, for which no process is started
    pilot = None
    if few:
        pilot = _made(worker, Cells(tuple(cells(interval, tune.times).tolist()), levels, repeat=1), few, "pilot", site)
    edges = cells(interval, times, pilot, marks(experts, tune.gamma_min, tune.gamma_max))
    lowest = {
        own_bounds(expert, GammaInterval(end, interval.gamma_max)).gamma_min
        for expert in experts.values()
        for end in tune.gamma_min
    }
    asked = Cells(tuple(edges.tolist()), levels, tuple(sorted(lowest)))
    profile = _made(worker, asked, count, "profile", site)
    spent = 0 if pilot is None else round(float(pilot.spent.sum()))
    return Measured(
        profile,
        experts,
        tuple(name for name, calls in profile.calls.items() if bool(calls.any())),
        levels,
        spent,
        _job(worker, asked, count, "profile").key,
    )


class Prepared(NamedTuple):
    """What is profiled.

    Attributes:
        worker: with a route of each expert alone.
        experts: by name.
        levels: of the images; None for continuous data.
        images: how many.
    """

    worker: Worker
    experts: Mapping[str, Expert]
    levels: int | None
    images: int


def prepared(document: Document, tune: Tune, limit: int | None = None) -> Prepared:
    """Load data and experts, and refuse what cannot be tuned; see `measure`."""
    worker = Worker([_alone(document, name) for name in tune.experts or ()])
    count = _count(document, worker, tune, limit)
    experts: dict[str, Expert] = {route.label: worker.expert(route) for route in worker.routes}
    levels, times = _levels(document, worker), budget(count, tune.times, document.spec.batch_size)[1]
    document.at(("tune",), partial(check_possible, experts, tune, times, levels))
    return Prepared(worker, experts, levels, count)


def _alone(document: Document, name: str) -> Route:
    return Route(name, document.with_parts(route={"type": "single", "expert": name}, evaluate=[]), document.bounds, {})


def _count(document: Document, worker: Worker, tune: Tune, limit: int | None) -> int:
    """How many images are profiled."""
    if worker.data is None:
        raise SpecError("tune needs images; add data, e.g. data: {type: digits, split: test}")
    available = len(worker.data)
    if available < FEWEST:
        raise SpecError(f"tune needs {FEWEST} images or more, two to choose on and two to score on; the data have {available}")
    if tune.images is not None and tune.images > available:
        document.at(("tune", "images"), partial(_refuse, f"expected at most {available}, the size of the data; got {tune.images}"))
    return min(tune.images or available, limit or available)


def _refuse(message: str) -> None:
    raise SpecError(message)


def _levels(document: Document, worker: Worker) -> int | None:
    """None where the data have no levels, or the spec's bits/dim are those of a density."""
    density = any(isinstance(metric, BitsPerDim) and metric.dequantization == "none" for metric in document.metrics())
    return None if density or worker.data is None else worker.data.levels


def _job(worker: Worker, asked: Cells, count: int, what: str) -> Job:
    """On all the worker's experts; it depends on what a measure of each depends on, and on what is asked."""
    each = [make_job(worker, number, "measure", None, count).key for number in range(len(worker.routes))]
    return Job("profile", 0, None, count, fingerprint({"experts": each, "cells": asked}), what, cells=asked)


def _made(worker: Worker, asked: Cells, count: int, what: str, site: Site) -> Profile:
    job = _job(worker, asked, count, what)
    site.carry_out(worker, [job])
    rows = site.read(worker, [job], partial(collect, job, worker.spec.batch_size, site.out))
    assert worker.data is not None
    dimensions = worker.data.images([0], worker.dtype)[0].numel()
    edges = torch.tensor(asked.edges, dtype=torch.float64)
    found, names = Profile.from_rows(rows, edges, dimensions), [route.label for route in worker.routes]
    errors, calls = ({name: told[name] for name in names} for told in (found.errors, found.calls))  # files keep no order
    return replace(found, errors=errors, calls=calls)
