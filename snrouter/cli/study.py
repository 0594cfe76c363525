"""The command study."""

from __future__ import annotations

import typer

from snrouter.cli.options import Debug, Devices, Fresh, Json, Limit, Out, Set, SpecArgument, folder_of, load_spec
from snrouter.cli.output import console, print_json


def study(
    spec: SpecArgument,
    out: Out = None,
    devices: Devices = "auto",
    limit: Limit = None,
    fresh: Fresh = False,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Train, tune and evaluate every model of the spec's `study` with every seed: one table, one page."""
    from snrouter.evaluation import Launch
    from snrouter.report import study_table, write_study
    from snrouter.study import FILE
    from snrouter.study import study as work

    folder = folder_of(out, "study", spec)
    found = work(load_spec(spec, set_), folder, launch=Launch(devices), limit=limit, fresh=fresh, progress=not as_json)
    page = write_study(folder)
    if as_json:
        print_json(found)
    else:
        console().print(study_table(found))
        print(f"study:   {folder / FILE}\npage:    {page}")
        for line in found["errors"]:
            typer.echo(f"error: {line}", err=True)
    if found["errors"]:
        raise typer.Exit(1)
