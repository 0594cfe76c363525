"""What commands print: one JSON object, or tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def print_json(value: Any) -> None:
    """The one object of --json."""
    from snrouter.evaluation import plain

    print(json.dumps(plain(value)))


def console() -> Any:
    """A terminal's width and colours, where there is one."""
    from rich.console import Console

    return Console()


def print_table(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table whose cells are plain text."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)
