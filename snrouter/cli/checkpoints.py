"""Commands that write checkpoints: train, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from snrouter.cli.options import Debug, Devices, Json, Nodes, Out, Set, SpecArgument, Strategy, folder_of, load_spec
from snrouter.cli.output import print_json


def train(
    spec: SpecArgument,
    names: Annotated[list[str] | None, typer.Argument(help="Recipes to train; all when left out.")] = None,
    out: Out = None,
    as_json: Json = False,
    set_: Set = None,
    devices: Devices = "1",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    debug: Debug = False,
) -> None:
    """Train the spec's recipes on its reference images; one that was stopped goes on, one that is done is not done again."""
    from snrouter.launch import Launch
    from snrouter.launched import is_first
    from snrouter.loggers import Name
    from snrouter.training import train_recipe
    from snrouter.training.recipes import recipe_of

    document = load_spec(spec, set_)
    folder, wanted = folder_of(out, "train", spec), names or [*document.spec.train] or [""]
    for name in wanted:
        recipe_of(document, name)
    cards, launch = {}, Launch(devices, nodes, strategy)
    logger: Name = document.spec.logger or "csv"
    for name in wanted:
        trained = train_recipe(document, name, folder, progress=not as_json, logger=logger, launch=launch)
        cards[name] = trained.card
        if not as_json and is_first():
            print(_told(name, trained, folder))
    if as_json and is_first():
        print_json(cards)


def _told(name: str, trained: Any, folder: Path) -> str:
    """A line on what was trained."""
    already = ", done before" if all(phase.get("found") for phase in trained.steps.values()) else ""
    ready = folder / f"{name}.yaml"
    where = f"snrouter run {ready}" if ready.is_file() else str(folder / f"{name}.safetensors")
    return f"{name}: loss {trained.card['training_loss']:.4f}{already}, {where}"


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .pkl of NVlabs/edm, or model.pt of the PyTorch VDM.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The .safetensors to write; beside the original by default.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert an original checkpoint to safetensors with a card; no code of it is run."""
    from rich.console import Console

    from snrouter.experts.convert import convert as work

    with Console(stderr=True, quiet=as_json).status("reading") as status:
        done = work(checkpoint, out, force, lambda stage: status.update(f"{stage} {checkpoint.name}"))
    card = done.card
    if as_json:
        print_json({"checkpoint": str(done.checkpoint), "parameters": done.parameters, "card": card})
        return
    source, expert = card["source"], card["expert"]
    support = ", ".join(f"{end:.4g}" for end in expert["support"])
    network = ", ".join(f"{key}={value}" for key, value in card["network"].items() if key != "type")
    told = {
        "original": f"{source['format']}, {source['class']}, {done.parameters:,} parameters",
        "weights": source["weights"],
        "network": f"{card['network']['type']}: {network}",
        "expert": ", ".join(f"{key}={value}" for key, value in expert.items() if key != "support"),
        "support": f"gamma in [{support}]",
        **({"dropped": source["dropped"]} if "dropped" in source else {}),
        "written": f"{done.checkpoint} and {done.checkpoint.with_suffix('.json').name}",
        "next": f"experts: {{mine: {{type: {card['type']}, checkpoint: {done.checkpoint}}}}}",
    }
    for key, value in told.items():
        print(f"{key + ':':10} {value}")
