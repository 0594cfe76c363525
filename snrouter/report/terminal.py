"""The table for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from snrouter.report import published
from snrouter.report.columns import Column, columns, notes
from snrouter.report.tables import Row, stamp, table
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
    rows, whole = table(results), columns(results)
    whole[0] = replace(whole[0], cells=[f"{row.label}{' *' if row.best else ''}" for row in rows])
    rule, told = choice(results), " ".join(filter(None, (*headline(results), *notes(results), published.source(results))))
    return titled_table(whole, rows, stamp(rows), [f"* chosen: {rule}." if rule else "", told], width)


def titled_table(whole: Sequence[Column], rows: Sequence[Row], title: str, told: Sequence[str], width: int | None = None) -> Table:
    """Columns as a table for a terminal, those that fit.

    Args:
        whole: the columns; the first heads the rows.
        rows: one a line.
        title: a warning above it, or "".
        told: what is said below it, a paragraph each, and of what is left out after the first.
        width: columns of the terminal, detected when left out.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = _fitting(list(whole), width or Console().width)
    first, *others = told
    caption = Text("\n".join(filter(None, (first, _left_out(whole, shown), *others))))
    above = Text(title, style="bold red") if title else None
    made = Table(box=box.SIMPLE_HEAD, title=above, caption=caption, caption_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for column in shown:
        heads = column.kind == "route"
        made.add_column(Text(_stacked(column)), justify="left" if heads else "right", vertical="bottom", no_wrap=not heads)
    for i, row in enumerate(rows):
        cells = [Text(c.cells[i], style="dim" if c.faint and c.faint[i] else "") for c in shown]
        made.add_row(*cells, style="bold" if row.best else "")
    return made


def _left_out(whole: Sequence[Column], shown: Sequence[Column]) -> str:
    """What is not shown."""
    groups: dict[str, list[str]] = {}
    for column in (column for column in whole if column not in shown):
        groups.setdefault(column.group.rstrip(" ↓↑†"), []).append(column.title)
    names = "; ".join(": ".join(filter(None, (group, ", ".join(filter(None, titles))))) for group, titles in groups.items())
    return f"Left out here, for want of room, but on the page: {names}." if names else ""


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
