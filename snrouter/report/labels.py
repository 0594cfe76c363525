"""Labels of points in a plot: beside their points, or tied to them by a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from snrouter.report.number import Number
from snrouter.report.svg import MUTED
from snrouter.report.tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Point = tuple[Row, Number, Number]
"""A route, and where it stands."""

Spot = tuple[float, float]
"""A place, or a way, in points."""

_BESIDE = ((10, 3), (-10, 3), (10, -14), (-10, -14))
"""Where a label may stand beside its point, in points, the favourite first."""

_APART = tuple((x, y) for far in (18, 36, 54, 72) for y in (far, -far - 9) for x in (12, -12, 2 * far, -2 * far))
"""Where a label may stand with a line to its point."""


def annotate(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Name the chosen route, the experts, and of the other routes in view those with room around them.

    A label beside its point is nearer to it than to any other. The chosen route and the experts have a line to their label where
    there is no such place.
    """
    from matplotlib.transforms import Bbox

    axes.locator_params(nbins=6)
    figure.draw_without_rendering()
    values: Any = [(x.value, y.value) for _, x, y in points]
    spots = [(float(px), float(py)) for px, py in axes.transData.transform(values)]
    sizes = [8 if row.best else 4 for row, _, _ in points]
    taken = [Bbox.from_bounds(px - r, py - r, 2 * r, 2 * r) for (px, py), r in zip(spots, sizes, strict=True)]
    order = sorted(zip(points, spots, strict=True), key=lambda pair: (not pair[0][0].best, not pair[0][0].single))
    for (row, x, y), spot in order:
        named, text = row.best or row.single, row.position or short(row.label)
        found = _place(axes.bbox, spot, len(text) * (6.0 if named else 4.6), spots, taken, named)
        if found is None or not axes.bbox.contains(*spot):
            continue
        (dx, dy), label = found
        taken.append(label)
        middle = (spot[0] + label.x0 + label.width / 2) / 2, (spot[1] + label.y0 + 4.5) / 2
        taken += [Bbox.from_bounds(*middle, 1, 1)] if (dx, dy) in _APART else []  # of its line
        style: dict[str, Any] = {"fontweight": "bold"} if row.best else {} if row.single else {"color": MUTED, "fontsize": 8}
        if (dx, dy) in _APART:
            style["arrowprops"] = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5}
        at: Any = (x.value, y.value)
        side = "right" if dx < 0 else "left"
        axes.annotate(text, at, (dx, dy), textcoords="offset points", ha=side, va="bottom", **style).set_in_layout(False)


def _place(
    frame: Bbox, spot: Spot, width: float, spots: Sequence[Spot], taken: Sequence[Bbox], apart: bool
) -> tuple[Spot, Bbox] | None:
    """Where a label goes, from its point, and what it covers; None where there is no room."""
    from matplotlib.transforms import Bbox

    others, found = [other for other in spots if other != spot], list[tuple[Spot, Bbox]]()
    for dx, dy in (*_BESIDE, *_APART) if apart else _BESIDE:
        label = Bbox.from_bounds(spot[0] + dx - (width if dx < 0 else 0), spot[1] + dy, width, 9)
        inside = frame.x0 < label.x0 and label.x1 < frame.x1 and frame.y0 < label.y0 and label.y1 < frame.y1
        clear = inside and not any(map(label.overlaps, taken))
        if clear and ((dx, dy) in _APART or all(_gap(label, spot) < _gap(label, other) for other in others)):
            found.append(((dx, dy), label))
    return min(found, key=lambda place: _crossed(spot, place[0], place[1], taken), default=None)


def _crossed(spot: Spot, offset: Spot, label: Bbox, taken: Sequence[Bbox]) -> int:
    """How many points and labels a line to the label would cross."""
    from matplotlib.path import Path

    line = Path([spot, ((label.x0 + label.x1) / 2, (label.y0 + label.y1) / 2)])
    return sum(line.intersects_bbox(box) for box in taken if not box.contains(*spot)) if offset in _APART else 0


def _gap(label: Bbox, spot: Spot) -> float:
    """How far a label is from a point."""
    x, y = spot
    return float(np.hypot(max(label.x0 - x, 0.0, x - label.x1), max(label.y0 - y, 0.0, y - label.y1)))


def short(label: str) -> str:
    """A label that is not too long for a plot."""
    return label if len(label) <= 20 else f"{label[:19]}…"
