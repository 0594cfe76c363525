"""`validate`: what is wrong with a spec, before time is spent."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column

from snrouter.data.base import ImageData
from snrouter.data.overlap import identical
from snrouter.doctor import Check
from snrouter.errors import SpecError
from snrouter.evaluation import Worker, own_route, plan, run, sweep, sweep_routes
from snrouter.evaluation.logs import numbers
from snrouter.evaluation.tuning.profiles import prepared
from snrouter.evaluation.worker import DTYPES
from snrouter.experts.base import Piece
from snrouter.experts.checkpoints import Loaded, card_path
from snrouter.metrics.base import PairMetric
from snrouter.plugins import entry_points as plugins
from snrouter.probe import IMAGES, Probe, probe
from snrouter.router.routed_expert import RoutedExpert
from snrouter.router.threshold import Threshold
from snrouter.solvers.base import smooth_pieces
from snrouter.spec import Document
from snrouter.spec.models import Tune

COUNTED = {"samples": "samples", "measure": "images", "reconstructions": "reconstructions", "route": "repetitions"}
"""What the indices of each kind of job are."""

TRIED = 4
"""Images and samples of a dry run."""

FEWEST = 8
"""Images without which an expert is not probed."""


def validate(document: Document, dry_run: bool = False) -> Iterator[Check]:
    """Check a spec level by level; the first fault ends it as an error.

    Args:
        document: the spec.
        dry_run: also evaluate every metric on one small batch.

    Raises:
        SnrouterError: naming the fault.
    """
    spec = document.spec
    document.check()
    yield Check("schema", True, f"{len(spec.experts)} experts, route {spec.route.name!r}, {len(spec.evaluate)} metrics")
    route = own_route(document)
    worker = Worker([route])
    for which, images in (("data", worker.data), ("reference", worker.reference)):
        if images is not None:
            yield Check(which, True, f"{images.name}: {len(images)} images of shape {list(images.shape)}, {images.levels} levels")
    if worker.data is not None and worker.reference is not None:
        yield _overlap(worker.data, worker.reference)
    expert = worker.expert(route)
    pieces = smooth_pieces(expert, document.bounds, "sample")
    yield Check("gamma coverage", True, f"{len(pieces)} pieces cover {document.bounds}")
    if spec.shape or worker.data or worker.reference:
        _ask_all(worker, pieces)
        yield Check("shapes", True, f"every expert maps {list(worker.shape)} to itself")
    routes = [route]
    if spec.sweep is not None and isinstance(document.policy(), Threshold):  # a route that extends a sweep need not be swept
        routes = sweep_routes(document)
        for swept in routes:
            smooth_pieces(worker.expert(swept), swept.bounds, "sample")
        yield Check("sweep", True, f"{len(routes)} routes: {', '.join(swept.label for swept in routes)}")
    if spec.tune != Tune():
        tune = document.tuning()
        yield Check("tune", True, f"it chooses among {', '.join(tune.experts or ())} on {prepared(document, tune).images} images")
    jobs = plan(Worker(routes))
    compares = any(isinstance(metric, PairMetric) and metric.against for metric in worker.metrics)
    if jobs:
        counts = ", ".join(dict.fromkeys(f"{job.count} {COUNTED[job.kind]}" for job in jobs))
        yield Check("metrics", True, f"they ask for {counts}{'; one compares routes: use snrouter sweep' if compares else ''}")
    if dry_run and spec.evaluate:
        with tempfile.TemporaryDirectory() as folder:
            results = (sweep if compares else run)(document, Path(folder), limit=TRIED, progress=False)
        rows = results.rows if results else []
        for label in dict.fromkeys(row["label"] for row in rows):
            told = _numbers(label, [row for row in rows if row["label"] == label])
            yield Check("dry run", True, f"{label}, on {TRIED}: {told}")


@torch.no_grad()
def _ask_all(worker: Worker, pieces: Sequence[Piece]) -> None:
    """Ask every piece, and every expert of a mixture, of which only some may run, for one image."""
    z, labels = torch.zeros(1, *worker.shape, dtype=worker.dtype), worker.data.labels if worker.data is not None else None
    condition = labels[:1] if labels is not None and worker.spec.condition == "labels" else None
    for piece in pieces:
        piece.expert(z, piece.hi, condition)
        if isinstance(piece.expert, RoutedExpert) and len(piece.expert.policy.experts) > 1:
            for name in piece.expert.policy.experts:
                piece.expert.expert(name)(z, piece.hi, condition)


def _numbers(label: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Of one route, e.g. `bpd 1.85, psnr/same_noise 31.2`."""
    values = {name.removeprefix(f"{label}/"): value for name, value in numbers(rows).items()}
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if not name.endswith("/standard_error"))


def _overlap(data: ImageData, reference: ImageData) -> Check:
    """Images that are measured and trained on: no fault of the spec, but what makes its numbers too good."""
    count = int(identical(data, reference).sum())
    where = f"{count} of {len(data)} images of data" if count else "no image of data"
    return Check("overlap", not count, f"{where} {'are' if count > 1 else 'is'} also in reference, pixel by pixel")


def probe_experts(
    document: Document,
    progress: bool = False,
    limit: int | None = None,
    done: Callable[[str, Probe], None] | None = None,
) -> Probe:
    """Measure every expert of a spec on 64 of its images, or of the reference; see `snrouter.probe`.

    Args:
        document: the spec.
        progress: show a progress bar on standard error.
        limit: use at most this many images.
        done: told of each expert that is done, with what was found by then.

    Raises:
        SpecError: when there are fewer than 8 images, or no labels where the spec says `condition: labels`.
        SnrouterError: when an expert cannot be loaded or run.
    """
    spec = document.spec
    data = document.dataset("data") or document.dataset("reference")
    if limit is not None and limit < FEWEST:
        raise SpecError(f"--limit: --probe needs {FEWEST} images or more, got {limit}")
    if data is None or len(data) < FEWEST:
        raise SpecError(f"--probe needs images, {FEWEST} or more; add data, e.g. data: {{type: digits, split: test}}")
    labelled = spec.condition == "labels"
    if labelled and data.labels is None:
        raise SpecError("condition: labels needs data with labels; give such a dataset, or set condition: none")
    dtype = DTYPES[spec.precision]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cards = {
        name: card_path(arguments["checkpoint"]).name
        for name, part in spec.experts.items()
        if part.name == "vdm" and (arguments := document.expert_arguments(name)[1])
    }
    loaded: Loaded = {}
    with _bar(progress) as bar:
        task = bar.add_task("probing", total=None)

        def tick(name: str, trying: str, calls: int, planned: int) -> None:
            bar.update(task, description=f"{name}, trying: {trying}", completed=calls, total=planned)

        def told(name: str, found: Probe) -> None:
            bar.stop()  # what is printed meanwhile would else go through the bar, to standard error
            if done:
                done(name, found)
            bar.start()

        return probe(
            {name: document.expert(name, loaded).to(device=device, dtype=dtype) for name in spec.experts},
            data,
            document.policy(),
            document.bounds,
            keys={name: inspect.signature(plugins.experts.get(part.name)).parameters for name, part in spec.experts.items()},
            labelled=labelled,
            dtype=dtype,
            device=device,
            cards=cards,
            seed=spec.seed,
            images=IMAGES if limit is None else min(limit, IMAGES),
            tick=tick,
            done=told,
        )


def _bar(progress: bool) -> Bar:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)), BarColumn(20), MofNCompleteColumn())
    return Bar(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not (progress and console.is_terminal), expand=True
    )


def fault_lines(document: Document, found: Probe, said: str = "") -> list[str]:
    """The probe's faults, a line each, with where the spec writes the expert; not again that an expert does not run, if `said`."""
    lines = []
    for fault in found.faults:
        if fault.fault == "failed" and repr(fault.expert) in said:
            continue
        try:
            document.at(("experts", fault.expert), partial(_refuse, str(fault)))
        except SpecError as error:
            lines.append(str(error))
    return lines


def _refuse(message: str) -> None:
    raise SpecError(message)
