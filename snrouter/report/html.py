"""Pieces of a page: tables, figures, facts; everything that comes from outside is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any
from urllib.parse import quote

from snrouter.report.columns import Column
from snrouter.report.number import MISSING, minus
from snrouter.report.provenance import fact
from snrouter.report.tables import Row

BEST = ' class="best"'
_FIRST, _NAME = ' class="first"', ' class="name"'
_HEADS = ("run", "route")
_VARIANT = re.compile(r"(.*) (\(.*?\))(.*)", re.DOTALL)
_MANY = 10
"""Columns of a table beyond which its text is smaller."""


@dataclass(frozen=True)
class Section:
    """A heading and what is below it; false where nothing is.

    Attributes:
        title: the heading.
        parts: HTML, or sections of their own.
        note: HTML that stands before them.
    """

    title: str
    parts: Sequence[str | Section]
    note: str = ""

    def __bool__(self) -> bool:
        return any(self.parts)

    def html(self, level: int = 2, anchor: str = "") -> str:
        """Its HTML, with headings from a level on."""
        said = [f'<p class="note">{self.note}</p>'] if self.note else []
        said += [part.html(level + 1) if isinstance(part, Section) else part for part in self.parts if part]
        inner = "\n".join([f"<h{level}>{escape(self.title)}</h{level}>", *said])
        return f'<section id="{anchor}">\n{inner}\n</section>' if anchor else inner


def section(title: str, *parts: str | Section, note: str = "") -> Section:
    """A heading, a note and what is below."""
    return Section(title, parts, note)


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
    first = [bool(groups[i]) and groups[i] != groups[i - 1] for i in range(len(kept))]
    upper, lower = list[str](), list[str]()
    for group, members in groupby(range(len(kept)), key=lambda i: groups[i]):
        own = [(kept[i], _NAME if kept[i].kind in (*_HEADS, "words") else _FIRST if first[i] else "") for i in members]
        if group:
            upper.append(f'<th colspan="{len(own)}"{_FIRST}>{heading(group)}</th>')
        spans = "" if group or not any(groups) else ' rowspan="2"'
        (lower if group else upper).extend(f"<th{kind}{spans}>{_title(column, families)}</th>" for column, kind in own)
    body, last = [], ""
    for i, row in enumerate(rows):
        cells = [_cell(column, i, row, opens, last, colours) for column, opens in zip(kept, first, strict=True)]
        said = " ".join(kind for kind, holds in (("best", row.best), ("apart", row.run != last and i > 0)) if holds)
        body.append(f"<tr{f' class={said!r}' if said else ''}>{''.join(cells)}</tr>\n")
        last = row.run
    head = "".join(f"<tr>{''.join(cells)}</tr>" for cells in (upper, lower) if cells)
    wide = ' class="wide"' if len(kept) > _MANY else ""
    return f'<div class="scroll" tabindex="0"><table{wide}>\n<thead>{head}</thead>\n<tbody>\n{"".join(body)}</tbody></table></div>'


def _title(column: Column, families: bool) -> str:
    """A column's own heading: what is told of its measure, or where families head the table, the measure; n with its value."""
    count = f"n {column.n}" if column.n else ""
    if families:
        own = column.title if column.kind == "detail" else column.heading  # a detail stands beside its measure
        return heading(own) + (f" <small>{count}</small>" if count else "")
    return heading(column.title or count)


def _cell(column: Column, i: int, row: Row, opens: bool, last: str, colours: Mapping[str, int]) -> str:
    if column.kind == "run":
        return f'<th class="run">{escape(column.cells[i]) if row.run != last else ""}</th>'
    if column.kind == "route":
        return f'<th scope="row">{swatch(row.label, colours) if row.single else ""}{minus(escape(row.label))}</th>'
    if column.kind == "link":
        return f"<td>{MISSING if column.cells[i] == MISSING else link(column.cells[i], column.title)}</td>"
    looks = {"first": opens, "faint": column.faint and column.faint[i], "name": column.kind == "words"}
    classes = [kind for kind, holds in looks.items() if holds]
    named = f' class="{" ".join(classes)}"' if classes else ""
    return f"<td{named}>{typeset(column.cells[i])}</td>"


def link(address: str, text: str) -> str:
    """A link to what lies beside the page."""
    return f'<a href="{escape(quote(address))}">{escape(text)}</a>'


def figure(svg: str, caption: str) -> str:
    """A plot with its caption."""
    return f"<figure>{svg}<figcaption>{typeset(caption)}</figcaption></figure>"


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


def document(title: str, body: str) -> str:
    """A page of its own, with its style; nothing is fetched."""
    style = (resources.files("snrouter.report") / "page.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def typeset(text: str) -> str:
    """Escaped, with a minus sign before numbers and no break around ±."""
    return minus(escape(text)).replace(" = ", "\u00a0=\u00a0").replace(" ± ", "\u202f±\u202f")


def swatch(label: str, colours: Mapping[str, int]) -> str:
    """A spot in an expert's colour."""
    return f'<span class="swatch" style="background: var(--expert-{colours[label]})"></span>' if label in colours else ""


def heading(text: str) -> str:
    """A heading with its variant small below it and its arrow and mark at its last word."""
    title = text.rstrip(" ↓↑†")
    arrow = text[len(title) :].replace(" ", "\N{NO-BREAK SPACE}")
    parts = _VARIANT.fullmatch(title)
    if parts is None:
        return escape(title) + arrow
    return f"{escape(parts[1])}{arrow} <small>{escape(parts[2] + parts[3])}</small>"
