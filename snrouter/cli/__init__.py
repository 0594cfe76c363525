"""The command line: parse, call, print. Nothing heavy is imported until a command runs.

Exit codes: 0 done, 1 the work failed, 2 the spec or the arguments are wrong, 3 a plugin is broken.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer

from snrouter.cli import checkpoints, evaluate, installation, report, specs, statistics, study
from snrouter.errors import SnrouterError
from snrouter.launched import is_first, launched

COMMANDS = (
    evaluate.demo,
    evaluate.run,
    evaluate.sweep,
    evaluate.tune,
    study.study,
    evaluate.sample,
    checkpoints.train,
    specs.validate,
    specs.explain,
    installation.list_,
    checkpoints.convert,
    report.report,
    statistics.statistics,
    specs.schema,
    installation.doctor,
)
"""In the order of the help."""

RESUMED = ("demo", "run", "sweep", "tune", "study", "sample", "train")
"""What goes on where it was interrupted."""

INTERRUPTED = 130

app = typer.Typer(
    name="snrouter",
    help="Merge pretrained diffusion models by routing between them along one shared noise axis; sample, and measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("snrouter"))
        raise typer.Exit


def main() -> NoReturn:
    """Entry point: run a command and turn errors into one line and an exit code."""
    arguments = sys.argv[1:]
    warnings.showwarning = _warn
    try:
        code = app(standalone_mode=False) or 0
    except SnrouterError as error:
        code = error.exit_code
        _fail(str(error), code, arguments)
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is not None:  # a usage error of the argument parser
            code = getattr(error, "exit_code", 2)
            if usage():  # empty where the help was asked for by giving no arguments
                _fail(f"{usage()} (see snrouter --help)", code, arguments)
        else:
            code = 1
            message = " ".join(str(error).split())
            _fail(f"{type(error).__name__}: {message} (an error in snrouter or a plugin; --debug shows where)", code, arguments)
    if code == INTERRUPTED:  # Typer, too, turns a keyboard interrupt into this code
        kept = "; what is finished is kept, run the same command again to go on" if {*arguments[:1]} & {*RESUMED} else ""
        _fail(f"interrupted{kept}", code, arguments)
    sys.exit(code)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    if is_first():
        print(f"warning: {message}", file=sys.stderr)


def _fail(message: str, code: int, arguments: list[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exc()
    if "--json" in arguments and is_first():
        print(json.dumps({"error": message, "exit_code": code}))
    started = launched()
    where = "" if started is None else f"process {started.rank}: "  # others may have failed otherwise, or not at all
    for line in message.splitlines():
        print(f"error: {where}{line}", file=sys.stderr)
