"""Findings of a study, in sentences that a table of numbers leaves to the reader."""

from __future__ import annotations

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
    """Models against the baseline and against random routes, in bits/dim."""
    measure = next((one for one in content["measures"] if one["metric"] == "bpd" and "/" not in one["key"]), None)
    if measure is None:
        return []
    known = {name: row for name, row in measure["by_model"].items() if row["mean"] is not None}
    against = [content["baseline"], *(name for name in models if models[name]["route"] == RANDOM)]
    return [sentence for name in dict.fromkeys(against) if name in known for sentence in _compared(name, known, measure["title"])]


def _compared(against: str, known: Mapping[str, Any], unit: str) -> list[str]:
    """Every model against one: those whose intervals are apart from its own, better or worse, and the rest."""
    groups: dict[str, list[tuple[float, str]]] = {"better": [], "worse": [], "": []}
    for name, row in known.items():
        if name != against:
            groups[_verdict(row, known[against])].append((row["mean"] - known[against]["mean"], name))
    said = []
    for verdict, verb in (("better", "below"), ("worse", "above")):
        if groups[verdict]:
            ordered = sorted(groups[verdict], key=lambda pair: -abs(pair[0]))
            names = _listed([f"{name} ({difference:+.4f})" for difference, name in ordered])
            are = "are" if len(ordered) > 1 else "is"
            said.append(f"{names} {are} {verb} {against} in {unit}; the 95 percent intervals over the seeds do not overlap.")
    if groups[""]:
        names = _listed([f"{name} ({difference:+.4f})" for difference, name in sorted(groups[""])])
        said.append(f"The 95 percent intervals do not tell {names} from {against} in {unit}.")
    return said


def _verdict(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Which of two intervals is lower, "better", or higher, "worse"; "" where they overlap."""
    if row["interval"] is None or other["interval"] is None:
        return ""
    if row["interval"][1] < other["interval"][0]:
        return "better"
    return "worse" if row["interval"][0] > other["interval"][1] else ""


def _load(content: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """How unevenly gates use their experts."""
    measure = next((one for one in content["measures"] if one["metric"] == "gating"), None)
    if measure is None:
        return []
    rows = [(row["mean"], name) for name, row in measure["by_model"].items() if models[name]["route"] in GATES]
    known = sorted((mean, name) for mean, name in rows if mean is not None)
    if len(known) < 2:
        return []
    names = _listed([f"{name} {mean:.2g}" for mean, name in known])
    return [f"Gates use their experts the more unevenly, the larger the variation of their load: {names}."]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
