"""The section on memorisation and leakage: what the `nearest_neighbour` metric found, in words and beside its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snrouter.report import html, plots
from snrouter.report.columns import Column
from snrouter.report.folder import Folder
from snrouter.report.gallery import beside
from snrouter.report.html import Section, section
from snrouter.report.measures import Measure, measures
from snrouter.report.number import MISSING, SIGNIFICANT, Number, aligned, finite
from snrouter.report.tables import Row, table

_TOLD = 3
"""Routes that are named in a sentence."""

_PAIRS = "Samples that are most like a training image, and below each that image:"

Rows = Sequence[tuple[Row, Mapping[str, Any]]]


def memorisation(folder: Folder, share: float) -> Section:
    """Words, a table and pairs of images; nothing where nearest neighbours were not looked for."""
    found = {m: _rows(folder.results, m) for m in measures(folder.results) if m.metric == "nearest_neighbour"}
    whole = [sentence for rows in found.values() for sentence in (*_copies(rows, "exact"), *_overlap(rows))]
    parts: list[str | Section] = [_listed(dict.fromkeys(whole))]
    for measure, rows in found.items():
        shown = html.table(_columns(measure, rows), [row for row, _ in rows], plots.expert_colours(folder.results))
        told = [_listed([*_copies(rows, "near"), *_distances(rows)]), shown]
        parts += [section(measure.title, *told)] if len(found) > 1 else told
    pairs = beside(folder, "nearest_neighbour", _PAIRS, share) if found else ""
    return section("Memorisation and leakage", *parts, pairs)


def _rows(results: Mapping[str, Any], measure: Measure) -> Rows:
    return [(row, row.rows[measure.key]) for row in table(results) if measure.key in row.rows]


def _listed(sentences: Iterable[str]) -> str:
    said = "".join(f"<li>{html.typeset(sentence)}</li>" for sentence in sentences)
    return f'<ul class="lede">{said}</ul>' if said else ""


def _copies(rows: Rows, kind: str) -> list[str]:
    """Copies of training images among the samples: exact, of whatever features, or near ones."""
    counts = {row.label: finite(own.get(f"{kind}_copies")) for row, own in rows}
    if all(count is None for count in counts.values()):
        return []
    told = ", ".join(f"{count:g} of {_n(rows, label)} for {label}" for label, count in counts.items() if count)
    return [f"{kind.capitalize()} copies of training images among the samples: {told or 'none'}."]


def _distances(rows: Rows) -> list[str]:
    """Samples nearer to the training images than unseen images are, or not."""
    parts: dict[str, float] = {}
    nearer: list[str] = []
    for row, own in rows:
        distance, unseen = finite(own.get("value")), finite(own.get("test_distance"))
        if distance is None or not unseen:
            continue
        parts[row.label] = distance / unseen
        errors = [finite(own.get(key)) or 0.0 for key in ("standard_error", "test_standard_error")]
        if unseen - distance > SIGNIFICANT * math.hypot(*errors):
            nearer.append(row.label)
    if not parts:
        return []
    if not nearer:
        return ["On average, samples are as far from the training images as unseen images are, or farther."]
    nearer.sort(key=lambda label: parts[label])
    told = ", ".join(f"{label} ({parts[label]:.0%} of their distance)" for label in nearer[:_TOLD])
    more = f" and {len(nearer) - _TOLD} more of {len(parts)} routes" if len(nearer) > _TOLD else ""
    others = "; the samples of the others are as far, or farther" if len(nearer) < len(parts) else ""
    return [f"On average nearer to the training images than unseen images are: samples of {told}{more}{others}."]


def _overlap(rows: Rows) -> list[str]:
    """What the data share with the training images, which no route changes."""
    own = rows[0][1]
    exact, near = finite(own.get("overlap_exact")), finite(own.get("overlap_near"))
    if exact is None or near is None:
        return []
    if not exact and not near:
        return ["No image of the data is in the training set, exactly or nearly."]
    return [
        f"Of the images of the data, {exact:g} are also in the training set, and {near:g} more are near copies of images there."
    ]


def _columns(measure: Measure, rows: Rows) -> list[Column]:
    routes = [row for row, _ in rows]
    unseen = [Number(finite(own.get("test_distance")), finite(own.get("test_standard_error"))) for _, own in rows]
    part = [finite(own.get("copies")) for _, own in rows]
    return [
        Column("", "route", [row.label for row in routes], kind="route"),
        Column(measure.title, "samples", aligned([row.numbers[measure.key] for row in routes], unit=measure.unit)),
        Column(measure.title, "unseen images", aligned(unseen, unit=measure.unit)),
        Column("copies among samples", "exact", [_count(own.get("exact_copies")) for _, own in rows]),
        Column("copies among samples", "near", [_count(own.get("near_copies")) for _, own in rows]),
        Column("as near as 1 in 100 unseen images", "1% expected", [MISSING if p is None else f"{p:.1%}" for p in part]),
    ]


def _count(value: Any) -> str:
    number = finite(value)
    return MISSING if number is None else f"{number:,.0f}"


def _n(rows: Rows, label: str) -> str:
    return next(_count(own.get("n")) for row, own in rows if row.label == label)
