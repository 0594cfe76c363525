"""Plots along the noise axis, of what a tune measured there: errors, routes, thresholds, ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from snrouter.report.advice import Tune, number
from snrouter.report.profile import curves
from snrouter.report.svg import EXPERTS, INK, LINES, MUTED, PAPER, STYLE, canvas, svg
from snrouter.report.tables import SIGNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Colours = Mapping[str, int]
"""Number of the colour of each expert."""

_WIDTH = 4.9
_LETTER = 5.2
"""Points that a letter in a bar takes."""
_DECADES = 1.5
"""A range of more is drawn by its logarithm."""


def routes(tune: Tune, colours: Colours, prefix: str) -> str | None:
    """Which expert each route runs where: a bar a route, the chosen one outlined."""
    import matplotlib as mpl

    shown = [route for route in tune.get("routes") or [] if route.get("pieces")]
    if not shown:
        return None
    low, high = _reach(tune)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 0.8 + 0.47 * len(shown))
        axes.set_xlim(low, high)
        axes.set_ylim(len(shown) - 0.6, -0.72)
        for i, route in enumerate(shown):
            _bar(axes, i, route, colours, (low, high))
        axes.set_yticks([])
        axes.grid(False)
        axes.spines["left"].set_visible(False)
        on_gamma(axes)
        _key(figure, _ordered(tune, [piece["expert"] for route in shown for piece in route["pieces"]]), colours)
        return svg(figure, prefix)


def _bar(axes: Axes, i: int, route: Mapping[str, Any], colours: Colours, reach: tuple[float, float]) -> None:
    """A bar in the experts' colours, their names in it where there is room; above it label and bits/dim."""
    low, high = reach
    dropped = route.get("dropped_after")
    look: Any = {"fontsize": 8.5, "fontweight": "bold" if route["chosen"] else "normal", "color": MUTED if dropped else INK}
    axes.text(low, i - 0.27, route["label"] + (", chosen" if route["chosen"] else ""), **look)
    axes.text(high, i - 0.27, f"dropped after {dropped:,}" if dropped else number(route.get("bpd")).text(), ha="right", **look)
    for piece in route["pieces"]:
        name, start, end = piece["expert"], max(piece["from"], low), min(piece["to"], high)
        if start >= end:
            continue
        fill: Any = {"color": EXPERTS[colours.get(name, 0)], "edgecolor": PAPER, "alpha": 0.4 if dropped else 1.0}
        axes.barh(i, end - start, 0.36, start, linewidth=1.0, **fill)
        if len(name) * _LETTER < (end - start) / (high - low) * _WIDTH * 72 and not dropped:
            axes.text((start + end) / 2, i + 0.01, name, color=PAPER, fontsize=8, ha="center", va="center")
    if route["chosen"]:
        start, end = max(route["pieces"][0]["from"], low), min(route["pieces"][-1]["to"], high)
        axes.barh(i, end - start, 0.36, start, fill=False, edgecolor=INK, linewidth=1.6, clip_on=False)


def errors(tune: Tune, colours: Colours, prefix: str) -> str | None:
    """Each expert's mean squared error of eps along gamma, with bands of a standard error, above the chosen route's bar."""
    import matplotlib as mpl

    gamma, found = curves(tune)
    if not found:
        return None
    whole = np.concatenate([value for value, _ in found.values()])
    whole = whole[np.isfinite(whole) & (whole > 0)]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 3.6)
        if math.log10(whole.max() / whole.min()) > _DECADES:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        for name, (value, error) in found.items():
            colour, dashes = _look(name, colours)
            axes.plot(gamma, value, color=colour, linestyle=dashes, linewidth=1.5)
            below = np.maximum(value - error, whole.min() / 2)
            axes.fill_between(gamma, below, value + error, color=colour, alpha=0.16, linewidth=0)
        axes.set_ylim(whole.min() * 0.7, whole.max() * 1.3)
        axes.set_ylabel("mean squared error of ε,\nper dimension")
        _chosen(axes, tune, colours)
        on_gamma(axes)
        _key(figure, _ordered(tune, found), colours, dashed=True)
        return svg(figure, prefix)


def excess(tune: Tune, colours: Colours, prefix: str) -> str | None:
    """What each expert costs above the lowest one there, in bits/dim for each unit of gamma: the area below is bits/dim.

    None with fewer than two experts. What is far above the contest is cut off.
    """
    import matplotlib as mpl

    gamma, found = curves(tune)
    if len(found) < 2:
        return None
    whole = np.stack([value for value, _ in found.values()]) / (2 * math.log(2))
    above = whole - np.nanmin(np.where(np.isnan(whole).all(0), 0.0, whole), axis=0)
    ranked = np.sort(np.where(np.isnan(above), np.inf, above), axis=0)[1]
    top = 1.5 * float(np.quantile(ranked[np.isfinite(ranked)], 0.9)) if np.isfinite(ranked).any() else 0.0
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 3.6)
        for name, value in zip(found, above, strict=True):
            colour, dashes = _look(name, colours)
            axes.plot(gamma, value, color=colour, linestyle=dashes, linewidth=1.5)
        axes.set_ylim(-0.04 * (top or 1.0), top or 1.0)
        axes.set_ylabel("bits/dim per unit of γ,\nabove the lowest")
        _chosen(axes, tune, colours)
        on_gamma(axes)
        _key(figure, _ordered(tune, found), colours, dashed=True)
        return svg(figure, prefix)


def threshold(tune: Tune, pair: Mapping[str, Any], colours: Colours, prefix: str) -> str:
    """The VLB of every threshold between two experts, with a band of a standard error, beside the chosen route's."""
    import matplotlib as mpl

    etas, gammas, values, spread = (np.array(pair[key], float) for key in ("eta", "gamma", "value", "standard_error"))
    best, level = int(np.nanargmin(values)), number(tune["chosen"].get("on_all_images")).value
    known = values[np.isfinite(values)]
    lowest = min(values[best], level if level is not None else math.inf)
    top = lowest + 2.5 * max(min(known[0], known[-1]) - lowest, 0.1 * (known.max() - lowest), 1e-9)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 3.3)
        axes.fill_between(etas, values - spread, values + spread, color=INK, alpha=0.1, linewidth=0)
        axes.plot(etas, values, color=INK, linewidth=1.4)
        axes.plot([etas[best]], [values[best]], "o", color=INK, markersize=6)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
            place: Any = ((0.99, level), (0, -11), ("axes fraction", "data"), "offset points")
            axes.annotate(f"{tune['chosen']['label']}: {level:.4g}", *place, ha="right", fontsize=8.5).set_in_layout(False)
        axes.set_ylim(lowest - 0.3 * (top - lowest), top)
        axes.set_xlim(etas[0], etas[-1])
        pieces = [(pair["low"], etas[0], etas[best]), (pair["high"], etas[best], etas[-1])]
        _strip(axes, pieces, colours)
        axes.set_xlabel("η, position of the switch")
        axes.set_ylabel("bits/dim (VLB)")
        _above(axes, gammas, etas)
        _key(figure, [pair["low"], pair["high"]], colours)
        return svg(figure, prefix)


def seams(tune: Tune, prefix: str) -> str | None:
    """Cross-validated bits/dim above the best, by number of seams."""
    import matplotlib as mpl

    rows = tune.get("seams") or []
    if len(rows) < 2:
        return None
    counts, above = [row["seams"] for row in rows], [number(row["excess"]) for row in rows]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 3.0)
        values, spread = [n.value or 0.0 for n in above], [n.error or 0.0 for n in above]
        axes.errorbar(counts, values, spread, color=INK, ecolor=MUTED, elinewidth=0.9, linewidth=1.2, marker="o", markersize=4)
        _ring(axes, [(n, value) for row, n, value in zip(rows, counts, values, strict=True) if row["chosen"]])
        axes.set_xticks(counts)
        axes.set_xlabel("number of seams")
        axes.set_ylabel("bits/dim above the best")
        axes.margins(0.08, 0.15)
        return svg(figure, prefix)


def ends(tune: Tune, prefix: str) -> str | None:
    """The bound along gamma_min or gamma_max, whichever has more candidates; None with fewer than three of either."""
    import matplotlib as mpl

    rows, first = tune.get("ends") or [], (tune.get("exact") or {}).get("images")
    counts = {key: len({row[key] for row in rows}) for key in ("gamma_min", "gamma_max")}
    along = max(counts, key=lambda key: counts[key])
    other = "gamma_max" if along == "gamma_min" else "gamma_min"
    if counts[along] < 3:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 3.3 + 0.3 * counts[other])
        for i, fixed in enumerate(sorted({row[other] for row in rows})):
            line = sorted((row for row in rows if row[other] == fixed), key=lambda row: float(row[along]))
            at = f", {SIGNS[other]} = {fixed:g}" if counts[other] > 1 else ""
            look = {"fmt": "os^v"[i % 4], "linestyle": LINES[i % 4]}
            _line(axes, line, along, f"VLB{at}", look | {"color": INK})
            exact = [row["exact"] | {along: row[along]} for row in line if row.get("exact")]
            if exact:
                told = f"exact ODE{f' of the first {first}' if first else ''}{at}"
                _line(axes, exact, along, told, look | {"color": MUTED, "markerfacecolor": PAPER})
        _ring(axes, [(row[along], row["value"]) for row in rows if row["chosen"]])
        axes.set_xlabel(SIGNS[along])
        axes.set_ylabel("bits/dim, lower is better")
        axes.margins(0.06, 0.12)
        figure.legend(loc="outside upper left", frameon=False, fontsize=8.5)
        return svg(figure, prefix)


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], along: str, label: str, look: Mapping[str, Any]) -> None:
    numbers = [number(row) for row in rows]
    known = [(row[along], n.value, n.error or 0.0) for row, n in zip(rows, numbers, strict=True) if n.value is not None]
    looks: Any = {"ecolor": MUTED, "elinewidth": 0.9, "linewidth": 1.2, "markersize": 5, **look}
    x, y, spread = zip(*known, strict=True)
    axes.errorbar(x, y, spread, label=label, **looks)


def _reach(tune: Tune) -> tuple[float, float]:
    """What of the axis is shown: the interval and the candidates for its ends."""
    low, high = tune["interval"]
    rows = tune.get("ends") or []
    return min([low, *(row["gamma_min"] for row in rows)]), max([high, *(row["gamma_max"] for row in rows)])


# --- looks -----------------------------------------------------------------------------------------------------------


def _look(name: str, colours: Colours) -> tuple[str, Any]:
    i = colours.get(name, 0)
    return EXPERTS[i], LINES[i]


def on_gamma(axes: Axes) -> None:
    """Gamma below, and edm_sigma above."""
    axes.set_xlabel("γ, from data to noise")
    low, high = axes.get_xlim()
    sigmas = [s * 10.0**k for k in range(-5, 5) for s in (1, 3)]
    shown = [s for s in sigmas if low <= 2 * math.log(s) <= high]
    shown = shown[:: 1 + len(shown) // 9]
    _above(axes, [f"{s:g}" for s in shown], [2 * math.log(s) for s in shown], "σ/α")


def _above(axes: Axes, labels: Sequence[Any] | NDArray[Any], at: Sequence[float] | NDArray[Any], title: str = "γ") -> None:
    """A second axis above: its labels, or where they are numbers, about six of them."""
    if not isinstance(labels[0], str):
        low, high = float(labels[0]), float(labels[-1])
        step = max(1, round((high - low) / 6))
        ticks = np.arange(math.ceil(low / step) * step, high + 1e-9, step)
        labels, at = [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks], np.interp(ticks, labels, at)
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(at), labels)
    top.set_xlabel(title, color=MUTED)
    top.spines["top"].set_visible(False)
    top.tick_params(length=2, labelsize=8.5)


def _chosen(axes: Axes, tune: Tune, colours: Colours) -> None:
    """The chosen route: a strip below, and lines at its switches."""
    low, high = tune["interval"]
    axes.set_xlim(low, high)
    pieces = [(p["expert"], p["from"], p["to"]) for p in tune["chosen"]["pieces"]]
    for _, start, _ in pieces[1:]:
        axes.axvline(start, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
    _strip(axes, pieces, colours)


def _strip(axes: Axes, pieces: Sequence[tuple[str, float, float]], colours: Colours) -> None:
    """A strip of the experts' colours along the lower edge."""
    for name, start, end in pieces:
        axes.axvspan(start, end, 0, 0.035, color=EXPERTS[colours.get(name, 0)], linewidth=0)


def _ring(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    for x, y in points:
        axes.plot([x], [y], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)


def _ordered(tune: Tune, names: Iterable[str]) -> list[str]:
    """Experts as they follow one another along the axis in routes of several, each once; others last."""
    middles: dict[str, list[float]] = {}
    for route in tune.get("routes") or []:
        for piece in route["pieces"] if len(route.get("pieces") or []) > 1 else []:
            middles.setdefault(piece["expert"], []).append((piece["from"] + piece["to"]) / 2)
    return sorted(dict.fromkeys(names), key=lambda name: float(np.mean(middles.get(name, [math.inf]))))


def _key(figure: Figure, names: Iterable[str], colours: Colours, dashed: bool = False) -> None:
    """The experts' names and looks, above the plot."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = list(names)
    looks = [_look(name, colours) for name in shown]
    marks: Any = [Line2D([], [], color=c, linestyle=d, linewidth=1.8) if dashed else Patch(color=c) for c, d in looks]
    across = max(1, int(_WIDTH * 72 / (_LETTER * (max(map(len, shown), default=0) + 8))))
    look: Any = {"frameon": False, "fontsize": 8.5, "handlelength": 2.2 if dashed else 1}
    figure.legend(marks, shown, loc="outside upper left", ncols=min(across, len(shown)), **look)
