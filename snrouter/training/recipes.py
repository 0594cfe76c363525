"""A spec's recipe carried out: what comes out are experts and a route, ready to stand in a spec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from snrouter.errors import SpecError, suggestion
from snrouter.files import write
from snrouter.launch import Launch
from snrouter.loggers import Name, make_logger
from snrouter.recipe import MOST_SEEDS, GateRecipe, MixtureRecipe, Recipe
from snrouter.spec import Document
from snrouter.training.gates import Made, Order, train_gate
from snrouter.training.loop import Setting, first_writes
from snrouter.training.mixtures import train_mixture
from snrouter.training.networks import train_network


@dataclass(frozen=True)
class Trained:
    """What a recipe gave.

    Attributes:
        experts: components to stand under `experts`, by name.
        route: the component to stand under `route`; None of a classifier.
        card: of the network, or of the gate, or of the last expert where there is no gate.
        steps: by phase: `steps` of the optimiser, `images`, `rows` of experts' networks, `seconds`, whether it was `found` done.
    """

    experts: dict[str, dict[str, Any]]
    route: dict[str, Any] | None
    card: dict[str, Any]
    steps: dict[str, Any]


def train_recipe(
    document: Document,
    name: str,
    out: Path,
    *,
    seed: int | None = None,
    shared: Path | None = None,
    progress: bool = True,
    accelerator: str = "auto",
    logger: Name | None = None,
    launch: Launch | None = None,
) -> Trained:
    """Carry out a recipe of a spec on its reference images; one that is done is not done again, one that was killed goes on.

    Args:
        document: the spec.
        name: of the recipe, under `train`.
        out: the folder: `<name>.safetensors`, or of a mixture `<name>/`; of gates and mixtures `<name>.yaml` too, the spec with
            what was trained.
        seed: instead of the recipe's.
        shared: where experts of first phases are kept, for every recipe that asks for the same; `<out>/<name>/warm` when left out.
        progress: show progress bars on stderr.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...
        logger: Lightning's, by name; into `<out>/logs/<name>`.
        launch: how many processes train together, each on its part of every batch; one when left out.

    Raises:
        SpecError: when there is no such recipe or expert, or no reference; when a network does not fit the images, or an expert was
            not trained on the spec's interval.
        DataError: when a slice is empty, or the data lack the labels or levels that the recipe needs.
        NonFiniteError: when the loss becomes NaN or infinite, naming the step.
        OutputError: when what was trained cannot be written.
    """
    recipe = recipe_of(document, name)
    if seed is not None:
        if not 0 <= seed < MOST_SEEDS:
            raise SpecError(f"seed: expected 0 to 2^32 - 1, got {seed}")
        recipe = recipe.model_copy(update={"seed": seed})
    data = document.dataset("reference")
    if data is None:
        raise SpecError("nothing to train on; add reference: {type: digits, split: train}")
    out = out.resolve()
    setting = Setting(progress, accelerator, make_logger(logger, out / "logs", name), launch or Launch())
    if isinstance(recipe, Recipe):
        checkpoint = out / f"{name}.safetensors"
        card, steps = train_network(recipe, data, checkpoint, setting)
        if recipe.type == "classifier":
            return Trained({}, None, card, {"train": steps})
        experts = {name: {"type": recipe.type, "checkpoint": str(checkpoint)}}
        return Trained(experts, {"type": "single", "expert": name}, card, {"train": steps})
    order = Order(document, name, out, data, shared or out / name / "warm", setting)
    made = train_mixture(recipe, order) if isinstance(recipe, MixtureRecipe) else train_gate(recipe, order)
    first_writes(lambda: _write_spec(document, made, out / f"{name}.yaml"))
    return Trained(made.experts, made.route, made.card, made.steps)


def recipe_of(document: Document, name: str) -> Recipe | GateRecipe | MixtureRecipe:
    """A spec's recipe by name.

    Raises:
        SpecError: when there is none of that name.
    """
    recipes = document.spec.train
    if not recipes:
        raise SpecError("nothing to train; add train: {name: {type: edm, ...}} and reference: {type: digits, split: train}")
    if name not in recipes:
        raise SpecError(f"no recipe {name!r}{suggestion(name, recipes)}; there are {', '.join(recipes)}")
    return recipes[name]


def _write_spec(document: Document, made: Made, path: Path) -> None:
    """The spec with what was trained, without what was asked of the experts that it had."""
    raw = document.with_parts(experts=made.experts, route=made.route, train={}).dump()
    for key in ("train", "tune", "sweep", "study"):
        raw.pop(key, None)
    write(path, yaml.safe_dump(raw, sort_keys=False).encode())
