"""Results: rows, differences between routes, and the files of a run's folder."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from snrouter.evaluation.jobs import run_fingerprint
from snrouter.evaluation.rows import Made, Row, summarise
from snrouter.evaluation.shards import Job, network_calls
from snrouter.evaluation.worker import Worker
from snrouter.files import remove, write
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.search.frontier import frontier
from snrouter.spec import Document

FORMAT = 1
"""Version of results.json."""

SHOWN = 16
"""Samples a route that are kept in samples.safetensors for the report."""


@dataclass
class Results:
    """What a run gives.

    Attributes:
        rows: one a route and metric.
        document: the spec.
        fingerprint: of the whole run.
        partial: whether a limit cut it short.
        extras: of a sweep: `network_calls`, where known; `frontier` (rows no other beats) and `best`, where there is a trade-off.
        samples: the first images by route label, [n, C, H, W] in [-1, 1].
        trace: on the way of a few samples, by route label: predicted images [K, m, C, H, W], and the gammas [K], descending, where
            they were predicted.
        pictures: images [rows, columns, C, H, W] by "<number of a row of results>/<title>".
        folder: where it was written.
    """

    rows: list[dict[str, Any]]
    document: Document
    fingerprint: str
    partial: bool
    extras: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    trace: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)

    def as_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "spec": self.document.dump(),
            "partial": self.partial,
            "results": self.rows,
            **self.extras,
        }


def results_of(worker: Worker, jobs: Sequence[Job], out: Path, partial: bool) -> Results:
    """The results of jobs that are done, every route beside the others."""
    made = Made(worker, jobs, out)
    rows = summarise(made)
    samples = {label: drawn["images"] for label, drawn in made.of_each_route(("samples", None), SHOWN).items()}
    trace = {
        label: (seen["images"].transpose(0, 1), seen["gamma"][0])
        for label, seen in made.of_each_route(("trace", None), SHOWN).items()
    }
    pictures = {f"{i}/{title}": images for i, row in enumerate(rows) for title, images in row.pictures.items()}
    results = Results(
        [row.columns for row in rows],
        worker.routes[0].document,
        run_fingerprint(worker, jobs),
        partial,
        samples=samples,
        trace=trace,
        pictures=pictures,
        folder=out,
    )
    if len(worker.routes) > 1:
        compare(rows)
        sweep = worker.spec.sweep
        results.extras |= trade_off(results.rows, sweep.quality_tolerance if sweep else 0.0)
        calls = network_calls(jobs, worker.spec.batch_size, out)
        results.extras |= {"network_calls": calls} if calls else {}
    return results


_ROUTE = ("route", "expert", "gamma_switch", "gamma_switches")


class Paired(NamedTuple):
    """A difference of two routes that share images, or noise, and its standard error."""

    difference: float
    standard_error: float


def paired(row: Row, other: Row) -> Paired:
    """How far one row's number is above another's of the same metric; NaN where either has no influences."""
    if row.influence is None or other.influence is None:
        return Paired(math.nan, math.nan)
    return Paired(row.columns["value"] - other.columns["value"], standard_error(row.influence - other.influence))


def _lone(row: Mapping[str, Any]) -> bool:
    """Whether a row is of an expert alone that others are compared with, and not of the ends that a sweep goes over."""
    return bool(row["route"] == "single" and row.get("interval") not in ("the spec's", "swept"))


def compare(rows: Sequence[Row]) -> None:
    """Add to each row its paired differences to the single experts, and over ends to the same route on the spec's interval."""
    for row in rows:
        for other in rows:
            same = other.columns.get("interval") == "the spec's" and all(
                row.columns.get(key) == other.columns.get(key) for key in _ROUTE
            )
            alike = row.metric == other.metric and (same or _lone(other.columns)) and row is not other
            if alike and row.influence is not None and other.influence is not None:
                row.columns.setdefault("paired", {})[other.columns["label"]] = paired(row, other)._asdict()


def trade_off(rows: Sequence[Mapping[str, Any]], tolerance: float, likelihood: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The frontier of (bits/dim, Frechet distance), and the best route.

    The best has the lowest bits/dim of the routes whose distance is not demonstrably above the lowest of the single experts: by no
    more than `tolerance` and two paired standard errors. A route one of whose numbers is not finite, such as the distance of a
    single sample, takes no part; without experts to compare with, or routes to choose from, none is the best.

    Args:
        rows: of results, with their paired differences.
        tolerance: how far above the lowest single expert's distance is no matter.
        likelihood: bits/dim by label of the routes to choose from, which the best is chosen by: those of other images, lest the
            choice flatter the rows' own. All routes by their rows when left out.
    """
    kept = [row for row in rows if math.isfinite(row["value"])]
    first = {name: {row["label"]: row for row in reversed(kept) if row["metric"] == name} for name in ("bpd", "fid")}
    labels = [label for label in dict.fromkeys(row["label"] for row in rows) if all(label in found for found in first.values())]
    if not labels:
        return {}
    points = [(first["bpd"][label]["value"], first["fid"][label]["value"]) for label in labels]

    def named(i: int) -> dict[str, Any]:
        return {"label": labels[i], "bpd": points[i][0], "fid": points[i][1]}

    front = {"frontier": [named(i) for i in frontier(points)]}
    singles = [first["fid"][label] for label in labels if _lone(first["fid"][label])]
    if len(singles) in (0, len(labels)):
        return front
    finest = min(singles, key=lambda row: row["value"])

    def allowed(row: Mapping[str, Any]) -> bool:
        paired = row.get("paired", {}).get(finest["label"], {"difference": 0.0, "standard_error": 0.0})
        return bool(paired["difference"] <= tolerance + 2 * paired["standard_error"])

    heights = {label: bpd for label, (bpd, _) in zip(labels, points, strict=True)} if likelihood is None else likelihood
    candidates = [i for i, label in enumerate(labels) if label in heights and allowed(first["fid"][label])]
    if not candidates:
        return front
    chosen = min(candidates, key=lambda i: (heights[labels[i]], points[i][1], i))
    return front | {"best": named(chosen) | {"against": finest["label"], "quality_tolerance": tolerance}}


def write_results(results: Results) -> None:
    """Write results.json, the resolved spec, the environment, samples, trace and pictures into the run's folder."""
    out = results.folder
    if results.samples:
        _write_images(out / "samples.safetensors", results.samples)
    trace = {label: images for label, (images, _) in results.trace.items()}
    trace |= {f"{label}/gamma": gamma for label, (_, gamma) in results.trace.items()}
    _write_images(out / "trace.safetensors", trace)
    _write_images(out / "pictures.safetensors", results.pictures)
    write(out / "results.json", json.dumps(plain(results.as_dict()), indent=2).encode())
    write(out / "spec.yaml", yaml.safe_dump(results.document.dump(), sort_keys=False).encode())
    packages = {name: version(name) for name in ("snrouter", "torch", "lightning", "torchdiffeq", "scipy", "numpy")}
    packages |= results.document.packages()
    environment = {"python": platform.python_version(), "platform": platform.platform(), "packages": packages}
    write(out / "environment.json", json.dumps(environment, indent=2).encode())


def _write_images(path: Path, images: Mapping[str, Tensor]) -> None:
    """Write them, or remove those of an earlier run."""
    if images:
        write(path, save({name: tensor.contiguous() for name, tensor in images.items()}))
    else:
        remove(path)


def plain(value: Any) -> Any:
    """JSON has no NaN: a number that is none becomes null."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not torch.isfinite(torch.tensor(value)) else value
