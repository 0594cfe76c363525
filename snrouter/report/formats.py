"""The table in other formats: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snrouter.report import published, study_tables
from snrouter.report.columns import Column, arranged, notes, work
from snrouter.report.combined import combine
from snrouter.report.costs import calls_made
from snrouter.report.folder import read_study, study_alone
from snrouter.report.measures import OF_ROUTES, Measure, measures
from snrouter.report.number import Number
from snrouter.report.provenance import accounts, fact
from snrouter.report.tables import Row, experts, stamp, table
from snrouter.report.tune import sheets
from snrouter.report.wording import headline


def tabulate(folders: Sequence[Path], form: str, mixed: bool = False) -> str:
    """The table of one run, or one table of several, as text; or the tables of a study.

    Args:
        folders: folders of runs, each with a results.json; or that of one study.
        form: "markdown" and "csv" have a row a route and a column a measure; "json" has every row whole, as `combine` gives them.
        mixed: as `combine`.

    Raises:
        SpecError: as `combine`.
    """
    alone = study_alone(folders)
    if alone:
        return _study(read_study(alone), form)
    results = combine(folders, mixed)
    if form == "json":
        return json.dumps(results, indent=2) + "\n"
    if len(results["runs"]) == 1:
        (run,) = results["runs"].values()
        results = {**run, "results": [{**row, "run": ""} for row in results["results"]]}
    return csv_text(results) if form == "csv" else markdown(results)


def _study(study: Mapping[str, Any], form: str) -> str:
    """A study's tables: "json" is study.json, "csv" has a line a model."""
    if form == "json":
        return json.dumps(study, indent=2) + "\n"
    if form == "csv":
        return study_tables.csv_text(study)
    parts = [f"**{_escape_markdown(study_tables.stamp(study))}**\n"] if study.get("partial") else []
    parts += [_escape_markdown(sentence) + "\n" for sentence in study["findings"]]
    for sheet in study_tables.sheets(study):
        parts.append(f"**{sheet.title}**{_BREAK}{_escape_markdown(sheet.note)}{_BREAK}{_markdown_table(sheet.columns, sheet.rows)}")
    return "\n".join(parts) + "\n"


def markdown(results: Mapping[str, Any]) -> str:
    """The tables in Markdown, the best route's label bold, and how the numbers were made."""
    rows = table(results)
    parts = [f"**{_escape_markdown(stamp(rows))}**\n"] if stamp(rows) else []
    if results.get("tune"):
        parts += [_escape_markdown(sentence) + "\n" for sentence in headline(results)]
    parts += [f"**{sheet.title}**{_BREAK}{_markdown_table(sheet.columns, sheet.rows)}" for sheet in sheets(results)]
    for title, shown in arranged(results):
        parts.append(f"{f'**{title}: differences**{_BREAK}' if title else ''}{_markdown_table(shown, rows)}")
    parts += [_escape_markdown(sentence) + "\n" for sentence in (*notes(results), published.source(results)) if sentence]
    counted = work(results)
    parts += (
        [f"Network calls of each expert for one sample or image, and seconds for all:{_BREAK}{_markdown_table(counted, rows)}"]
        if counted
        else []
    )
    parts += [f"- {_escape_markdown(sentence)}" for sentence in calls_made(results)]
    for account in accounts(results):
        said = [*(f"{key.replace('_', ' ')} {fact(value)}" for key, value in account.facts.items())]
        said += [f"{routes}: {own}" for routes, own in account.differing.items()]
        parts.append(f"- {_escape_markdown(account.title)}: {_escape_markdown('; '.join(said))}")
    return "\n".join(parts) + "\n"


_BREAK = "\n\n"
_WORDS = ("run", "route", "words", "link")
"""Kinds of column that hold text, on the left."""


def _markdown_table(shown: Sequence[Column], rows: Sequence[Row]) -> str:
    lines = [
        _pipes(_escape_markdown(column.heading) for column in shown),
        _pipes("---" if column.kind in _WORDS else "---:" for column in shown),
    ]
    for i, row in enumerate(rows):
        cells = [_escape_markdown(c.cells[i]) if c.kind in _WORDS else c.cells[i] for c in shown]
        lines.append(
            _pipes(f"**{cell}**" if row.best and c.kind == "route" else cell for cell, c in zip(cells, shown, strict=True))
        )
    return "\n".join(lines) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str) -> str:
    for special in "\\`*_[]<|":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


def csv_text(results: Mapping[str, Any]) -> str:
    """The table as CSV with numbers in full: a line a route, and a column for each number that a measure's rows have."""
    known, singles = measures(results), experts(results)
    rows = table(results)
    facts = {m.key: list(dict.fromkeys(name for row in rows for name in _facts(row.rows.get(m.key, {})))) for m in known}
    lines = [
        _csv_row(row, known, singles, facts) | _csv_published(results, row, rows, known) | {"partial": row.partial} for row in rows
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(lines[0]) if lines else ["label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _facts(told: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """The numbers that a result row has beside its value, error, n and differences, by name; those of mappings by both names."""
    found: dict[str, float] = {}
    for key, value in told.items():
        name = f"{within}{key}"
        if name in OF_ROUTES or name in ("value", "standard_error", "n", "nfe", "protocol", "paired"):
            continue
        if isinstance(value, Mapping):
            found |= _facts(value, f"{'nfe' if name == 'nfe_per_expert' else name}_")
        elif isinstance(value, (int, float)):
            found[name] = value
    return found


def _csv_row(row: Row, known: Sequence[Measure], singles: Sequence[str], facts: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    line: dict[str, Any] = {"run": row.run} if row.run else {}
    line |= {"label": row.label, "route": row.route, "eta": row.eta, "switch": row.written}
    line |= {"gamma_switch": " ".join(map(repr, row.switches)), "best": row.best}
    for measure in known:
        number, key, whole = row.numbers.get(measure.key, Number()), measure.key, row.rows.get(measure.key, {})
        line |= {
            key: number.value,
            f"{key}_standard_error": number.error,
            f"{key}_n": whole.get("n"),
            f"{key}_nfe": row.nfe(measure),
        }
        own = _facts(whole)
        line |= {f"{key}_{name}": own.get(name) for name in facts[key]}
        for single in singles:
            pair = row.differences.get(key, {}).get(single, Number())
            line |= {f"{key}_minus_{single}": pair.value, f"{key}_minus_{single}_standard_error": pair.error}
        line[f"{key}_protocol"] = json.dumps(whole["protocol"]) if whole.get("protocol") else None
    return line


def _csv_published(results: Mapping[str, Any], row: Row, rows: Sequence[Row], known: Sequence[Measure]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for measure in known:
        if any(published.beside(results, other.rows.get(measure.key)) for other in rows):
            own = row.rows.get(measure.key)
            values = published.beside(results, own)
            difference = published.difference(results, own, values)
            line[f"{measure.key}_published"] = published.text(values)
            line[f"{measure.key}_minus_published"] = difference if isinstance(difference, float) else None
    for variant, cells in published.unmeasured(results, [other.label for other in rows]).items():
        line["_".join((*variant, "published")).replace(" ", "_")] = published.text(cells.get(row.label, ()))
    return line
