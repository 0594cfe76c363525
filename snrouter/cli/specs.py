"""Commands about a spec, before anything is computed: validate, explain, schema."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Annotated, Any

import typer

from snrouter.cli.options import Debug, Json, Set, SpecArgument, load_spec
from snrouter.cli.output import print_json, print_table
from snrouter.errors import SnrouterError, SpecError


def validate(
    spec: SpecArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Also evaluate every metric on one small batch.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also measure every expert on 64 images, and name what its registration got wrong.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", help="Probe on at most this many images.")] = None,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Check a spec: keys, plugins, data, gamma coverage, shapes; with --probe, whether every expert is registered rightly."""
    from snrouter.checks import validate as work

    if limit is not None and not probe:
        raise SpecError("--limit is for --probe; add --probe")
    document, checks, failure = load_spec(spec, set_), [], None
    try:
        for check in work(document, dry_run):
            checks.append(check._asdict())
            if not as_json:
                print(f"{'ok' if check.ok else 'warning'} {check.name}: {check.detail}", flush=True)
    except SnrouterError as error:
        if not probe:
            raise
        failure = error  # it may come of a registration that the probe finds wrong
    if probe:
        _probe(document, checks, failure, limit, as_json)
    elif as_json:
        print_json({"checks": checks})


def _probe(document: Any, checks: list[dict[str, Any]], failure: SnrouterError | None, limit: int | None, as_json: bool) -> None:
    from snrouter.checks import fault_lines, probe_experts

    for line in str(failure).splitlines() if failure and not as_json else ():
        print(f"error: {line}", file=sys.stderr)
    found, errors = None, list[str]()
    try:
        found = probe_experts(document, not as_json, limit, None if as_json else _print_probed)
    except SnrouterError as error:
        if failure is None:
            raise
        errors = [str(error)] if str(error) != str(failure) else []
    if found:
        errors = fault_lines(document, found, said=str(failure or ""))
    if as_json:
        told = [*([str(failure)] if failure else []), *errors]
        wrong = {"error": "\n".join(told), "exit_code": failure.exit_code if failure else 2} if told else {}
        print_json({"checks": checks, **({"probe": found.as_dict()} if found else {}), **wrong})
        errors = told
    for note in found.notes if found and not as_json else ():
        print(f"note: {note}")
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    if errors or failure:
        raise typer.Exit(failure.exit_code if failure else 2)


def _print_probed(name: str, found: Any) -> None:
    rows = [[f"{value:.3g}" for value in level] for level in found.levels.get(name, ())]
    if rows:
        print_table(name, ["gamma", "error", "standard error", "linear predictor"], rows)
    if name in found.right:
        told = f"{name} denoises as registered, and no other reading of it does better ({found.calls[name]} network calls)"
        print(f"ok probe: {told}", flush=True)


def explain(spec: SpecArgument, as_json: Json = False, set_: Set = None, debug: Debug = False) -> None:
    """Show which expert runs at which gamma, edm_sigma and step, before any expert is loaded."""
    from snrouter.explain import explain as work

    told = work(load_spec(spec, set_))
    if as_json:
        print_json(told)
        return
    pieces = told["pieces"]
    names = [piece["expert"] if piece["weights"] == "one expert" else f"{piece['expert']} (mixture)" for piece in pieces]
    rows = [
        [name, f"{piece['from']['gamma']:.5g}", f"{piece['to']['gamma']:.5g}", _span(piece["steps"])]
        for name, piece in zip(names, pieces, strict=True)
    ]
    print(f"{told['route']} route, sampled by {textwrap.shorten(told['solver'], 120, placeholder=' ...')}")
    print_table("", ["expert", "from gamma", "to gamma", "steps"], rows)
    edges = [pieces[0]["from"], *(piece["to"] for piece in pieces)]
    print_table("the same positions in every unit", list(edges[0]), ([f"{value:.5g}" for value in edge.values()] for edge in edges))
    columns = ["gamma", "timestep", "boundary_ratio", "denoising_end"]
    steps = [[clock["of"], *(_number(at.get(key)) for key in columns)] for clock in told["clocks"] for at in clock["at"]]
    if steps:
        print_table("the same positions in numbered steps", ["clock", *columns], steps)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _span(steps: list[int] | None) -> str:
    return "adaptive" if steps is None else f"{steps[0]} to {steps[1]}"


def schema(as_json: Json = False, debug: Debug = False) -> None:
    """Print the JSON schema of specs, installed plugins included, for editors."""
    from snrouter.spec import json_schema

    print(json.dumps(json_schema(), indent=None if as_json else 2))
