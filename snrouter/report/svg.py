"""Drawing: plots as inline SVG.

They are drawn by matplotlib without pyplot or any global backend. Their text stays text, and their colours become CSS variables
of the page, so that one SVG serves light, dark and print; ids are prefixed, so that many may stand in one page.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from snrouter.report.number import minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
EXPERTS = tuple(f"#00001{i}" for i in range(1, 9))
LINES: Any = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (9, 2)),
    (0, (2.6, 1.2)),
    (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5)),
    (0, (1.2, 3)),
)
"""Styles of lines, so that none is told by its colour alone."""

_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {
    colour: f"expert-{i}" for i, colour in enumerate(EXPERTS)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "snrouter",  # the same plot is the same bytes
    "text.parse_math": False,  # labels are people's own words
    "axes.unicode_minus": True,
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, at 72 pixels an inch as on the page, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element for HTML: no prologue, no metadata, ids of its own, colours as CSS variables."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;", "", text)  # the page's own
    opening, _, body = text.partition(">")
    text = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", opening) + ">" + body
    text = text.replace("xlink:href=", "href=").replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    text = text.replace(' id="', f' id="{prefix}-')
    text = re.sub(r"(?<=>)[^<>]+(?=</text>)", lambda said: minus(said[0]), text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.strip()
