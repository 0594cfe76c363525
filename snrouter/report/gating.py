"""The section on gating: what the `gating` metric found of which experts a route weights where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snrouter.report import gating_plots, html, plots
from snrouter.report.columns import Column
from snrouter.report.html import Section, section
from snrouter.report.measures import measures
from snrouter.report.number import MISSING, aligned, finite
from snrouter.report.tables import Row, table

_DRAWN = 8
"""Routes whose utilisation is drawn at once; that of others when asked for."""

UTILISATION = (
    "Mean weight of each expert over noisy images, by stretch of the axis, data on the left and noise on the right; σ/α, above, is "
    "the noise-to-signal ratio. Beside its name each expert's load, its mean weight over the whole axis."
)
ENTROPY = (
    "Mean entropy of the weights of one noisy image, in nats: 0 where one expert has all the weight, at the dotted line where all "
    "have the same. Colours here are of routes."
)
VARIATION = (
    "Variation of load: its standard deviation over experts over their mean, 0 where all have the same load; of an even load that "
    "is measured on few images it is not 0, but small."
)

Found = Sequence[tuple[Row, Mapping[str, Any]]]


def gating(results: Mapping[str, Any], prefix: str) -> Section:
    """Utilisation along the axis, entropy and load of every route over several experts; nothing where they were not measured."""
    colours, parts = plots.expert_colours(results), list[str | Section]()
    known = [measure for measure in measures(results) if measure.metric == "gating"]
    for number, measure in enumerate(known):
        found = [(row, row.rows[measure.key]) for row in table(results) if weighted(row.rows.get(measure.key, {}))]
        if not found:
            continue
        own = f"{prefix}-gating{number}"
        drawn = [
            html.figure(gating_plots.utilisation(told, colours, f"{own}-{i}"), f"{row.label}: which expert is weighted where.")
            for i, (row, told) in enumerate(found)
        ]
        curves = gating_plots.entropy({row.label: told for row, told in found}, f"{own}-entropy")
        numbers = aligned([row.numbers[measure.key] for row, _ in found], unit=measure.unit)
        shown = html.table([*_loads(found), Column("", measure.title, numbers)], [row for row, _ in found], colours)
        pictures = [*drawn[:_DRAWN], html.figure(curves, ENTROPY) if curves else ""]
        said = [f'<div class="pair">{"".join(pictures)}</div>', html.folded("Of the other routes", "".join(drawn[_DRAWN:])), shown]
        parts += [section(measure.title, *said)] if len(known) > 1 else said
    return section("Gating", *parts, note=html.typeset(f"{UTILISATION} {VARIATION}"))


def weighted(row: Mapping[str, Any]) -> bool:
    """Whether a result row tells the weights of several experts."""
    return len(row.get("load") or {}) > 1 and bool(row.get("utilisation")) and bool(row.get("gammas"))


def _loads(found: Found) -> list[Column]:
    """The load of each expert, and the mean entropy."""
    names = dict.fromkeys(name for _, told in found for name in told["load"])
    columns = [Column("", "route", [row.label for row, _ in found], kind="route")]
    columns += [Column("load", name, [share(told["load"].get(name)) for _, told in found]) for name in names]
    means = [mean(told.get("entropy") or []) for _, told in found]
    return [*columns, Column("", "entropy, nats", [MISSING if x is None else f"{x:.3f}" for x in means])]


def share(value: Any) -> str:
    """E.g. "25.3%"."""
    known = finite(value)
    return MISSING if known is None else f"{known:.1%}"


def mean(values: Sequence[Any]) -> float | None:
    """Mean of those that are numbers; None where none is."""
    known = [number for value in values if (number := finite(value)) is not None]
    return sum(known) / len(known) if known else None
