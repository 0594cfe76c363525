"""Tables: result rows pivoted by route, and the columns of text that every format shows.

A measure is a metric in one variant (its estimator, its features); it becomes a column with its standard error, followed by the
paired differences to each single expert. Routes stand in the order of the switch: the high-noise expert alone (eta = 0), the
thresholds, the low-noise expert alone (eta = 1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MISSING = "–"
"""What stands for a number that is not there."""

SIGNIFICANT = 2.0
"""A difference counts as one when it exceeds this many of its standard errors."""

_TITLES = {"bpd": "bits/dim", "fid": "Fréchet distance"}
_VARIANTS = {
    "vlb": "VLB",
    "ode": "ODE",
    "truncated_normal": "truncated normal",
    "classifier": "classifier features",
    "inception": "Inception features",
}
_LOWER = frozenset(_TITLES)
_NOT_VARIANT = frozenset(
    [
        "metric",
        "label",
        "route",
        "expert",
        "experts",
        "interval",
        "eta",
        "gamma_switch",
        "gamma_switches",
        "value",
        "standard_error",
        "n",
        "nfe",
        "nfe_per_expert",
        "seconds",
        "terms",
        "protocol",
        "paired",
    ]
)


@dataclass(frozen=True)
class Number:
    """A value and its standard error; None where unknown."""

    value: float | None = None
    error: float | None = None

    @property
    def sign(self) -> int | None:
        """Of a difference: -1 or 1 beyond `SIGNIFICANT` errors, 0 within, None when either number is unknown."""
        if self.value is None or self.error is None:
            return None
        return 0 if abs(self.value) <= SIGNIFICANT * self.error else (1 if self.value > 0 else -1)

    def text(self, decimals: int | None = None, signed: bool = False) -> str:
        """E.g. "1.818 ± 0.014", to two digits of the error unless `decimals` are given."""
        if self.value is None:
            return MISSING
        places = _places([self]) if decimals is None else decimals
        value = f"{self.value:{'+' if signed else ''}.{places}f}"
        return value if self.error is None else f"{value} ± {self.error:.{places}f}"


@dataclass(frozen=True)
class Measure:
    """One metric in one variant.

    Attributes:
        key: name of its CSV columns, e.g. "bpd_vlb".
        metric: the metric's registered name.
        name: what it is in a sentence, e.g. "bits/dim".
        title: with the variant, e.g. "bits/dim (VLB)".
        lower: True when lower is better, None when that is not known.
        sampled: whether it is measured on samples rather than on data.
    """

    key: str
    metric: str
    name: str
    title: str
    lower: bool | None
    sampled: bool


@dataclass(frozen=True)
class Row:
    """One route with everything measured of it.

    Attributes:
        label: what a person calls it.
        route: the policy's name; "single" for an expert alone.
        eta: of its switch, or None.
        switches: gammas of its switches.
        best: whether the sweep chose it.
        numbers: by measure key.
        differences: by measure key and single expert's label, this route minus that expert, paired.
        rows: the result rows by measure key.
    """

    label: str
    route: str
    eta: float | None
    switches: tuple[float, ...]
    best: bool
    numbers: Mapping[str, Number]
    differences: Mapping[str, Mapping[str, Number]]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def single(self) -> bool:
        """Whether it is an expert alone."""
        return self.route == "single"

    def nfe(self, measure: Measure) -> float | None:
        """Network calls a sample or an image, of one measure."""
        calls = _finite(self.rows.get(measure.key, {}).get("nfe"))
        return calls or None


@dataclass(frozen=True)
class Column:
    """A column of text, a cell a route.

    Attributes:
        group: the measure it belongs to, or "".
        title: its own heading.
        cells: the text.
        faint: which cells are differences within the error.
        kind: "route", "value", "difference" or "cost".
    """

    group: str
    title: str
    cells: Sequence[str]
    faint: Sequence[bool] = field(default=())
    kind: str = "value"

    @property
    def heading(self) -> str:
        """Group and title in one line."""
        return f"{self.group} {self.title}".strip()


# --- pivot -----------------------------------------------------------------------------------------------------------


def measures(results: Mapping[str, Any]) -> list[Measure]:
    """The measures of a run, in the order of the spec's `evaluate`."""
    grouped = _grouped(results["results"])
    twice = Counter(identity for identity, _ in grouped)
    found = []
    for (identity, turn), rows in grouped.items():
        metric, *variant = identity
        protocol = rows[0].get("protocol") or {}
        words = [_VARIANTS.get(word, word.replace("_", " ")) for word in variant]
        if twice[identity] > 1:
            others = [other[0].get("protocol") or {} for (same, _), other in grouped.items() if same == identity]
            words += _distinguishing(protocol, others) or [f"no. {turn}"]
        name = _TITLES.get(metric, metric)
        title = f"{name} ({', '.join(words)})" if words else name
        found.append(Measure(_key(identity, turn), metric, name, title, True if metric in _LOWER else None, "final" in protocol))
    spec = results.get("spec") or {}
    asked = [entry.get("metric") for entry in spec.get("evaluate", ())]
    return sorted(found, key=lambda m: asked.index(m.metric) if m.metric in asked else len(asked))


def table(results: Mapping[str, Any]) -> list[Row]:
    """Result rows pivoted by route: a row a route, in the order of the switch."""
    known = measures(results)
    chosen = (results.get("best") or {}).get("label")
    by_label: dict[str, dict[str, Mapping[str, Any]]] = {}
    for (identity, turn), rows in _grouped(results["results"]).items():
        for row in rows:
            by_label.setdefault(_label(row), {})[_key(identity, turn)] = row
    made = [_row(label, rows, label == chosen, known) for label, rows in by_label.items()]
    return sorted(made, key=lambda row: _place(row, results))


def experts(results: Mapping[str, Any]) -> list[str]:
    """Labels of the experts evaluated alone, the low-noise expert first."""
    return [row.label for row in reversed(table(results)) if row.single]


def _row(label: str, rows: Mapping[str, Mapping[str, Any]], best: bool, known: Sequence[Measure]) -> Row:
    first = next(iter(rows.values()))
    switches = first.get("gamma_switches") or ([first["gamma_switch"]] if first.get("gamma_switch") is not None else [])
    return Row(
        label=label,
        route=str(first.get("route", "")),
        eta=_finite(first.get("eta")),
        switches=tuple(switches),
        best=best,
        numbers={key: Number(_finite(row.get("value")), _finite(row.get("standard_error"))) for key, row in rows.items()},
        differences={
            key: {
                other: Number(_finite(pair.get("difference")), _finite(pair.get("standard_error")))
                for other, pair in (row.get("paired") or {}).items()
            }
            for key, row in rows.items()
        },
        rows={measure.key: rows[measure.key] for measure in known if measure.key in rows},
    )


def _place(row: Row, results: Mapping[str, Any]) -> tuple[int, float]:
    route = (results.get("spec") or {}).get("route") or {}
    if row.single:
        return ({route.get("high"): 0, route.get("low"): 2}.get(row.label, 3), 0.0)
    return (1, row.eta) if row.eta is not None else (3, 0.0)


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[tuple[str, ...], int], list[Mapping[str, Any]]]:
    """Rows by metric and variant; a variant that the same route has twice counts on."""
    groups: dict[tuple[tuple[str, ...], int], list[Mapping[str, Any]]] = {}
    seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for row in rows:
        identity = (str(row["metric"]), *_variant(row))
        seen[_label(row), identity] += 1
        groups.setdefault((identity, seen[_label(row), identity]), []).append(row)
    return groups


def _label(row: Mapping[str, Any]) -> str:
    """What the row calls its route, or what a person would."""
    eta = row.get("eta")
    return str(row.get("label") or row.get("expert") or (row.get("route") if eta is None else f"eta={eta:.3g}"))


def _key(identity: Sequence[str], turn: int) -> str:
    return "_".join((*identity, *([str(turn)] if turn > 1 else [])))


def _variant(row: Mapping[str, Any]) -> list[str]:
    extra = {key: value for key, value in row.items() if key not in _NOT_VARIANT}
    return [value if isinstance(value, str) else key for key, value in extra.items() if isinstance(value, str) or value is True]


def _distinguishing(protocol: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    differing = [key for key in protocol if any(other.get(key) != protocol[key] for other in others)]
    return [f"{key.replace('_', ' ')} {str(protocol[key])[:24]}" for key in differing]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


# --- columns of text -------------------------------------------------------------------------------------------------


def columns(results: Mapping[str, Any]) -> list[Column]:
    """The table as text: route, eta, gamma of the switch, each measure with its paired differences, network calls."""
    rows, known, singles = table(results), measures(results), experts(results)
    out = [Column("", "route", [row.label for row in rows], kind="route")]
    if any(row.eta is not None for row in rows):
        out.append(Column("", "η", [MISSING if row.eta is None else f"{row.eta:.4g}" for row in rows]))
    if any(row.switches for row in rows):
        out.append(Column("", "γ switch", [", ".join(f"{g:.4g}" for g in row.switches) or MISSING for row in rows]))
    for measure in known:
        group = measure.title + (" ↓" if measure.lower else "")
        out.append(Column(group, "", aligned([row.numbers.get(measure.key, Number()) for row in rows])))
        for single in singles:
            differences = [row.differences.get(measure.key, {}).get(single, Number()) for row in rows]
            if any(number.value is not None for number in differences):
                cells, faint = aligned(differences, signed=True), [number.sign == 0 for number in differences]
                out.append(Column(group, f"minus {single}", cells, faint, "difference"))
    return out + _costs(rows, known)


def aligned(numbers: Sequence[Number], signed: bool = False) -> list[str]:
    """A column of numbers with the same decimals."""
    places = _places(numbers)
    return [number.text(places, signed) for number in numbers]


def _costs(rows: Sequence[Row], known: Sequence[Measure]) -> list[Column]:
    sampled = [measure for measure in known if measure.sampled][:1]
    on_data = [measure for measure in known if not measure.sampled]
    alone = len(on_data) == 1 and on_data[0].metric == "bpd"
    titles = {m.key: "sampling" for m in sampled} | {m.key: "bits/dim" if alone else m.title for m in on_data}
    found = []
    for measure in (*sampled, *on_data):
        calls = [row.nfe(measure) for row in rows]
        if any(calls):
            cells = [MISSING if n is None else f"{n:.1f}".removesuffix(".0") for n in calls]
            found.append(Column("NFE", titles[measure.key], cells, kind="cost"))
    return found


def _places(numbers: Sequence[Number]) -> int:
    """Decimals that show two digits of the median error."""
    errors = sorted(n.error for n in numbers if n.error)
    if not errors:
        return 3
    return min(max(1 - math.floor(math.log10(errors[len(errors) // 2])), 0), 6)
