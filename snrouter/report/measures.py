"""Measures: what a run, or several combined, measured; a column each.

A measure is a metric in one variant: its estimator, its features. Rows of several runs share a column where their protocols agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snrouter.report import protocol
from snrouter.report.number import Number, Unit, finite, places, power

LOWER, HIGHER = "lower", "higher"

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Likelihood": ("bpd",),
    "Quality": ("fid", "kid", "inception_score", "precision", "recall"),
    "Further": (),
    "Pairs": ("lpips", "ssim", "psnr"),
    "Checks": ("nearest_neighbour",),
    "Gating": ("gating",),
    "Cost": ("cost",),
}
"""The metrics of each family, in the order of columns; those of other packages are in "Further"."""

PUBLISHED = {"bpd": "bits/dim", "fid": "Fréchet distance", "kid": "KID", "inception_score": "Inception Score"}
"""What metrics are called whose numbers are published and not measured; measured ones say it in their rows."""

_VARIANTS = {
    "vlb": "VLB",
    "ode": "ODE",
    "truncated_normal": "truncated normal",
    "classifier": "classifier features",
    "inception": "Inception features",
    "same_noise": "same noise",
}
OF_ROUTES = ("label", "route", "expert", "experts", "interval", "eta", "gamma_switch", "gamma_switches", "switch")
"""What a row says of its route."""
_MEASURED = ["value", "standard_error", "n", "nfe", "nfe_per_expert", "seconds", "terms", "protocol", "paired"]
_NOT_VARIANT = frozenset(["metric", "title", "better", "run", "measure", *OF_ROUTES, *_MEASURED])


@dataclass(frozen=True)
class Measure:
    """One metric in one variant.

    Attributes:
        key: name of its CSV columns, e.g. "bpd_vlb".
        metric: the metric's registered name.
        name: what it is in a sentence, e.g. "bits/dim".
        title: with the variant, e.g. "bits/dim (VLB)".
        better: "lower" or "higher", None when that is not known.
        family: one of `FAMILIES`.
        unit: what its numbers are told in.
        sampled: whether it is measured on samples rather than on data.
        note: what its rows say is to be borne in mind; "" for nothing.
    """

    key: str
    metric: str
    name: str
    title: str
    better: str | None
    family: str
    unit: Unit
    sampled: bool
    note: str = ""

    @property
    def arrow(self) -> str:
        """Which way is better, as a sign."""
        return {LOWER: "↓", HIGHER: "↑"}.get(self.better or "", "")

    def gain(self, difference: Number) -> int | None:
        """Of a difference: 1 for better, -1 for worse beyond its error, 0 within that or rounding, None where it is not known."""
        if difference.value is None or difference.sign is None:
            return None
        if not difference.sign or abs(difference.value) < (self.unit.finest or 0.0):
            return 0
        return difference.sign * {LOWER: -1, HIGHER: 1}[self.better] if self.better else None

    def text(self, told: Number, signed: bool = False) -> str:
        """One of its numbers or differences in words, to no more digits than are known."""
        return told.text(places([told], self.unit.finest), signed)

    def loss(self, value: float) -> float:
        """The value, or its negative where higher is better: of two routes, the better has less of it."""
        return -value if self.better == HIGHER else value


Key = tuple[tuple[str, ...], int]
"""Metric and variant, and which of several columns of the same."""


def measures(results: Mapping[str, Any]) -> list[Measure]:
    """The measures of a run, or of several combined: by family, then in the order of the spec's `evaluate`."""
    groups = grouped(results)
    found = [
        _measure(key, rows, [groups[other] for other in groups if other[0] == key[0] and other != key])
        for key, rows in groups.items()
    ]
    asked = [entry.get("metric") for spec in specs(results).values() for entry in spec.get("evaluate", ())]

    def place(measure: Measure) -> tuple[int, int]:
        return list(FAMILIES).index(measure.family), asked.index(measure.metric) if measure.metric in asked else len(asked)

    return sorted(found, key=place)


def grouped(results: Mapping[str, Any]) -> dict[Key, list[Mapping[str, Any]]]:
    """Rows by column. A variant that the same route has twice has two columns, and so have runs that were not made alike."""
    series: dict[tuple[tuple[str, ...], str, int], list[Mapping[str, Any]]] = {}
    seen: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    for row in results["results"]:
        identity = (str(row["metric"]), *_variant(row))
        seen[run_of(row), label_of(row), identity] += 1
        series.setdefault((identity, run_of(row), seen[run_of(row), label_of(row), identity]), []).append(row)
    columns: dict[tuple[str, ...], list[dict[str, list[Mapping[str, Any]]]]] = {}
    for (identity, run, _), rows in series.items():
        there = columns.setdefault(identity, [])
        for column in there:
            if run not in column and not any(protocol.differences(theirs, rows) for theirs in column.values()):
                column[run] = rows
                break
        else:
            there.append({run: rows})
    return {
        (identity, number): [row for rows in column.values() for row in rows]
        for identity, found in columns.items()
        for number, column in enumerate(found, 1)
    }


def _measure(key: Key, rows: Sequence[Mapping[str, Any]], others: Sequence[Sequence[Mapping[str, Any]]]) -> Measure:
    (metric, *variant), turn = key
    words = variant_words(variant)
    if others:
        words += _distinguishing(rows, others) or [f"no. {turn}"]
    name = str(rows[0].get("title") or metric)
    notes = dict.fromkeys(row["protocol"]["note"] for row in rows if (row.get("protocol") or {}).get("note"))
    return Measure(
        key=key_of(key),
        metric=metric,
        name=name,
        title=titled(name, words),
        better=rows[0].get("better") or None,
        family=next((family for family, metrics in FAMILIES.items() if metric in metrics), "Further"),
        unit=power([number(row) for row in rows]),
        sampled=sampled(rows[0]),
        note="; ".join(map(str, notes)),
    )


# --- rows ------------------------------------------------------------------------------------------------------------


def number(row: Mapping[str, Any]) -> Number:
    """The row's value with its error."""
    return Number(finite(row.get("value")), finite(row.get("standard_error")))


def sampled(row: Mapping[str, Any]) -> bool:
    """Whether a row's number is of samples, which something drew, rather than of data and what becomes of them."""
    return "final" in (row.get("protocol") or {}) and row.get("pairs") != "reconstruction"


def run_of(row: Mapping[str, Any]) -> str:
    """Name of the run that a row is of; "" where there is but one."""
    return str(row.get("run", ""))


def specs(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The spec of each run by its name; of one run alone by ""."""
    if "runs" in results:
        return {name: run.get("spec") or {} for name, run in results["runs"].items()}
    return {"": results.get("spec") or {}}


def run_named(results: Mapping[str, Any], run: str) -> Mapping[str, Any]:
    """What results.json of a run holds beside its rows."""
    own: Mapping[str, Any] = results["runs"][run] if "runs" in results else results
    return own


# --- words -----------------------------------------------------------------------------------------------------------


def label_of(row: Mapping[str, Any]) -> str:
    """What the row calls its route, or what a person would."""
    eta = row.get("eta")
    return str(row.get("label") or row.get("expert") or (row.get("route") if eta is None else f"eta={eta:.3g}"))


def key_of(key: Key) -> str:
    """The name of a column in CSV and JSON."""
    identity, turn = key
    return "_".join((*identity, *([str(turn)] if turn > 1 else []))).replace(" ", "_")


def _variant(row: Mapping[str, Any]) -> list[str]:
    extra = {key: f"against {value}" if key == "against" else value for key, value in row.items() if key not in _NOT_VARIANT}
    return [value if isinstance(value, str) else key for key, value in extra.items() if isinstance(value, str) or value is True]


def variant_words(variant: Iterable[str]) -> list[str]:
    """What a variant's columns hold, for a person."""
    return [_VARIANTS.get(word, word.replace("_", " ")) for word in variant]


def titled(name: str, words: Sequence[str]) -> str:
    """A name with its variant behind it, e.g. "bits/dim (VLB)"."""
    return f"{name} ({', '.join(words)})" if words else name


def _distinguishing(rows: Sequence[Mapping[str, Any]], others: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    keys = dict.fromkeys(key for theirs in others for key in protocol.differences(rows, theirs))
    facts = protocol.counted(rows[0])
    return [f"{key.replace('_', ' ')} {protocol.short(facts.get(key))}" for key in keys]
