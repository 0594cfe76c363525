"""Published numbers beside measured ones: which stand for which, and where a difference may be told.

What a published number says of its protocol (estimator, dequantization, importance_samples, divergence, features, sampler,
gamma_min) must be so of the measured one; what it does not say is not asked. But a metric of samples depends on what drew them and
on how many they are: a number that does not say its sampler stands beside none, and without `n` it has no difference. A difference
also needs a whole run and, when `n` is stated, as many images or samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snrouter.report.measures import sampled

TOLERANCE = 0.01
"""How far two gammas may lie apart and be the same: published ends are rounded."""

_STATED = ("estimator", "dequantization", "importance_samples", "divergence")

Value = Mapping[str, Any]
"""A published number, as the spec's `published.rows` has it."""


def beside(results: Mapping[str, Any], row: Mapping[str, Any] | None) -> list[Value]:
    """The published numbers that stand for the same as a result row."""
    return [value for value in _values(results) if row is not None and _same(results, value, row)]


def unmeasured(results: Mapping[str, Any], labels: Iterable[str]) -> dict[tuple[str, ...], dict[str, list[Value]]]:
    """Published numbers of the routes with these labels that no result row stands for, by metric and variant, then by route."""
    rows, known = results["results"], set(labels)
    of_samples = {row["metric"] for row in rows if sampled(row)}
    found: dict[tuple[str, ...], dict[str, list[Value]]] = {}
    for value in _values(results):
        if value["route"] in known and not any(_same(results, value, row) for row in rows):
            found.setdefault(_variant(value, value["metric"] in of_samples), {}).setdefault(value["route"], []).append(value)
    return found


def difference(results: Mapping[str, Any], row: Mapping[str, Any] | None, values: Sequence[Value]) -> float | str | None:
    """The measured number minus the nearest published one; or why there is none, in a word; or None where either is missing."""
    measured = (row or {}).get("value")
    if row is None or measured is None or not values:
        return None
    if results.get("partial"):
        return "partial"
    alike = [v for v in values if v.get("n") == row.get("n") or not (v.get("n") or sampled(row))]
    if not alike:
        return "other n" if any(v.get("n") for v in values) else "n not stated"
    return float(min((measured - value["value"] for value in alike), key=abs))


def text(values: Sequence[Value], decimals: int | None = None) -> str:
    """One cell, e.g. "9.37 / 9.38" where the publication says both, or "2.65 (sd 0.01)"."""
    return " / ".join(dict.fromkeys(_number(value, decimals) for value in values))


def over(values: Sequence[Value], unit: float) -> list[Value]:
    """The same numbers in another unit."""
    if unit == 1:
        return list(values)
    sized = ("value", "standard_deviation")
    return [{key: round(part / unit, 12) if key in sized and part is not None else part for key, part in v.items()} for v in values]


def decimals(values: Iterable[Value]) -> int:
    """Decimals of the most precise of them, as it was written."""
    return max((len(f"{value['value']!r}".partition(".")[2].removesuffix("0")) for value in values), default=0)


def source(results: Mapping[str, Any]) -> str:
    """Where the published numbers were read, e.g. "Published: A paper (arXiv 2511.19434), table 1."; "" when there are none."""
    said = _published(results).get("source") or {}
    number = f" (arXiv {said['arxiv']})" if said.get("arxiv") else ""
    table = f", {said['table']}" if said.get("table") else ""
    return f"Published: {said['title']}{number}{table}." if said else ""


def notes(results: Mapping[str, Any], labels: Iterable[str]) -> list[str]:
    """What to bear in mind of the published numbers: how differences are made, notes, and what was not run."""
    values, known = _values(results), set(labels)
    if not values:
        return []
    said = [
        source(results),
        "Differences from published numbers are given where protocols agree, with the error of the measured number alone; "
        "where several are published, from the nearest.",
    ]
    said += dict.fromkeys(f"{v['route']}, {v['metric']}: {v['note']}." for v in values if v.get("note") and v["route"] in known)
    others = dict.fromkeys(value["route"] for value in values if value["route"] not in known)
    return said + ([f"Published, but not run: {', '.join(others)}."] if others else [])


def _same(results: Mapping[str, Any], value: Value, row: Mapping[str, Any]) -> bool:
    if (value["route"], value["metric"]) != (row.get("label"), row.get("metric")):
        return False
    stated = {**(row.get("protocol") or {}), **row}
    if any(value.get(key) not in (None, stated.get(key)) for key in _STATED):
        return False
    if value.get("features") and not f"{row.get('features', '')}-".startswith(f"{value['features']}-"):
        return False
    solver = ((results.get("spec") or {}).get("solver") or {}).get("type", "")
    if sampled(row) and value.get("sampler") != solver:
        return False
    start = (row.get("protocol") or {}).get("gamma_min")
    return value.get("gamma_min") is None or (start is not None and abs(start - value["gamma_min"]) < TOLERANCE)


def _variant(value: Value, of_samples: bool) -> tuple[str, ...]:
    words = [value["metric"], *(value[key] for key in ("estimator", "dequantization", "divergence", "features") if value.get(key))]
    if value.get("importance_samples"):
        words.append(f"importance samples {value['importance_samples']}")
    if value.get("gamma_min") is not None:
        words.append(f"gamma min {value['gamma_min']:g}")
    if value.get("sampler") and value["metric"] != "bpd":
        words.append(f"{value['sampler']} sampler")
    return (*words, *(["sampler not stated"] if of_samples and not value.get("sampler") else []))


def _number(value: Value, places: int | None) -> str:
    number = f"{value['value']!r}" if places is None else f"{value['value']:.{places}f}"
    return number + (f" (sd {value['standard_deviation']:g})" if value.get("standard_deviation") is not None else "")


def _values(results: Mapping[str, Any]) -> list[Value]:
    return list(_published(results).get("rows") or ())


def _published(results: Mapping[str, Any]) -> Mapping[str, Any]:
    return (results.get("spec") or {}).get("published") or {}
