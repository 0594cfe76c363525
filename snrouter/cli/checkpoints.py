"""Commands that write checkpoints: train, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snrouter.cli.options import Debug, Json, Out, Set, SpecArgument, folder_of, load_spec
from snrouter.cli.output import print_json
from snrouter.errors import SpecError


def train(
    spec: SpecArgument,
    names: Annotated[list[str] | None, typer.Argument(help="Recipes to train; all when left out.")] = None,
    out: Out = None,
    as_json: Json = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Train the spec's recipes on its reference images; writes a checkpoint and a card for each."""
    from snrouter.errors import suggestion
    from snrouter.loggers import make_logger
    from snrouter.training import train as work

    document = load_spec(spec, set_)
    recipes, data, folder = document.spec.train, document.dataset("reference"), folder_of(out, "train", spec)
    if not recipes or data is None:
        raise SpecError("nothing to train; add train: {name: {type: edm, ...}} and reference: {type: digits, split: train}")
    unknown = [name for name in names or [] if name not in recipes]
    if unknown:
        raise SpecError(f"no recipe {unknown[0]!r}{suggestion(unknown[0], recipes)}; there are {', '.join(recipes)}")
    cards = {}
    for name in names or recipes:
        checkpoint = folder / f"{name}.safetensors"
        logger = make_logger(document.spec.logger, folder / "logs", name)
        cards[name] = work(recipes[name], data, checkpoint, progress=not as_json, logger=logger)
        if not as_json:
            print(f"{name}: loss {cards[name]['training_loss']:.4f}, {checkpoint}")
    if as_json:
        print_json(cards)


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
