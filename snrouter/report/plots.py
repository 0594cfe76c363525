"""Plots of a run's rows: likelihood against quality, and each measure along the switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from snrouter.report.labels import Point, annotate, short
from snrouter.report.measures import HIGHER, Measure, measures
from snrouter.report.number import Number
from snrouter.report.svg import EXPERTS, INK, LINES, MUTED, STYLE, canvas, svg
from snrouter.report.tables import SIGNS, Row, experts, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = ("s", "D", "^", "v", "P", "X", "<", ">")

_FAR = 2.0
"""A route that is farther than this many ranges of all others, in both numbers, is told and not drawn."""

_NEAR = 0.08
"""Lines that are nearer than this part of all values have their labels beside one another."""


def expert_colours(results: Mapping[str, Any]) -> dict[str, int]:
    """Number of the colour of each expert, the low-noise one first."""
    route = (results.get("spec") or {}).get("route") or {}
    named = [route[end] for end in ("low", "high") if end in route] + list((results.get("tune") or {}).get("experts", ()))
    weighted = [name for row in results["results"] for name in row.get("utilisation") or {}]
    return {label: i % len(EXPERTS) for i, label in enumerate(dict.fromkeys([*named, *experts(results), *weighted]))}


def swept(results: Mapping[str, Any]) -> str:
    """What a sweep goes along, of several what takes the most values: "eta", where there is none, "gamma_min" or "gamma_max"."""
    taken = [row.positions for row in table(results)]
    return max(SIGNS, key=lambda key: len({values[key] for values in taken if key in values}))


def axes_of(results: Mapping[str, Any]) -> tuple[Measure, Measure] | None:
    """What the trade-off is between: the first likelihood, and the Fréchet distance or else the first quality."""
    known = [measure for measure in measures(results) if measure.better]
    likelihood = [measure for measure in known if measure.family == "Likelihood"]
    quality = sorted((m for m in known if m.family == "Quality"), key=lambda measure: measure.metric != "fid")
    return (likelihood[0], quality[0]) if likelihood and quality else None


def trade_off(results: Mapping[str, Any], prefix: str) -> str | None:
    """Likelihood against quality, with error bars, frontier and chosen route; None unless two routes have both."""
    import matplotlib as mpl

    both = axes_of(results)
    if both is None:
        return None
    x, y = both
    rows = _measured(table(results), x, y)
    if len(rows) < 2:
        return None
    points, beyond = _in_view([(row, Number(*_known(row, x)), Number(*_known(row, y))) for row in rows])
    with mpl.rc_context(STYLE):
        figure, axes = canvas(4.9, 3.9)
        if beyond:
            told = "\n".join(f"beyond: {short(row.label)} at {dx.value:.4g}, {dy.value:.4g}" for row, dx, dy in beyond)
            axes.set_title(told, fontsize=8.5, color=MUTED, loc="right")
        _frontier(axes, points, results)
        for point in points:
            _point(axes, *point, results)
        axes.set_xlabel(_direction(x))
        axes.set_ylabel(_direction(y))
        axes.margins(0.08, 0.1)
        annotate(figure, axes, points)
        return svg(figure, prefix)


def close_up(results: Mapping[str, Any], prefix: str) -> str | None:
    """The trade-off as paired differences from the expert that is better in each, near the frontier.

    A route better in both beats both experts. None unless two experts alone were evaluated, with paired errors.
    """
    import matplotlib as mpl

    both = axes_of(results)
    rows, front = table(results), {point["label"] for point in results.get("frontier") or []}
    if both is None:
        return None
    x, y = both
    singles = [row for row in _measured(rows, x, y) if row.single]
    if len(singles) < 2:
        return None
    across, up = (min(singles, key=lambda row: m.loss(_known(row, m)[0])).label for m in (x, y))
    points = []
    for row in rows:
        dx, dy = row.differences.get(x.key, {}).get(across), row.differences.get(y.key, {}).get(up)
        if dx and dy and dx.error is not None and dy.error is not None and not row.single:
            points.append((row, dx.over(x.unit.size), dy.over(y.unit.size)))
    near = [point for point in points if point[0].best or point[0].label in front]
    if not near:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = canvas(4.9, 3.9)
        axes.axvline(0, color=EXPERTS[expert_colours(results)[across]], linewidth=1.4)
        axes.axhline(0, color=EXPERTS[expert_colours(results)[up]], linewidth=1.4)
        _frontier(axes, points, results)
        for point in points:
            _point(axes, *point, results)
        axes.set_xlim(*_window([dx for _, dx, _ in near]))
        axes.set_ylim(*_window([dy for _, _, dy in near]))
        axes.set_xlabel(_named(x, f" minus that of {short(across)}"))
        axes.set_ylabel(_named(y, f" minus that of {short(up)}"))
        annotate(figure, axes, points)
        return svg(figure, prefix)


def _window(numbers: Sequence[Number]) -> tuple[float, float]:
    """Limits that hold zero and three errors around each number, and some of what is beyond."""
    ends = [
        0.0,
        *(n.value + side * 3 * n.error for n in numbers if n.value is not None and n.error is not None for side in (-1, 1)),
    ]
    margin = 0.15 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def curve(results: Mapping[str, Any], measure: Measure, prefix: str) -> str | None:
    """One measure along a sweep, a line for each value of what else is swept.

    Single experts are lines with bands of a standard error. None with fewer than two routes along it, or where all of them and the
    experts are equal.
    """
    import matplotlib as mpl

    rows = _measured(table(results), measure)
    key = swept(results)
    along = [row for row in rows if key in row.positions]
    if len({row.positions[key] for row in along}) < 2:
        return None
    colours = expert_colours(results)
    etas = [row.positions[key] for row in along]
    levels = [_known(row, measure)[0] for row in rows]
    if (max(levels) - min(levels)) * measure.unit.size < (measure.unit.finest or 0.0) or max(levels) == min(levels):
        return None
    taken = list[tuple[float, float]]()
    values = [_known(row, measure)[0] for row in along]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(4.9, 3.3)
        for row in (row for row in rows if row.single):
            value, error = _known(row, measure)
            colour = EXPERTS[colours[row.label]]
            axes.axhspan(value - error, value + error, color=colour, alpha=0.14, linewidth=0)
            axes.axhline(value, color=colour, linewidth=1.4)
            near = [start for start, level in taken if abs(level - value) < _NEAR * (max(levels) - min(levels))]
            start = _room(etas, values, value, near)
            taken.append((start, value))
            place: Any = ("axes fraction", "data")
            text = f"{short(row.label)} alone"
            label = axes.annotate(text, (start, value), (0, 3.5), place, "offset points", color=colour, fontsize=8.5)
            label.set_in_layout(False)
        lines = _lines(along, key)
        for i, (said, members) in enumerate(lines.items()):
            points = sorted((row.positions[key], *_known(row, measure)) for row in members)
            look: Any = {"linestyle": LINES[i % len(LINES)], "marker": "osD^v"[i % 5], "markersize": 4, "label": said}
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(x, y, spread, color=INK, ecolor=MUTED, elinewidth=0.9, linewidth=1.2, **look)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8.5)
        for row, eta, value in zip(along, etas, values, strict=True):
            if row.best:
                axes.plot([eta], [value], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)
        axes.set_xlabel({"eta": "η, position of the switch"}.get(key, f"{SIGNS[key]}, end of the interval"))
        axes.set_ylabel(_direction(measure))
        axes.locator_params(nbins=7)
        axes.margins(0.06, 0.1)
        return svg(figure, prefix)


def _lines(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Routes of a sweep by what else than `key` they are called by."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        others = (f"{SIGNS[other]} = {value:.3g}" for other, value in row.positions.items() if other != key)
        found.setdefault(", ".join(others), []).append(row)
    return found


def _in_view(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points to draw, and those that are so far away that all others would be one spot."""
    seen, beyond = list(points), list[Point]()
    for point in (point for point in points if not point[0].best):
        others = [other for other in seen if other is not point]
        if len(others) > 2 and all(_away(point, others, i) > _FAR for i in (1, 2)):
            seen, beyond = others, [*beyond, point]
    return seen, beyond


def _away(point: Point, others: Sequence[Point], axis: Literal[1, 2]) -> float:
    """How far a point is from the others, in their own range."""
    values = [other[axis].value or 0.0 for other in others]
    low, high, own = min(values), max(values), point[axis].value or 0.0
    return max(low - own, own - high) / (high - low or 1.0)


def _frontier(axes: Axes, points: Sequence[Point], results: Mapping[str, Any]) -> None:
    front = {point["label"] for point in results.get("frontier") or []}
    corners: Any = sorted((x.value, y.value) for row, x, y in points if row.label in front)
    if len(corners) > 1:
        style: Any = {"drawstyle": "steps-post", "linestyle": (0, (4, 2))}
        axes.plot(*zip(*corners, strict=True), color=INK, linewidth=1.1, zorder=2, **style)


def _point(axes: Axes, row: Row, x: Number, y: Number, results: Mapping[str, Any]) -> None:
    colour, marker, size = INK, "o", 4.0
    if row.single:
        number = expert_colours(results)[row.label]
        colour, marker, size = EXPERTS[number], _MARKERS[number], 8.0
    at: Any = ([x.value], [y.value])
    bars: Any = {"xerr": [x.error], "yerr": [y.error]}
    axes.errorbar(*at, **bars, color=colour, alpha=0.35, linewidth=0.9, zorder=1)
    axes.plot(*at, marker, color=colour, markersize=size, zorder=3)
    if row.best:
        axes.plot(*at, "o", markersize=12, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4, zorder=4)


def _room(etas: Sequence[float], values: Sequence[float], level: float, taken: Sequence[float]) -> float:
    """Where along a horizontal line, as a fraction of the axis, a label stands farthest from the curve, and on no other label."""
    starts = [start for start in (0.02, 0.38, 0.72) if start not in taken] or [0.02]
    span = max(etas) - min(etas)

    def nearest(start: float) -> float:
        under = min(etas) + span * np.linspace(start, start + 0.28, 15)
        return float(np.abs(np.interp(under, etas, values) - level).min())

    return max(starts, key=nearest)


def _named(measure: Measure, more: str = "") -> str:
    """What an axis is called, its variant on a line of its own."""
    named = ", ".join(filter(None, (measure.name, measure.unit.name)))
    return "\n".join(filter(None, (named + more, measure.title.removeprefix(measure.name).strip())))


def _direction(measure: Measure) -> str:
    return _named(measure, f", {measure.better} is better" if measure.better else "")


def corner(x: Measure, y: Measure) -> str:
    """Where the better routes are, e.g. "lower left"."""
    return f"{'upper' if y.better == HIGHER else 'lower'} {'right' if x.better == HIGHER else 'left'}"


def _measured(rows: Sequence[Row], *measures: Measure) -> list[Row]:
    return [row for row in rows if all(row.numbers.get(measure.key, Number()).value is not None for measure in measures)]


def _known(row: Row, measure: Measure) -> tuple[float, float]:
    number = row.numbers[measure.key].over(measure.unit.size)
    return number.value or 0.0, number.error or 0.0
