"""Commands about this installation: list, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from snrouter.cli.options import Debug, Json
from snrouter.cli.output import print_json, print_table
from snrouter.errors import SpecError


def list_(
    kind: Annotated[str, typer.Argument(help="experts, policies, solvers, metrics or datasets; all when left out.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what is registered, by which package; a broken plugin is a row."""
    from snrouter.errors import suggestion
    from snrouter.plugins.entry_points import REGISTRIES

    if kind and kind not in REGISTRIES:
        raise SpecError(f"unknown kind {kind!r}{suggestion(kind, REGISTRIES)}; kinds: {', '.join(REGISTRIES)}")
    rows = [row for name, registry in REGISTRIES.items() if kind in ("", name) for row in registry.rows()]
    if as_json:
        print_json({"plugins": [vars(row) for row in rows]})
    else:
        print_table("registered", ["kind", "name", "package", "version", "status"], ([*vars(row).values()] for row in rows))


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Look at this installation: versions, devices, plugins, embedded weights."""
    from snrouter.doctor import doctor as work

    checks = work()
    if as_json:
        print_json({"checks": [check._asdict() for check in checks]})
    else:
        print_table("doctor", ["", "what", "found"], (["ok" if c.ok else "!!", c.name, c.detail] for c in checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
