"""Findings of a study, in sentences that a table of numbers leaves to the reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

RANDOM = "random"
"""Type of the route that others are compared with beside the baseline."""

GATES = ("gate", "top_k")
"""Types of routes whose load a loss can balance."""


def findings(content: Mapping[str, Any]) -> list[str]:
    """What a study's table says, the most important first.

    Args:
        content: of study.json, with models and measures.
    """
    models = {model["name"]: model for model in content["models"]}
    cells = [cell for model in models.values() for cell in model["cells"]]
    told = _likelihood(content, models) + _load(content, models)
    failed = sum(cell["status"] == "failed" for cell in cells)
    missing = sum(cell["status"] == "missing" for cell in cells)
    for count, word in ((failed, "failed"), (missing, "not done yet")):
        if count:
            told.append(f"{count} of {len(cells)} cells {word}; the same command goes on with them.")
    return told


def _likelihood(content: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """In bits/dim the best trained model against the baseline, the others against it, and all against random routes."""
    measure = next((one for one in content["measures"] if one["metric"] == "bpd" and "/" not in one["key"]), None)
    if measure is None:
        return []
    known = {name: row for name, row in measure["by_model"].items() if row["mean"] is not None}
    told, unit, baseline = [], measure["title"], content["baseline"]
    if baseline in known:
        trained = [name for name in known if name != baseline and models[name]["trained"]]
        best = min(trained, key=lambda name: known[name]["mean"], default=None)
        if best is not None:
            told.append(_headline(best, baseline, known, unit))
        told += _compared(baseline, {name: row for name, row in known.items() if name != best}, unit)
    lots = [name for name in known if models[name]["route"] == RANDOM and name != baseline]
    return told + [said for name in lots for said in _compared(name, known, unit)] + _lacking(content["seeds"], measure)


def _headline(name: str, against: str, known: Mapping[str, Any], unit: str) -> str:
    """One model against another."""
    row, other = known[name], known[against]
    way = "below" if row["mean"] < other["mean"] else "above" if row["mean"] > other["mean"] else "level with"
    return f"{name} ({row['mean']:.4f}) is {way} {against} ({other['mean']:.4f}) in {unit}; {_VERDICTS[_verdict(row, other)]}."


_APART = "the 95 percent intervals over the seeds do not overlap"
_ALIKE = "the 95 percent intervals over the seeds overlap"
_VERDICTS = {"better": _APART, "worse": _APART, "alike": _ALIKE, "": "fewer than two seeds give no interval"}


def _compared(against: str, known: Mapping[str, Any], unit: str) -> list[str]:
    """Every model against one: those whose intervals are apart from its own, better or worse, and the rest."""
    groups: dict[str, list[tuple[float, str]]] = {verdict: [] for verdict in _VERDICTS}
    for name, row in known.items():
        if name != against:
            groups[_verdict(row, known[against])].append((row["mean"] - known[against]["mean"], name))
    said = []
    for verdict, group in groups.items():
        names = _listed([f"{name} ({difference:+.4f})" for difference, name in sorted(group, reverse=verdict == "worse")])
        are = "are" if len(group) > 1 else "is"
        way = {"better": f"{are} below", "worse": f"{are} above"}.get(verdict, "against")
        if group:
            said.append(f"{names} {way} {against} in {unit}: {_VERDICTS[verdict]}.")
    return said


def _verdict(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Which of two intervals is lower, "better", or higher, "worse"; "alike" where they overlap, "" where one is not there."""
    if row["interval"] is None or other["interval"] is None:
        return ""
    if row["interval"][1] < other["interval"][0]:
        return "better"
    return "worse" if row["interval"][0] > other["interval"][1] else "alike"


def _lacking(seeds: Sequence[int], measure: Mapping[str, Any]) -> list[str]:
    """Models that are compared without some of the seeds, or for numbers that are not finite with none."""
    told = []
    for name, row in measure["by_model"].items():
        there = [(seed, value) for seed, value in zip(seeds, row["values"], strict=True) if value is not None]
        wrong = [str(seed) for seed, value in there if not math.isfinite(value)]
        if wrong:
            told.append(f"{name} has no finite number in {measure['title']} of seed {_listed(wrong)}, and no mean to compare.")
        elif 0 < len(there) < len(seeds):
            told.append(f"{name} is of seed {_listed([str(seed) for seed, _ in there])} only in {measure['title']}.")
    return told


def _load(content: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """Which gates use their experts most and least evenly, of those over as many; the variation's range depends on how many."""
    measure = next((one for one in content["measures"] if one["metric"] == "gating"), None)
    by_count: dict[int, dict[str, Any]] = {}
    for name, row in measure["by_model"].items() if measure else ():
        loads = [one["load"] for cell in models[name]["cells"] for one in cell["results"] if one["metric"] == "gating"]
        if models[name]["route"] in GATES and row["mean"] is not None and loads:
            by_count.setdefault(len(loads[0]), {})[name] = row
    told = []
    for count, rows in sorted(by_count.items()):
        even, uneven = (choose(rows, key=lambda name: rows[name]["mean"]) for choose in (min, max))
        if even != uneven:
            means = [f"{name} (variation of load {rows[name]['mean']:.2g})" for name in (uneven, even)]
            verdict = _VERDICTS[_verdict(rows[even], rows[uneven])]
            told.append(f"Of gates over {count} experts {means[0]} uses them least evenly and {means[1]} most; {verdict}.")
    return told


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
