"""Commands that compute: demo, run, sweep, tune, sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from snrouter.cli.options import (
    Debug,
    Devices,
    Fresh,
    Json,
    Limit,
    Nodes,
    Out,
    Precision,
    Set,
    SpecArgument,
    Strategy,
    Trace,
    folder_of,
    load_spec,
)
from snrouter.cli.output import console, print_json
from snrouter.errors import SpecError, suggestion


def demo(
    out: Out = None,
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    limit: Limit = None,
    fresh: Fresh = False,
    trace: Trace = False,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """The whole story on handwritten digits: a sweep of thresholds against both experts, with a page to look at."""
    from snrouter.evaluation import sweep as work

    _evaluate(
        work,
        _spec("digits", set_, precision),
        out or Path("runs/demo"),
        as_json,
        _launch(devices, nodes, strategy),
        limit=limit,
        fresh=fresh,
        trace=trace,
    )


def run(
    spec: SpecArgument,
    out: Out = None,
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    limit: Limit = None,
    fresh: Fresh = False,
    trace: Trace = False,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Evaluate the spec's route with every metric it names."""
    from snrouter.evaluation import run as work

    _evaluate(
        work,
        _spec(spec, set_, precision),
        folder_of(out, "run", spec),
        as_json,
        _launch(devices, nodes, strategy),
        limit=limit,
        fresh=fresh,
        trace=trace,
    )


def sweep(
    spec: SpecArgument,
    out: Out = None,
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    limit: Limit = None,
    fresh: Fresh = False,
    trace: Trace = False,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Compare the thresholds of the spec's `sweep`, and each expert alone: table, plots and page."""
    from snrouter.evaluation import sweep as work

    _evaluate(
        work,
        _spec(spec, set_, precision),
        folder_of(out, "sweep", spec),
        as_json,
        _launch(devices, nodes, strategy),
        limit=limit,
        fresh=fresh,
        trace=trace,
    )


def tune(
    spec: SpecArgument,
    out: Out = None,
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    limit: Limit = None,
    fresh: Fresh = False,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Find the best route over the spec's experts, and write it as a spec, tuned.yaml, ready for run."""
    from snrouter.evaluation import tune as work

    _evaluate(
        work,
        _spec(spec, set_, precision),
        folder_of(out, "tune", spec),
        as_json,
        _launch(devices, nodes, strategy),
        limit=limit,
        fresh=fresh,
    )


def sample(
    spec: SpecArgument,
    n: Annotated[int, typer.Option("-n", help="How many images.")] = 16,
    out: Out = None,
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    fresh: Fresh = False,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Draw images with the spec's route: samples.safetensors and a picture of them."""
    from snrouter.evaluation import draw
    from snrouter.report import save_grid

    folder = folder_of(out, "sample", spec)
    images = draw(
        _spec(spec, set_, precision),
        n,
        folder,
        launch=_launch(devices, nodes, strategy),
        fresh=fresh,
        progress=not as_json,
    )
    if images is None:
        return
    picture = save_grid(images, folder / "samples.png")
    if as_json:
        print_json({"n": len(images), "samples": str(folder / "samples.safetensors"), "picture": str(picture)})
    else:
        print(f"samples: {folder / 'samples.safetensors'}\npicture: {picture}")


def _launch(devices: str, nodes: int, strategy: str) -> Any:
    from snrouter.evaluation import Launch

    return Launch(devices, nodes, strategy)


def _evaluate(work: Callable[..., Any], document: Any, out: Path, as_json: bool, launch: Any, **options: Any) -> None:
    from snrouter.report import to_rich, write_report

    results = work(document, out, launch=launch, **options, progress=not as_json)
    if results is None:  # the first of the processes that a launcher started tells what all have found
        return
    page = write_report([out])
    if as_json:
        print_json(results.as_dict())
        return
    console().print(to_rich(results.as_dict()))
    print(f"results: {out / 'results.json'}\npage:    {page}")
    if "tune" in results.extras:
        print(f"spec:    {out / results.extras['tune']['chosen']['spec']}")


def _spec(spec: str, overrides: list[str] | None, precision: str | None) -> Any:
    from snrouter.spec import Spec

    known = get_args(Spec.model_fields["precision"].annotation)
    if precision is None:
        return load_spec(spec, overrides)
    if precision not in known:
        raise SpecError(f"--precision: expected {', '.join(known)}, got {precision!r}{suggestion(precision, known)}")
    return load_spec(spec, [*(overrides or []), f"precision={precision}"])
