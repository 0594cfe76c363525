"""The table of a study: every number of every cell, and by model its mean, deviation and interval over the seeds.

With n seeds of mean m and standard deviation s (of n - 1 degrees of freedom), the interval of 95 percent is m -+ t s / sqrt(n),
t the 0.975 quantile of Student's t with n - 1 degrees of freedom; it holds where the numbers of different seeds are normal. A
relative gain is taken seed by seed, (model - baseline) / |baseline|, so that what both share with a seed (images, noise) cancels.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import t

from snrouter.evaluation.shards import fingerprint
from snrouter.spec import Document
from snrouter.study.cells import Cell
from snrouter.study.findings import findings

FILE = "study.json"
"""The table, in the study's folder."""

FORMAT = 1
"""Its version."""

OF_COST = {
    "peak_memory_bytes": ("peak memory, bytes", "lower"),
    "parameters": ("parameters", None),
    "gate_parameters": ("parameters of the gate", None),
}
"""Columns of a `cost` row that are measures of their own."""

Rows = Sequence[Mapping[str, Any]]


class _Told(NamedTuple):
    """One number of one cell."""

    key: str
    title: str
    metric: str
    better: str | None
    value: float | None


def tabulate(document: Document, cells: Sequence[Cell], out: Path, *, partial: bool) -> dict[str, Any]:
    """The content of study.json, from what is on disk.

    Args:
        document: the study's spec.
        cells: all of it.
        out: the study's folder.
        partial: whether a limit cuts it short.
    """
    study = document.spec.study
    assert study is not None
    told = [_cell(cell, out.resolve()) for cell in cells]
    models = []
    for name in study.models:
        own = [(cell, one) for cell, one in zip(cells, told, strict=True) if cell.name == name]
        models.append(_model(own[0][0], [one for _, one in own]))
    content: dict[str, Any] = {
        "format": FORMAT,
        "partial": partial,
        "spec": document.dump(),
        "seeds": list(study.seeds),
        "baseline": study.against,
        "models": models,
        "measures": measures_of(models, document.dump(), study.against),
        "errors": [f"{cell.name}, seed {cell.seed}: {cell.error}" for cell in cells if cell.error is not None],
    }
    content["findings"] = findings(content)
    content["fingerprint"] = fingerprint([[one["key"] for one in told], document.dump()])
    return content


def _cell(cell: Cell, out: Path) -> dict[str, Any]:
    """What there is of one cell."""
    receipts = []
    if not cell.to_do:
        receipts = [made for task in (cell.evaluation(), cell.evaluation(alone=True)) if (made := task.made())]
    done = len(receipts) > (1 if cell.has_route_metrics else 0)
    results = _results(cell.folder) if receipts else {}
    return {
        "seed": cell.seed,
        "folder": str(cell.folder.relative_to(out)),
        "status": "failed" if cell.error is not None else "done" if done else "missing",
        "error": cell.error,
        "seconds": sum(made["seconds"] for made in receipts),
        "trained_seconds": cell.seconds,
        "steps": cell.steps,
        "left_out": receipts[0]["made"]["left_out"] if receipts else {},
        "evaluate": results.get("spec", {}).get("evaluate", []),
        "results": results.get("results", []),
        "key": results.get("fingerprint"),
    }


def _results(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError):
        return {}
    return content


def _model(cell: Cell, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A model by its first cell, and what is told of all."""
    model = cell.model
    cost = next((row for one in told for row in one["results"] if row["metric"] == "cost"), None)
    return {
        "name": cell.name,
        "about": model.about or _about(cell),
        "route": cell.document.spec.route.type,
        "recipes": list(model.recipes),
        "trained": bool(model.recipes),
        "tuned": model.tune,
        "steps": next((one["steps"] for one in told if one["steps"]), {}),
        "parameters": {
            "total": cost["parameters"] if cost else None,
            "gate": cost.get("gate_parameters", 0) if cost else None,
        },
        "cells": list(told),
    }


def _about(cell: Cell) -> str:
    """What is done for a model that does not say it."""
    changes = ", ".join(f"{path} = {json.dumps(value)}" for path, value in cell.model.set.items())
    done = [*(f"recipe {name}" for name in cell.model.recipes), *(["tune"] if cell.model.tune else [])]
    told = ", ".join(done) or "the spec's own route; seeds change the noise only"
    return f"{told}; {changes}" if changes else told


def measures_of(models: Sequence[Mapping[str, Any]], spec: Mapping[str, Any], baseline: str) -> list[dict[str, Any]]:
    """Every measure of the cells by model.

    Args:
        models: with their cells.
        spec: the study's; its `evaluate` and `slices` say what numbers of different cells are of one measure.
        baseline: the model that gains are against.
    """
    keys = _keys(spec["evaluate"])
    numbers: dict[str, dict[str, list[float | None]]] = {}
    first: dict[str, _Told] = {}
    for model in models:
        for i, cell in enumerate(model["cells"]):
            for told in _numbers(cell, spec):
                first.setdefault(told.key, told)
                by_model = numbers.setdefault(told.key, {one["name"]: [None] * len(one["cells"]) for one in models})
                by_model[model["name"]][i] = told.value
    found = []
    for key in sorted(first, key=lambda key: keys.index(key.split("/")[0])):
        told, by_model = first[key], numbers[key]
        against = by_model[baseline]
        summary = {name: summarised(values, None if name == baseline else against) for name, values in by_model.items()}
        found.append({"key": key, "title": told.title, "metric": told.metric, "better": told.better, "by_model": summary})
    return found


def _keys(asked: Rows) -> list[str]:
    """A key for each entry of `evaluate`: the metric's name, counted from its second entry on."""
    names = [str(entry["metric"]) for entry in asked]
    return [name if names.index(name) == i else f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def _numbers(cell: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[_Told]:
    """Every number of a cell, by the entries of `evaluate` and the slices that its own spec has in common with the study's."""
    asked, slices = spec["evaluate"], spec.get("slices", {})
    keys = _keys(asked)
    for entry, row in zip(cell["evaluate"], cell["results"], strict=False):
        if entry not in asked:
            continue
        key = keys[asked.index(entry)]
        metric, title = str(row["metric"]), str(row.get("title", row["metric"]))
        if [one["metric"] for one in asked].count(metric) > 1:
            title = ", ".join([title, *(str(value) for name, value in entry.items() if name in ("estimator", "features"))])
        yield _Told(key, title, metric, row.get("better"), _number(row))
        for name in (name for name in row.get("slices", {}) if name in slices):
            part = row["slices"][name]
            yield _Told(f"{key}/slices/{name}", f"{title}, {name}", metric, row.get("better"), _number(part))
        for name, (words, better) in OF_COST.items() if metric == "cost" else ():
            if name in row:
                yield _Told(f"{key}/{name}", words, metric, better, row[name])


def _number(row: Mapping[str, Any]) -> float:
    """That of a row, which JSON has as null where it is NaN or infinite; what is not there at all is None elsewhere."""
    return math.nan if row["value"] is None else float(row["value"])


def summarised(values: Sequence[float | None], baseline: Sequence[float | None] | None = None) -> dict[str, Any]:
    """Mean, deviation and interval over the seeds, and the gain relative to a baseline's values of the same seeds.

    Numbers that are not there take no part, and `n` are; with too few, what they would give is None. So it is where one is NaN or
    infinite, as that of a seed that diverged: without it the others would look better than the model is.
    """
    relative, there = None, _finite(values)
    if baseline is not None and there and _finite(baseline):
        pairs = zip(values, baseline, strict=True)
        gains = [(a - b) / abs(b) for a, b in pairs if a is not None and b is not None and b]
        relative = {"mean": statistics.fmean(gains), "interval": interval(gains)} if gains else None
    return {
        "values": list(values),
        "n": len(there),
        "mean": statistics.fmean(there) if there else None,
        "standard_deviation": statistics.stdev(there) if len(there) > 1 else None,
        "interval": interval(there),
        "relative": relative,
    }


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95 percent interval of the mean by Student's t; None of fewer than two values."""
    if len(values) < 2:
        return None
    mean, n = statistics.fmean(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return [mean - half, mean + half]


def _finite(values: Sequence[float | None]) -> list[float]:
    """Those that are there; none where one of them is not finite."""
    there = [value for value in values if value is not None]
    return there if all(map(math.isfinite, there)) else []
