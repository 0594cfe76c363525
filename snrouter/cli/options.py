"""Options that commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or an embedded spec such as `digits`.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the spec; repeatable.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for results; shards already there are used.", show_default=False)]
Devices = Annotated[str, typer.Option("--devices", help="Accelerators, or on a CPU processes, a node; or `auto`.")]
Nodes = Annotated[int, typer.Option("--nodes", metavar="M", help="Machines on which torchrun or srun started this command.")]
Strategy = Annotated[str, typer.Option("--strategy", metavar="NAME", help="`auto`, or Lightning's `ddp`, which auto takes.")]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision", metavar="NAME", help="Instead of the spec's: `float32`, `float64` or `bfloat16`.", show_default=False
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: remove this run's finished shards first.")]
Trace = Annotated[bool, typer.Option("--trace", help="Keep a few samples' images on their way from noise, for the page.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Use at most this many images and samples; stamps results partial.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def load_spec(spec: str, overrides: list[str] | None) -> Any:
    """The spec's document, components looked up."""
    from snrouter.spec import load

    document = load(spec, overrides or [])
    document.check()
    return document


def folder_of(out: Path | None, command: str, spec: str) -> Path:
    """Where results go: as told, or runs/<spec>-<command>, said once; of a tuned spec, the name of its folder comes first."""
    path = Path(spec)
    name = f"{path.resolve().parent.name}-{path.stem}" if path.name == "tuned.yaml" else path.stem
    return out or Path("runs") / f"{name.removesuffix(f'-{command}')}-{command}"
