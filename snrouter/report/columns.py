"""Columns: the table as text, a cell a route, the same in every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from snrouter.report import published
from snrouter.report.measures import PUBLISHED, Measure, measures, titled, variant_words
from snrouter.report.number import MISSING, Number, aligned, finite
from snrouter.report.tables import Row, experts, table


@dataclass(frozen=True)
class Column:
    """A column of text, a cell a route.

    Attributes:
        group: the measure it belongs to, or "".
        title: its own heading.
        cells: the text.
        faint: which cells are differences within the error.
        kind: one of "run", "route", "words", "written", "switch", "value", "detail", "difference", "published",
            "published difference", "reference", "cost", "link", whose cells are addresses.
        family: that of its measure, or "".
        n: how many images, samples or repetitions its numbers are of, or "".
    """

    group: str
    title: str
    cells: Sequence[str]
    faint: Sequence[bool] = field(default=())
    kind: str = "value"
    family: str = ""
    n: str = ""

    @property
    def heading(self) -> str:
        """Group and title in one line."""
        return f"{self.group} {self.title}".strip()


def columns(results: Mapping[str, Any]) -> list[Column]:
    """The table as text: route, its switch, each measure with its paired differences, network calls.

    Of several runs combined, the run comes first, and differences, which are paired within a run alone, are left to the run's own.
    """
    rows, known = table(results), measures(results)
    several = "runs" in results
    out, singles = _routes(results, rows), () if several else experts(results)
    if any(row.written for row in rows):
        out.append(Column("", "switch", [row.written or MISSING for row in rows], kind="written"))
    if any(row.switches for row in rows):
        out.append(Column("", "γ switch", [", ".join(f"{g:.4g}" for g in row.switches) or MISSING for row in rows], kind="switch"))
    for measure in known:
        out += _measured(results, measure, rows, singles)
    return out + ([] if several else _unmeasured(results, rows)) + _costs(rows, known)


APART = 3
"""Measures beyond which differences stand in tables of their own, a family each."""


def arranged(results: Mapping[str, Any]) -> list[tuple[str, list[Column]]]:
    """The columns as tables with their titles: one of everything, or of many measures one of values, then their differences."""
    whole = columns(results)
    if len(measures(results)) <= APART:
        return [("", whole)]
    beside = [column for column in whole if column.kind in ("difference", "published", "published difference", "reference")]
    parts = [("", [column for column in whole if column not in beside])]
    routes = [column for column in whole if column.kind in ("run", "route")]
    for family in dict.fromkeys(column.family for column in beside):
        parts.append((family or "Published", [*routes, *(column for column in beside if column.family == family)]))
    return parts


def work(results: Mapping[str, Any]) -> list[Column]:
    """Network calls of each expert for one sample or image, and seconds for all; nothing where none were counted."""
    rows, known = table(results), measures(results)
    names = dict.fromkeys(name for row in results["results"] for name in row.get("nfe_per_expert") or {})
    found, watched = list[Column](), list[tuple[bool, dict[int, Any]]]()
    made = {m: {i: row.rows[m.key] for i, row in enumerate(rows) if m.key in row.rows} for m in known}
    for measure, own in sorted(made.items(), key=lambda pair: (not pair[0].sampled, -len(pair[1]))):
        calls = {i: row["nfe_per_expert"] for i, row in own.items() if row.get("nfe_per_expert")}
        if not calls or any(measure.sampled == sampled and calls.items() <= other.items() for sampled, other in watched):
            continue  # what was not counted, and what was counted for another measure of the same images
        watched.append((measure.sampled, calls))
        group = _watched(measure, known)
        for name in names:
            cells = [_calls(calls.get(i, {}).get(name)) for i in range(len(rows))]
            found += [Column(group, f"calls of {name}", cells)] if {*cells} != {MISSING} else []
        seconds = [finite(own.get(i, {}).get("seconds")) for i in range(len(rows))]
        found.append(Column(group, "seconds", [MISSING if s is None else f"{s:,.1f}" for s in seconds]))
    return [*_routes(results, rows), *found] if found else []


def _routes(results: Mapping[str, Any], rows: Sequence[Row]) -> list[Column]:
    """What heads a row: the route, and its run where there are several."""
    runs = [Column("", "run", [f"{row.run}{' (partial)' if row.partial else ''}" for row in rows], kind="run")]
    return [*(runs if "runs" in results else []), Column("", "route", [row.label for row in rows], kind="route")]


def _watched(measure: Measure, known: Sequence[Measure]) -> str:
    """What network calls were made for."""
    on_data = [other for other in known if not other.sampled]
    return "sampling" if measure.sampled else measure.name if len(on_data) == 1 else measure.title


def _calls(calls: Any) -> str:
    number = finite(calls)
    return f"{number:,.1f}".removesuffix(".0") if number else MISSING


def _measured(results: Mapping[str, Any], measure: Measure, rows: Sequence[Row], singles: Sequence[str]) -> list[Column]:
    group, family = heading(measure), measure.family
    cells = aligned([row.numbers.get(measure.key, Number()) for row in rows], unit=measure.unit)
    out = [Column(group, "", cells, family=family, n=_count(measure, rows))]
    for single in singles:
        differences = [row.differences.get(measure.key, {}).get(single, Number()) for row in rows]
        out += _difference(group, f"minus {single}", measure, differences)
    if "runs" not in results:
        own = [_from_own_interval(row, measure, rows) for row in rows]
        out += _difference(group, "minus the spec's interval", measure, own)
    beside = [] if "runs" in results else _published(results, group, measure, rows)
    return [*out, *(replace(column, family=family) for column in (*_details(group, measure, rows), *beside))]


def _difference(group: str, title: str, measure: Measure, differences: Sequence[Number]) -> list[Column]:
    """A column of paired differences, where there are any."""
    if all(number.value is None for number in differences):
        return []
    cells, faint = aligned(differences, True, measure.unit), [measure.gain(number) == 0 for number in differences]
    return [Column(group, title, cells, faint, "difference", measure.family)]


def _from_own_interval(row: Row, measure: Measure, rows: Sequence[Row]) -> Number:
    """Of a sweep over ends of the interval, the difference from the same route on the interval that the spec has."""
    own = {other.label for other in rows if other.rows.get(measure.key, {}).get("interval") == "the spec's"}
    return next((number for label, number in row.differences.get(measure.key, {}).items() if label in own), Number())


def _count(measure: Measure, rows: Sequence[Row]) -> str:
    """How many its numbers are of, e.g. "400", or where routes differ, "380 to 400"."""
    found = sorted(n for row in rows if (n := finite(row.rows.get(measure.key, {}).get("n"))) is not None)
    return " to ".join(dict.fromkeys(f"{n:,.0f}" for n in (*found[:1], *found[-1:])))


def heading(measure: Measure) -> str:
    """A measure's title, what it is told in, which way is better, and a mark where `notes` has something to say of it."""
    named = ", ".join(filter(None, (measure.title, measure.unit.name)))
    return " ".join(filter(None, (named, measure.arrow, NOTED if measure.note else "")))


NOTED = "†"
"""Marks a measure that has a note."""


def notes(results: Mapping[str, Any]) -> list[str]:
    """What the rows say is to be borne in mind, once for the measures it is said of."""
    said: dict[str, list[str]] = {}
    for measure in measures(results):
        if measure.note:
            said.setdefault(measure.note, []).append(measure.title)
    return [f"{NOTED} {', '.join(titles)}: {note.rstrip('.')}." for note, titles in said.items()]


def _details(group: str, measure: Measure, rows: Sequence[Row]) -> list[Column]:
    """Standard deviations over repetitions or splits, and how many pairs are identical, where rows say."""
    out = []
    for key, title in (("repeat_standard_deviation", "sd over repeats"), ("split_standard_deviation", "sd over splits")):
        found = [finite(row.rows.get(measure.key, {}).get(key)) for row in rows]
        cells = [MISSING if spread is None else f"{spread / measure.unit.size:.2g}" for spread in found]
        out.append(Column(group, title, cells, kind="detail"))
    alike = [finite(row.rows.get(measure.key, {}).get("identical")) for row in rows]
    out.append(Column(group, "identical", [MISSING if count is None else f"{count:,.0f}" for count in alike], kind="detail"))
    return [column for column in out if {*column.cells} != {MISSING}]


def _published(results: Mapping[str, Any], group: str, measure: Measure, rows: Sequence[Row]) -> list[Column]:
    """The published numbers that a measure can be set beside, and the differences from them, or why there is none."""
    own = [row.rows.get(measure.key) for row in rows]
    values = [published.beside(results, row) for row in own]
    if not any(values):
        return []
    differences = [published.difference(results, row, cell) for row, cell in zip(own, values, strict=True)]
    numbers = [
        Number(difference, row.numbers[measure.key].error) if isinstance(difference, float) else Number()
        for difference, row in zip(differences, rows, strict=True)
    ]
    cells = aligned(numbers, True, measure.unit)
    told = [reason if isinstance(reason, str) else cell for reason, cell in zip(differences, cells, strict=True)]
    values = [published.over(cell, measure.unit.size) for cell in values]
    shown = published.decimals(value for cell in values for value in cell)
    return [
        Column(group, "published", [published.text(cell, shown) or MISSING for cell in values], kind="published"),
        Column(group, "minus published", told, [number.sign == 0 for number in numbers], "published difference"),
    ]


def _unmeasured(results: Mapping[str, Any], rows: Sequence[Row]) -> list[Column]:
    """Published numbers that nothing measured can be set beside."""
    out = []
    for (metric, *variant), cells in published.unmeasured(results, [row.label for row in rows]).items():
        shown = published.decimals(value for cell in cells.values() for value in cell)
        texts = [published.text(cells.get(row.label, ()), shown) or MISSING for row in rows]
        group = titled(PUBLISHED.get(metric, metric), variant_words(variant))
        out.append(Column(group, "published, not measured", texts, kind="reference"))
    return out


def _costs(rows: Sequence[Row], known: Sequence[Measure]) -> list[Column]:
    """Network calls in all: of sampling once, and of each measure on data; of measures that see the same images, once."""
    sampled, on_data = [m for m in known if m.sampled], [m for m in known if not m.sampled]
    counted = [("sampling", "", [next(filter(None, map(row.nfe, sampled)), None) for row in rows])]
    counted += [(_watched(measure, known), measure.family, [row.nfe(measure) for row in rows]) for measure in on_data]
    found: dict[tuple[str, tuple[str, ...]], Column] = {}
    for title, family, calls in counted:
        cells = tuple(map(_calls, calls))
        if {*cells} != {MISSING}:
            found.setdefault((family, cells), Column("NFE", title, cells, kind="cost", family="Cost"))
    return list(found.values())
