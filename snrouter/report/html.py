"""Pieces of a page: tables, figures, facts; everything that comes from outside is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from snrouter.report.columns import Column
from snrouter.report.number import MISSING
from snrouter.report.provenance import fact
from snrouter.report.tables import Row

BEST = ' class="best"'
_FIRST, _NAME = ' class="first"', ' class="name"'
_HEADS = ("run", "route")
_VARIANT = re.compile(r"(.*) (\(.*?\))(.*)", re.DOTALL)
_MANY = 10
"""Columns of a table beyond which its text is smaller."""


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, a note and what is below; nothing where nothing is."""
    inner = "\n".join(filter(None, parts))
    said = f'<p class="note">{note}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{said}{inner}\n</section>" if inner else ""


def table(shown: Sequence[Column], rows: Sequence[Row], colours: Mapping[str, int], families: bool = False) -> str:
    """Columns as a table in a box that scrolls; a column that is empty is left out.

    Args:
        shown: the columns; those of runs and routes head the rows.
        rows: the routes.
        colours: number of the colour of each expert.
        families: head columns by family and then by measure, instead of by measure and then by what is told of it.
    """
    kept = [column for column in shown if column.kind in _HEADS or {*column.cells} != {MISSING}]
    groups = [column.family if families else column.group for column in kept]
    heads = []
    for group, members in groupby(range(len(kept)), key=lambda i: groups[i]):
        span = len(list(members))
        heads.append(f'<th colspan="{span}"{_FIRST if group else ""}>{heading(group)}</th>')
    titles = [column.heading if families else column.title for column in kept]
    first = [bool(groups[i]) and groups[i] != groups[i - 1] for i in range(len(kept))]
    kinds = [_NAME if column.kind in _HEADS else _FIRST if opens else "" for column, opens in zip(kept, first, strict=True)]
    names = (f"<th{kind}>{heading(title)}</th>" for title, kind in zip(titles, kinds, strict=True))
    body, last = [], ""
    for i, row in enumerate(rows):
        cells = [_cell(column, i, row, opens, last, colours) for column, opens in zip(kept, first, strict=True)]
        said = " ".join(kind for kind, holds in (("best", row.best), ("apart", row.run != last and i > 0)) if holds)
        body.append(f"<tr{f' class={said!r}' if said else ''}>{''.join(cells)}</tr>\n")
        last = row.run
    head = f'<tr class="groups">{"".join(heads)}</tr><tr>{"".join(names)}</tr>'
    wide = ' class="wide"' if len(kept) > _MANY else ""
    return f'<div class="scroll" tabindex="0"><table{wide}>\n<thead>{head}</thead>\n<tbody>\n{"".join(body)}</tbody></table></div>'


def _cell(column: Column, i: int, row: Row, opens: bool, last: str, colours: Mapping[str, int]) -> str:
    if column.kind == "run":
        return f'<th class="run">{escape(row.run) if row.run != last else ""}</th>'
    if column.kind == "route":
        return f'<th scope="row">{swatch(row.label, colours) if row.single else ""}{escape(row.label)}</th>'
    classes = ["first"] if opens else []
    classes += ["faint"] if column.faint and column.faint[i] else ["value"] if column.kind == "value" and not column.title else []
    return f'<td class="{" ".join(classes)}">{typeset(column.cells[i])}</td>'


def figure(svg: str, caption: str) -> str:
    """A plot with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def strips(lines: Sequence[tuple[str, str]], kind: str = "samples") -> str:
    """Pictures below one another, each with what stands before it, as HTML."""
    inner = "".join(f"{before}{picture}" for before, picture in lines)
    return f'<div class="{kind}">{inner}</div>' if inner else ""


def image(uri: str, alt: str) -> str:
    """A picture."""
    return f'<img src="{uri}" alt="{escape(alt)}">'


def folded(title: str, inner: str) -> str:
    """What is shown when asked for."""
    return f"<details><summary>{escape(title)}</summary>\n{inner}\n</details>" if inner else ""


def facts(told: Mapping[str, Any]) -> str:
    """Names and values below one another."""
    lines = (f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(fact(value))}</dd>" for key, value in told.items())
    return f"<dl>{''.join(lines)}</dl>"


def typeset(text: str) -> str:
    """Escaped, with a minus sign before numbers and no break around ±."""
    escaped = escape(text).replace(" = ", "\u00a0=\u00a0")
    for digit in "0123456789":
        escaped = escaped.replace(f" -{digit}", f" \N{MINUS SIGN}{digit}")
        escaped = f"\N{MINUS SIGN}{escaped[1:]}" if escaped.startswith(f"-{digit}") else escaped
    return escaped.replace(" ± ", "\u202f±\u202f")


def swatch(label: str, colours: Mapping[str, int]) -> str:
    """A spot in an expert's colour."""
    return f'<span class="swatch" style="background: var(--expert-{colours[label]})"></span>' if label in colours else ""


def heading(text: str) -> str:
    """A heading with its variant small below it and its arrow at its last word."""
    title, arrow = (text[:-2], f"\N{NO-BREAK SPACE}{text[-1]}") if text.endswith((" ↓", " ↑")) else (text, "")
    parts = _VARIANT.fullmatch(title)
    if parts is None:
        return escape(title) + arrow
    return f"{escape(parts[1])}{arrow} <small>{escape(parts[2] + parts[3])}</small>"
