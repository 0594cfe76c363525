"""The page: one self-contained HTML file of what one or several runs found. No script, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from snrouter.files import write
from snrouter.report import html, sections, study
from snrouter.report.combined import combined, read_all
from snrouter.report.costs import costs
from snrouter.report.folder import Folder, names, study_alone
from snrouter.report.gallery import samples, trace
from snrouter.report.gating import gating
from snrouter.report.html import typeset
from snrouter.report.memorisation import memorisation
from snrouter.report.tables import stamp, table
from snrouter.report.tune import tuned
from snrouter.report.wording import find


def write_report(folders: Sequence[Path], page: Path | None = None, mixed: bool = False) -> Path:
    """Write one self-contained HTML page about one or several runs, or a study; of several runs, with one table of all at the top.

    Args:
        folders: folders of runs, each with a results.json; or that of one study.
        page: where to write it; when left out, report.html in the folder, or of several, beside the first of them.
        mixed: as `combine`.

    Returns:
        The page's path.

    Raises:
        SpecError: as `combine`.
        OutputError: when the page cannot be written.
    """
    alone = study_alone(folders)
    if alone:
        return study.write_study(alone, page)
    content = render(read_all(folders), mixed)
    page = page or (Path(folders[0]) if len(folders) == 1 else _above(Path(folders[0]))) / "report.html"
    write(page, content.encode())
    return page


def _above(folder: Path) -> Path:
    """The nearest folder above that is no run's own, whose page would be overwritten."""
    return next((above for above in folder.absolute().parents if not (above / "results.json").is_file()), Path())


def render(folders: Sequence[Folder], mixed: bool = False) -> str:
    """The page's HTML."""
    called, alone = names([folder.path for folder in folders]), len(folders) == 1
    title = f"{called[0]}: snrouter report" if alone else f"{len(folders)} runs: snrouter report"
    top = "" if alone else _top(combined(folders, mixed), called)
    articles = "\n".join(
        _article(folder, name, f"r{i}", len(folders)) for i, (folder, name) in enumerate(zip(folders, called, strict=True))
    )
    return html.document(title, f"{top}{articles}")


def _top(results: Mapping[str, Any], called: Sequence[str]) -> str:
    """What stands above the articles of several runs: their names and their one table."""
    links = "".join(f'<li><a href="#r{i}">{escape(name)}</a></li>' for i, name in enumerate(called))
    shown = sections.results(results).html(anchor="all")
    return f"<header>\n<h1>{len(called)} runs</h1>\n<ul>{links}</ul>\n{_stamp(results)}{shown}\n</header>\n"


def _stamp(results: Mapping[str, Any]) -> str:
    said = stamp(table(results))
    return f'<p class="partial">{escape(said)}</p>\n' if said else ""


def _article(folder: Folder, name: str, prefix: str, runs: int) -> str:
    results, finding, alone = folder.results, find(folder.results), runs == 1
    said = typeset(finding.sentence)
    heading = f"<h1>{said}</h1>" if alone else f'<h2 class="run">{escape(name)}</h2>\n<p class="finding">{said}</p>'
    remarks = "".join(f"<li>{typeset(sentence)}</li>" for sentence in finding.remarks)
    opening = [
        _stamp(results),
        f'<p class="kind">{escape(_kind(results, name))}</p>\n',
        heading,
        sections.figures(results),
        f'<ul class="remarks">{remarks}</ul>' if remarks else "",
    ]
    below = [
        *tuned(results, prefix),
        sections.results(results),
        samples(folder, 1 / runs),
        sections.curves(results, prefix),
        trace(folder, 1 / runs),
        gating(results, prefix),
        sections.differences(results),
        memorisation(folder, 1 / runs),
        sections.slices(results),
        sections.terms(results),
        sections.blocks(results),
        costs(results),
        sections.protocol(results),
        sections.environment(folder),
        sections.spec(folder),
    ]
    beside, level = sections.trade_off(results, prefix), 2 if alone else 3  # a run's name stands above its sections
    found = {f"{prefix}-s{i}": part for i, part in enumerate(filter(None, below), 1)}
    contents = "".join(f'<a href="#{anchor}">{escape(part.title)}</a>' for anchor, part in found.items())
    plot = beside.html(level, f"{prefix}-s0") if beside else ""
    head = f'<div class="opening">\n<div>{"".join(filter(None, opening))}</div>\n{plot}</div>'
    text = "\n".join([head, f"<nav>{contents}</nav>", *(part.html(level, anchor) for anchor, part in found.items())])
    kind = "" if alone else ' class="many"'
    return f'<article id="{prefix}"{kind}>\n{text}\n</article>'


def _kind(results: Mapping[str, Any], name: str) -> str:
    kind = f"snrouter {_command(results)}"
    sources = [
        row["protocol"][key] for row in results["results"] for key in ("data", "reference") if key in row.get("protocol", {})
    ]
    return " · ".join([kind, name, *dict.fromkeys(map(str, sources)), str(results.get("fingerprint", ""))])


def _command(results: Mapping[str, Any]) -> str:
    return "tune" if results.get("tune") else "sweep" if len(table(results)) > 1 else "run"
