"""The command report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snrouter.cli.options import Debug, Json
from snrouter.cli.output import print_json
from snrouter.errors import SpecError, suggestion

FORMATS = ("html", "markdown", "csv", "json")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The file to write; by default a page is report.html in the run's folder, or beside the first of several folders, "
            "and text goes to standard output.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="`html`, the page; or its tables as `markdown`, `csv` or `json`.")
    ] = "html",
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed", help="Give runs that were not measured alike a column for each protocol, instead of refusing them."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make the page of one or many runs again from their results, or one table of them all."""
    from snrouter.files import write
    from snrouter.report import tabulate, write_report

    if form not in FORMATS:
        raise SpecError(f"unknown format {form!r}{suggestion(form, FORMATS)}; formats: {', '.join(FORMATS)}")
    if form == "html":
        written = write_report(folders, out, mixed)
    elif out is not None:
        write(out, tabulate(folders, form, mixed).encode())
        written = out
    elif as_json and form != "json":
        raise SpecError(f"--json prints one JSON object, and --format {form} is none; add --out FILE, or use --format json")
    else:
        print(tabulate(folders, form, mixed), end="")
        return
    kind = "page" if form == "html" else "table"
    if as_json:
        print_json({kind: str(written)})
    else:
        print(f"{kind}: {written}")
