"""Plots of gating: utilisation of experts along the axis, stacked, and the entropy of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from snrouter.report.axis_plots import on_gamma
from snrouter.report.labels import short
from snrouter.report.svg import EXPERTS, INK, LINES, MUTED, PAPER, STYLE, canvas, svg

_WIDTH = 4.9
_NONE = 1e-9
"""Entropy below which it is rounding."""
_MARKS = "osD^vPX"
_ACROSS = 3
"""Names in a line of a legend."""


def utilisation(told: Mapping[str, Any], colours: Mapping[str, int], prefix: str) -> str:
    """Mean weight of each expert by stretch of gamma, stacked to one; the experts' names beside it in the order of the stack.

    Args:
        told: `gammas` (J + 1 edges), `utilisation` (J numbers an expert) and `load`, as a result row has them.
        colours: number of the colour of each expert; those that are not there take the next ones.
        prefix: of the ids.
    """
    import matplotlib as mpl
    from matplotlib.patches import Patch

    edges, names = np.array(told["gammas"], float), list(told["utilisation"])
    looks = {name: EXPERTS[colours.get(name, i) % len(EXPERTS)] for i, name in enumerate(names)}
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, max(2.9, 1.1 + 0.22 * len(names)))
        below = np.zeros(len(edges) - 1)
        for name in names:
            above = below + np.array(told["utilisation"][name], float)
            axes.stairs(above, edges, baseline=below, fill=True, facecolor=looks[name], edgecolor=PAPER, linewidth=0.8)
            below = above
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1)
        axes.set_ylabel("mean weight")
        axes.grid(False)
        on_gamma(axes)
        marks: Any = [Patch(color=looks[name]) for name in reversed(names)]
        texts = [f"{short(name)}  {told['load'].get(name, math.nan):.0%}" for name in reversed(names)]
        figure.legend(marks, texts, loc="outside right center", frameon=False, fontsize=8.5, handlelength=1)
        return svg(figure, prefix)


def entropy(told: Mapping[str, Mapping[str, Any]], prefix: str) -> str | None:
    """Mean entropy of the weights along gamma, a line a route; None where no route ever weights two experts at once."""
    import matplotlib as mpl

    shown = {label: row for label, row in told.items() if max(row.get("entropy") or [0.0]) > _NONE}
    if not shown:
        return None
    levels = sorted({len(row["load"]) for row in shown.values()})
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 3.3 + 0.2 * (len(shown) // _ACROSS))
        for count in levels:
            axes.axhline(math.log(count), color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
            at: Any = (1, math.log(count))
            style: Any = {"ha": "right", "fontsize": 8, "color": MUTED}
            axes.annotate(f"log {count}", at, (-2, 2), ("axes fraction", "data"), "offset points", **style)
        for i, (label, row) in enumerate(shown.items()):
            edges, values = np.array(row["gammas"], float), np.array(row["entropy"], float)
            colour = EXPERTS[i % len(EXPERTS)] if len(shown) > 1 else INK
            look: Any = {
                "color": colour,
                "linestyle": LINES[(i + i // len(LINES)) % len(LINES)],
                "marker": _MARKS[i % len(_MARKS)],
                "markersize": 3,
            }
            axes.plot((edges[1:] + edges[:-1]) / 2, values, linewidth=1.4, label=short(label), **look)
        axes.set_ylim(-0.04 * math.log(levels[-1]), 1.12 * math.log(levels[-1]))
        axes.set_ylabel("entropy of the weights, nats")
        first = next(iter(shown.values()))["gammas"]
        axes.set_xlim(first[0], first[-1])
        on_gamma(axes)
        if len(shown) > 1:
            figure.legend(loc="outside upper left", ncols=min(_ACROSS, len(shown)), frameon=False, fontsize=8.5)
        return svg(figure, prefix)
