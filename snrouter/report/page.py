"""The page: one self-contained HTML file of what one or several runs found. No script, and nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from snrouter.files import write
from snrouter.report import sections
from snrouter.report.combined import combined, read_all
from snrouter.report.costs import costs
from snrouter.report.folder import Folder, names
from snrouter.report.gallery import samples, trace
from snrouter.report.html import typeset
from snrouter.report.memorisation import memorisation
from snrouter.report.tables import table
from snrouter.report.wording import find


def write_report(folders: Sequence[Path], page: Path | None = None, mixed: bool = False) -> Path:
    """Write one self-contained HTML page about one or several runs; of several, with one table of all at the top.

    Args:
        folders: folders of runs, each with a results.json.
        page: where to write it; when left out, report.html in the folder, or of several, beside the first of them.
        mixed: as `combine`.

    Returns:
        The page's path.

    Raises:
        SpecError: as `combine`.
        OutputError: when the page cannot be written.
    """
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
    style = (resources.files("snrouter.report") / "page.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{top}{articles}\n</body>\n</html>\n"
    )


def _top(results: Mapping[str, Any], called: Sequence[str]) -> str:
    """What stands above the articles of several runs: their names and their one table."""
    links = "".join(f'<li><a href="#r{i}">{escape(name)}</a></li>' for i, name in enumerate(called))
    return f"<header>\n<h1>{len(called)} runs</h1>\n<ul>{links}</ul>\n{sections.results(results)}\n</header>\n"


def _article(folder: Folder, name: str, prefix: str, runs: int) -> str:
    results, finding, alone = folder.results, find(folder.results), runs == 1
    said = typeset(finding.sentence)
    heading = f"<h1>{said}</h1>" if alone else f'<h2 class="run">{escape(name)}</h2>\n<p class="finding">{said}</p>'
    stamp = '<p class="partial">PARTIAL: a limit cut this run short. These are not the numbers its spec asks for.</p>\n'
    remarks = "".join(f"<li>{typeset(sentence)}</li>" for sentence in finding.remarks)
    opening = [
        stamp if results.get("partial") else "",
        f'<p class="kind">{escape(_kind(results, name))}</p>\n',
        heading,
        sections.figures(results),
        f'<ul class="remarks">{remarks}</ul>' if remarks else "",
    ]
    below = [
        sections.results(results),
        samples(folder, 1 / runs),
        sections.curves(results, prefix),
        trace(folder, 1 / runs),
        sections.differences(results),
        memorisation(folder, 1 / runs),
        sections.terms(results),
        sections.blocks(results),
        costs(results),
        sections.protocol(results),
        sections.environment(folder),
        sections.spec(folder),
    ]
    beside = sections.trade_off(results, prefix)
    found = _anchored([part for part in (beside, *below) if part], prefix)
    contents = _contents(found[1:] if beside else found)
    if not alone:  # the run's name stands above its sections
        found = [re.sub(r"<(/?)h([23])>", lambda tag: f"<{tag[1]}h{int(tag[2]) + 1}>", part) for part in found]
    head = f'<div class="opening">\n<div>{"".join(filter(None, opening))}</div>\n{found.pop(0) if beside else ""}</div>'
    text = f"{head}\n{contents}\n" + "\n".join(found)
    kind = "" if alone else ' class="many"'
    return f'<article id="{prefix}"{kind}>\n{text}\n</article>'


def _anchored(found: Iterable[str], prefix: str) -> list[str]:
    return [part.replace("<section>", f'<section id="{prefix}-s{i}">', 1) for i, part in enumerate(found)]


def _contents(found: Sequence[str]) -> str:
    """Links to the sections."""
    titles = [re.search(r'<section id="([^"]*)">\s*<h2>(.*?)</h2>', part) for part in found]
    return f'<nav>{"".join(f"""<a href="#{title[1]}">{title[2]}</a>""" for title in titles if title)}</nav>'


def _kind(results: Mapping[str, Any], name: str) -> str:
    kind = "snrouter sweep" if len(table(results)) > 1 else "snrouter run"
    sources = [
        row["protocol"][key] for row in results["results"] for key in ("data", "reference") if key in row.get("protocol", {})
    ]
    return " · ".join([kind, name, *dict.fromkeys(map(str, sources)), str(results.get("fingerprint", ""))])
