"""A study's page, one self-contained HTML file beside which the pages of the cells lie, and its table for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snrouter.files import write
from snrouter.report import gating_plots, html, study_plots
from snrouter.report.columns import Column
from snrouter.report.folder import read_study
from snrouter.report.gating import ENTROPY, UTILISATION, VARIATION, mean, share, weighted
from snrouter.report.html import Section, section
from snrouter.report.number import MISSING
from snrouter.report.study_cells import Study, trainings
from snrouter.report.study_tables import Told, likelihood, measured, names, sheets, stamp
from snrouter.report.svg import EXPERTS
from snrouter.report.tables import Row
from snrouter.report.terminal import titled_table
from snrouter.report.tune import Sheet

if TYPE_CHECKING:
    from rich.table import Table

_PREFIX = "study"
_FOREST = (
    "A line a model: its mean over seeds, the 95 percent interval, and the value of each seed. Dashed, with its band: the baseline."
)

_ONE_SEED = "A line a model: its value with the one seed. Dashed: the baseline."


def write_study(folder: Path, page: Path | None = None) -> Path:
    """Write the page of a study.

    Args:
        folder: of the study, with its study.json.
        page: where to write it; report.html in the folder when left out. Links to the cells' pages hold from the folder alone.

    Returns:
        The page's path.

    Raises:
        SpecError: when the folder holds no study, or what it holds cannot be read.
        OutputError: when the page cannot be written.
    """
    study, page = read_study(folder), page or folder / "report.html"
    write(page, html.document(f"{folder.resolve().name}: snrouter study", _article(study, folder)).encode())
    return page


def study_table(study: Study, width: int | None = None) -> Table:
    """The table of results for a terminal, with the findings as its caption.

    Args:
        study: the content of study.json.
        width: columns of the terminal, detected when left out; where they do not suffice, the last measures are left out, and the
            caption says so.
    """
    first = next(iter(sheets(study)), Sheet("Results", "", [], [Column("", "model", names(study), kind="route")]))
    return titled_table(first.columns, first.rows, stamp(study), [first.note, *study["findings"]], width)


# --- the page --------------------------------------------------------------------------------------------------------


def _article(study: Study, folder: Path) -> str:
    first, *remarks = study["findings"] or ["Nothing was found yet."]
    told = [*remarks, *(f"Failed: {error}" for error in study.get("errors") or [])]
    said = "".join(f"<li>{html.typeset(sentence)}</li>" for sentence in told)
    seeds = len(study["seeds"])
    counts = f"{len(study['models'])} models, {seeds} seed{'s' if seeds > 1 else ''}, baseline {study['baseline']}"
    kind = " · ".join(filter(None, ("snrouter study", folder.resolve().name, counts, str(study.get("fingerprint", "")))))
    opening = [
        f'<p class="partial">{escape(stamp(study))}</p>\n' if stamp(study) else "",
        f'<p class="kind">{escape(kind)}</p>\n<h1>{html.typeset(first)}</h1>',
        f'<ul class="remarks">{said}</ul>' if said else "",
    ]
    found = {f"{_PREFIX}-s{i}": part for i, part in enumerate(filter(None, _sections(study, folder)), 1)}
    contents = "".join(f'<a href="#{anchor}">{escape(part.title)}</a>' for anchor, part in found.items())
    head = f'<div class="opening">\n<div>{"".join(opening)}</div>\n{_beside(study)}</div>'
    parts = [head, f"<nav>{contents}</nav>", *(part.html(2, anchor) for anchor, part in found.items())]
    return "<article>\n" + "\n".join(parts) + "\n</article>"


def _sections(study: Study, folder: Path) -> Iterator[Section]:
    tables = {sheet.title: sheet for sheet in sheets(study)}
    for title, sheet in tables.items():
        drawn = _drawn(study, title)
        plots = f'<div class="pair">{drawn}</div>' if drawn else ""
        if title == "Cells":
            yield _gating(study)
            sheet = _with_pages(sheet, folder)
        folded = html.folded("Phase by phase", _table(trainings(study))) if title == "Cells" and trainings(study) else ""
        yield section(title, plots, _table(sheet), folded, note=html.typeset(sheet.note))
    yield section("Models", html.facts({model["name"]: model.get("about") or model["route"] for model in study["models"]}))
    spec = folder / "spec.yaml"
    yield section("Spec", f"<pre>{escape(spec.read_text() if spec.is_file() else json.dumps(study.get('spec'), indent=2))}</pre>")


def _table(sheet: Sheet) -> str:
    return html.table(sheet.columns, sheet.rows, {})


def _beside(study: Study) -> str:
    """The plot of bits/dim beside the finding."""
    bound = likelihood(study)
    plot = study_plots.forest(bound, names(study), study["baseline"], f"{_PREFIX}-forest") if bound else None
    words = _FOREST if len(study["seeds"]) > 1 else _ONE_SEED
    return section(bound.title, html.figure(plot, words)).html(anchor=f"{_PREFIX}-s0") if bound and plot else ""


def _drawn(study: Study, title: str) -> str:
    """The plots that go with a table: other measures than the bound's with their intervals, and gains."""
    whole, bound = measured(study), likelihood(study)
    judged = [told for told in whole if told.better and not told.slice and not told.key.startswith("cost")]
    if title == "Intervals":  # the bound's stands beside the finding
        return _closer(study, bound) + _each(
            [told for told in judged if bound is None or told.key != bound.key], study, study_plots.forest
        )
    if title == "Relative gains":
        return _each(judged, study, study_plots.gains)
    if title == "By slice":
        return _each([told for told in whole if told.slice], study, study_plots.forest)
    return ""


def _closer(study: Study, bound: Told | None) -> str:
    """Bits/dim of the models near the baseline, where others are so far that these are one spot beside the finding."""
    if bound is None:
        return ""
    close = study_plots.near(bound, names(study), study["baseline"])
    svg = study_plots.forest(bound, close, study["baseline"], f"{_PREFIX}-near")
    return html.figure(svg, f"{bound.heading}, models near the baseline") if svg else ""


def _each(found: Sequence[Told], study: Study, plot: Any) -> str:
    drawn = [(told, plot(told, names(study), study["baseline"], f"{_PREFIX}-{plot.__name__}-{told.key}")) for told in found]
    return "".join(html.figure(svg, told.heading) for told, svg in drawn if svg)


def _with_pages(sheet: Sheet, folder: Path) -> Sheet:
    """Without links to pages that are not there."""
    columns = [
        Column("", c.title, [cell if (folder / cell).is_file() else MISSING for cell in c.cells], kind="link")
        if c.kind == "link"
        else c
        for c in sheet.columns
    ]
    return Sheet(sheet.title, sheet.note, sheet.rows, columns)


# --- gates -----------------------------------------------------------------------------------------------------------


def _gating(study: Study) -> Section:
    """Utilisation of every model's experts, entropy and load, each the mean over its seeds."""
    told = {model["name"]: found for model in study["models"] if (found := pooled(model))}
    if not told:
        return section("Gating")
    colours = _colours(told.values())
    plots = [
        html.figure(gating_plots.utilisation(found, colours, f"{_PREFIX}-used{i}"), f"{name} ({found['seeds']}).")
        for i, (name, found) in enumerate(told.items())
    ]
    curves = gating_plots.entropy(told, f"{_PREFIX}-entropy")
    columns = [
        Column("", "model", list(told), kind="route"),
        Column("", "load", [_listed(found["load"]) for found in told.values()], kind="words"),
        Column("", "entropy, nats", [MISSING if (x := mean(found["entropy"])) is None else f"{x:.3f}" for found in told.values()]),
    ]
    rows = [Row(name, "", None, (), "", False, {}, {}, {}) for name in told]
    drawn = "".join([*plots, html.figure(curves, ENTROPY) if curves else ""])
    note = (
        f"{UTILISATION} Means over seeds; an expert has one colour in all models, and may share it with one of another. {VARIATION}"
    )
    return section("Gating", f'<div class="pair">{drawn}</div>', html.table(columns, rows, {}), note=html.typeset(note))


def _colours(told: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Number of the colour of each expert: the same in all models; a new one of a model has a colour that its others have not."""
    colours: dict[str, int] = {}
    for found in told:
        names = list(found["utilisation"])
        for name in names:
            taken = {colours[other] for other in names if other in colours}
            colours.setdefault(name, next((n for n in range(len(EXPERTS)) if n not in taken), len(colours) % len(EXPERTS)))
    return colours


def pooled(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the gating rows of a model's cells say on average, of those with the first one's experts and stretches; None without.

    Args:
        model: one of study.json's.
    """
    rows = [row for cell in model["cells"] for row in cell.get("results") or [] if row["metric"] == "gating" and weighted(row)]
    alike = [row for row in rows if row["gammas"] == rows[0]["gammas"] and row["load"].keys() == rows[0]["load"].keys()]
    if not alike:
        return None

    def average(lists: Sequence[Sequence[float]]) -> list[float]:
        return [sum(values) / len(values) for values in zip(*lists, strict=True)]

    experts = list(rows[0]["utilisation"])
    return {
        "gammas": rows[0]["gammas"],
        "utilisation": {name: average([row["utilisation"][name] for row in alike]) for name in experts},
        "load": {name: sum(row["load"][name] for row in alike) / len(alike) for name in experts},
        "entropy": average([row["entropy"] for row in alike if row.get("entropy")]),
        "seeds": f"{len(alike)} seed{'s' if len(alike) > 1 else ''}",
    }


def _listed(load: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share(value)}" for name, value in load.items())
