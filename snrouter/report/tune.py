"""The sections of a tune: its routes, what each expert errs by along the axis, what was chosen, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snrouter.report import axis_plots, html
from snrouter.report.advice import Tune, number, path
from snrouter.report.columns import Column
from snrouter.report.html import Section, section
from snrouter.report.measures import PUBLISHED
from snrouter.report.number import MISSING, SIGNIFICANT, Number, aligned
from snrouter.report.plots import expert_colours
from snrouter.report.tables import SIGNS, Row
from snrouter.report.wording import choice

_PAIRS = 3
"""Pairs of experts whose thresholds are drawn, at most."""

_LITTLE = 0.01
"""A pair whose switch gains less than this part of what the best pair's does is not drawn."""

_SEAMS = (
    "More seams are taken only where they are better than fewer by more than 1 standard error of the paired difference on images "
    "held out (cross-validation, within the images that routes are chosen on), and by more than 3.5, 0.25 more for each further "
    "seam, on all those that they are chosen on."
)

_ALONG = ("eta", "gamma", "value", "standard_error")


@dataclass(frozen=True)
class Sheet:
    """A table of a tune, the same in every format; false where it has no rows.

    Attributes:
        title: its heading.
        note: what stands before it.
        rows: labels, and which is marked.
        columns: the first heads the rows.
    """

    title: str
    note: str
    rows: Sequence[Row]
    columns: Sequence[Column]

    def __bool__(self) -> bool:
        return bool(self.rows)


def sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """The tables of a tune that have rows; none where nothing was tuned."""
    tune = results.get("tune")
    return [sheet for make in (_routes, _seams, _ends, _rounds) if (sheet := make(tune))] if tune else []


def tuned(results: Mapping[str, Any], prefix: str) -> list[Section]:
    """What the page says of a tune; nothing where nothing was tuned."""
    tune = results.get("tune")
    if not tune:
        return []
    colours, routes = expert_colours(results), _routes(tune)
    rule = choice(results)
    return [
        _part(
            replace(routes, note=f"{routes.note} Chosen: {rule}.") if rule else routes,
            colours,
            axis_plots.routes(tune, colours, f"{prefix}-routes"),
            _BARS,
        ),
        _along(tune, colours, prefix),
        _part(_seams(tune), colours, axis_plots.seams(tune, f"{prefix}-seams"), _RINGED),
        _part(_ends(tune), colours, axis_plots.ends(tune, f"{prefix}-ends"), _RINGED),
        _part(_rounds(tune), colours),
    ]


_BARS = (
    "Which expert runs where, data on the left and noise on the right; σ/α, above, is the noise-to-signal ratio. To the right of "
    "each label its bits/dim. Outlined: the chosen route."
)
_RINGED = "The ring marks the choice. Bars are one standard error."


def _part(sheet: Sheet, colours: Mapping[str, int], plot: str | None = None, caption: str = "") -> Section:
    if not sheet:
        return section(sheet.title)
    shown, drawn = html.table(sheet.columns, sheet.rows, colours), html.figure(plot, caption) if plot else ""
    narrow = all(column.kind != "words" for column in sheet.columns)
    parts = [f'<div class="pair">{drawn}{shown}</div>'] if drawn and narrow else [drawn, shown]
    return section(sheet.title, *parts, note=html.typeset(sheet.note))


def _along(tune: Tune, colours: Mapping[str, int], prefix: str) -> Section:
    """The plots of the profile: errors, what they cost, and thresholds."""
    strip = "Dotted: the chosen route's switches; its experts' colours stand along the lower edge."
    plots = [
        (axis_plots.errors(tune, colours, f"{prefix}-errors"), f"What each expert errs by. Bands are one standard error. {strip}"),
        (
            axis_plots.excess(tune, colours, f"{prefix}-excess"),
            "What an expert costs above the lowest one there: the area below its curve is bits/dim. What is far above is cut off.",
        ),
    ]
    for i, pair in enumerate(_contested(tune)):
        caption = (
            f"One switch, {pair['low']} below it and {pair['high']} above: {_best(pair)}. The band is one standard error of each "
            "value, far wider than that of their differences. Dashed: the chosen route, on the same images."
        )
        plots.append((axis_plots.threshold(tune, pair, colours, f"{prefix}-pair{i}"), caption))
    drawn = "".join(html.figure(svg, caption) for svg, caption in plots if svg)
    cells = len((tune.get("profile") or {}).get("gamma") or [])
    note = f"Measured in {cells} cells of the axis: every image at one noise level of each, with the same noise for all experts."
    return section("Along the noise axis", f'<div class="pair">{drawn}</div>' if drawn else "", note=note)


def _contested(tune: Tune) -> list[Mapping[str, Any]]:
    """The pairs that some switch within is better for than either expert alone, the best first; or else the best one."""
    gains: list[tuple[float, float, Mapping[str, Any]]] = []
    for pair in tune.get("thresholds") or []:
        known = [value for value in pair["value"] if value is not None]
        if known:
            gains.append((min(known), min(known[0], known[-1]) - min(known), pair))
    gains.sort(key=lambda made: made[:2])
    most = max((gain for _, gain, _ in gains), default=0.0)
    within = [pair for _, gain, pair in gains if gain > _LITTLE * most]
    return (within or [pair for *_, pair in gains[:1]])[:_PAIRS]


def _best(pair: Mapping[str, Any]) -> str:
    """The lowest of a pair's thresholds, e.g. "the lowest is 1.7581 ± 0.0140, at η = 0.21 (γ = -5.2)"."""
    known = [
        (n, eta, gamma)
        for eta, gamma, value, error in zip(*(pair[k] for k in _ALONG), strict=True)
        if (n := Number(value, error)).value
    ]
    best, eta, gamma = min(known, key=lambda made: made[0].value or 0.0)
    return f"the lowest is {best.text()} at η = {eta:.2f} (γ = {gamma:.2f})"


# --- tables ----------------------------------------------------------------------------------------------------------


def _routes(tune: Tune) -> Sheet:
    told = tune.get("routes") or []
    labels = [route["label"] for route in told]
    beaten = {
        gone["label"]: f", beaten by {gone['beaten_by']}"
        for turn in (tune.get("quality") or {}).get("rounds") or []
        for gone in turn.get("dropped") or []
    }
    fates = [
        f"after {route['dropped_after']:,}{beaten.get(route['label'], '')}" if route.get("dropped_after") else MISSING
        for route in told
    ]
    columns = [
        Column("", "route", labels, kind="route"),
        Column("", "experts", [path(route["pieces"]) for route in told], kind="words"),
        Column("", "bits/dim ↓", aligned([number(route.get("bpd")) for route in told])),
        _differences("minus chosen", told),
        *([Column("", "dropped", fates, kind="words")] if {*fates} - {MISSING} else []),
    ]
    scored = (tune.get("images") or {}).get("scored_on")
    where = f" of the {scored} images that none was chosen on" if scored else ""
    note = f"bits/dim: the VLB{where}, in one pass over the experts; differences are paired."
    return Sheet("Routes", note, [_row(label, tune, route["chosen"]) for label, route in zip(labels, told, strict=True)], columns)


def _seams(tune: Tune) -> Sheet:
    told = tune.get("seams") or []
    labels, above = [str(row["seams"]) for row in told], [number(row.get("excess")) for row in told]
    above = [n if n.error else Number() for n in above]  # the best is not above itself
    columns = [
        Column("", "seams", labels, kind="route"),
        Column("", "bits/dim, cross-validated ↓", aligned([number(row) for row in told])),
        Column("", "above the best", aligned(above, signed=True), [n.sign == 0 for n in above]),
    ]
    optimism, note = number(tune.get("optimism")), _SEAMS
    if optimism.value:
        splits = tune["optimism"].get("splits")
        over = f", on average over {splits} random splits" if splits else ""
        note += f" Optimism, by how much a route does better where it was chosen than elsewhere: {optimism.text()} bits/dim{over}."
    return Sheet("Seams", note, [_row(label, tune, row["chosen"]) for label, row in zip(labels, told, strict=True)], columns)


def _ends(tune: Tune) -> Sheet:
    told, images = tune.get("ends") or [], (tune.get("exact") or {}).get("images")
    first = f"the first {images} images" if images else "the first images"
    labels = [f"{row['gamma_min']:g} to {row['gamma_max']:g}" for row in told]
    columns = [
        Column("", f"{SIGNS['gamma_min']} to {SIGNS['gamma_max']}", labels, kind="route"),
        Column("", "bits/dim (VLB) ↓", aligned([number(row) for row in told])),
        _differences("minus chosen", told),
        Column("", f"exact ODE, {first}", aligned([number(row.get("exact")) for row in told])),
    ]
    note = (
        f"Each with the best route on it, chosen and scored as the others. The exact ODE is of the chosen route on {first} alone, "
        "which differ from those of the VLB."
    )
    return Sheet(
        "Ends of the interval", note, [_row(label, tune, row["chosen"]) for label, row in zip(labels, told, strict=True)], columns
    )


def _rounds(tune: Tune) -> Sheet:
    quality = tune.get("quality") or {}
    told, metric = quality.get("rounds") or [], quality.get("metric", "")
    told = told if len(told) > 1 else []  # of one round of all, nothing was dropped
    labels = [f"{turn['samples']:,}" for turn in told]
    gone = [", ".join(_beaten(out, metric) for out in turn.get("dropped") or []) or "none" for turn in told]
    columns = [
        Column("", "samples", labels, kind="route"),
        Column("", "routes", [str(len(turn["routes"])) for turn in told]),
        Column("", "dropped", gone, kind="words"),
    ]
    note = (
        f"A route is dropped when another is better in both bits/dim and {PUBLISHED.get(metric, metric)} by more than "
        f"{SIGNIFICANT:g} paired standard errors; the likelihood's own route and the expert of the best quality stay."
    )
    return Sheet("Quality, round by round", note, [_row(label, tune, False) for label in labels], columns)


def _beaten(out: Mapping[str, Any], metric: str) -> str:
    """A dropped route, the one that beats it, and by how much."""
    by = {name: number(told).text(signed=True) for name, told in (out.get("difference") or {}).items()}
    names = {"bpd": "bits/dim", metric: PUBLISHED.get(metric, metric)}
    said = ": " + ", ".join(f"{names.get(name, name)} {text}" for name, text in by.items()) if by else ""
    return f"{out['label']} (by {out['beaten_by']}{said})"


def _differences(title: str, told: Sequence[Mapping[str, Any]]) -> Column:
    """Paired differences to what was chosen, which has none to itself."""
    numbers = [Number() if row["chosen"] else number(row.get("difference")) for row in told]
    return Column("", title, aligned(numbers, signed=True), [n.sign == 0 for n in numbers])


def _row(label: str, tune: Tune, chosen: bool) -> Row:
    return Row(label, "single" if label in tune["experts"] else "", None, (), "", chosen, {}, {}, {})
