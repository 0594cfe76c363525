"""The table for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from snrouter.report import published
from snrouter.report.columns import Column, columns, notes
from snrouter.report.tables import stamp, table
from snrouter.report.wording import choice, headline

if TYPE_CHECKING:
    from rich.table import Table

_EXPENDABLE = dict.fromkeys(("written", "difference", "published difference"), 4) | {
    "switch": 6,
    "reference": 5,
    "cost": 3,
    "detail": 3,
    "published": 2,
    "value": 1,
}
"""Kinds of column that a narrow terminal may lack, the highest first; of one kind, the last first."""


def to_rich(results: Mapping[str, Any], width: int | None = None) -> Table:
    """The table for a terminal, with the finding as its caption.

    Args:
        results: the content of results.json.
        width: columns of the terminal, detected when left out; where they do not suffice, the switch's gamma is left out, then
            what was not measured, differences, and what else must be, and the caption says so.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width, rows, whole = width or Console().width, table(results), columns(results)
    whole[0] = replace(whole[0], cells=[f"{row.label}{' *' if row.best else ''}" for row in rows])
    shown = _fitting(whole, width)
    title = Text(stamp(rows), style="bold red") if stamp(rows) else None
    told = " ".join(filter(None, (*headline(results), *notes(results), published.source(results))))
    caption = Text("\n".join(filter(None, (*_legend(results, whole, shown), told))))
    made = Table(box=box.SIMPLE_HEAD, title=title, caption=caption, caption_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for column in shown:
        first = column.kind == "route"
        made.add_column(Text(_stacked(column)), justify="left" if first else "right", vertical="bottom", no_wrap=not first)
    for i, row in enumerate(rows):
        cells = [Text(c.cells[i], style="dim" if c.faint and c.faint[i] else "") for c in shown]
        made.add_row(*cells, style="bold" if row.best else "")
    return made


def _legend(results: Mapping[str, Any], whole: Sequence[Column], shown: Sequence[Column]) -> list[str]:
    """What the star is, and what is not shown."""
    rule, left_out = choice(results), [column for column in whole if column not in shown]
    groups: dict[str, list[str]] = {}
    for column in left_out:
        groups.setdefault(column.group.rstrip(" ↓↑†"), []).append(column.title)
    names = "; ".join(": ".join(filter(None, (group, ", ".join(filter(None, titles))))) for group, titles in groups.items())
    return [f"* chosen: {rule}." if rule else "", f"Left out here, for want of room, but on the page: {names}." if names else ""]


def _stacked(column: Column) -> str:
    """A heading no wider than its cells and its longest word need: metric, variant, difference."""
    parts = [
        re.sub(" (?=[↓↑†])", "\N{NO-BREAK SPACE}", part) for part in (*column.group.replace(" (", "\n(").splitlines(), column.title)
    ]
    width = max(len(text) for text in (*column.cells, *re.split(r" |(?<=-)", " ".join(parts))))
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width))


def _fitting(shown: list[Column], width: int) -> list[Column]:
    while sum(_width(column) + 2 for column in shown) > width:
        measured = [column for column in shown if column.kind == "value"]
        last = max(reversed(shown), key=lambda column: _EXPENDABLE.get(column.kind, 0))
        if last.kind == "route" or measured == [last]:
            break
        shown = [column for column in shown if column is not last]
    return shown


def _width(column: Column) -> int:
    return max(map(len, (*_stacked(column).splitlines(), *column.cells)))
