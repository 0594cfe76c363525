"""A gate trained over experts of the spec, which stay as they are; and what every gate's training has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from snrouter.data.base import ImageData
from snrouter.errors import SpecError, suggestion
from snrouter.experts import networks
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.plugins import entry_points as plugins
from snrouter.recipe import GateRecipe, Gating
from snrouter.router.gate import TopK
from snrouter.router.routed_expert import RoutedExpert
from snrouter.spec import Document
from snrouter.training.gating import Lots, Mixing, Watched
from snrouter.training.kept import made_of
from snrouter.training.loop import Setting
from snrouter.training.networks import train_once


@dataclass(frozen=True)
class Order:
    """What is to be trained, of which spec, and where.

    Attributes:
        document: the spec.
        name: of the recipe.
        out: the folder of results.
        data: the images.
        shared: where experts of the first phase are kept.
        setting: where trainings run.
    """

    document: Document
    name: str
    out: Path
    data: ImageData
    shared: Path
    setting: Setting


@dataclass(frozen=True)
class Made:
    """Experts and a route as components, the card, and how long each phase took."""

    experts: dict[str, dict[str, Any]]
    route: dict[str, Any]
    card: dict[str, Any]
    steps: dict[str, Any]


def train_gate(recipe: GateRecipe, order: Order) -> Made:
    """Train a gate over experts of the spec.

    Raises:
        SpecError: when it names an expert that is not there, or one that was not trained on all of the interval.
    """
    document, checkpoint = order.document, order.out / f"{order.name}.safetensors"
    names = _names(recipe, order)
    network = gate_config(recipe, order, len(names))
    identities = {name: document.identity(plugins.experts, document.spec.experts[name], ("experts", name)) for name in names}
    made = mixture_made_of(recipe, order, network=network, gate={"experts": [*names]}, experts=identities)

    def make() -> Mixing:
        loaded: dict[Any, Any] = {}
        frozen = {name: document.expert(name, loaded) for name in names}
        freeze(frozen.values())
        gate = networks.build(network)
        return mixing(recipe, gate, frozen, gate, document.bounds, conditional=document.spec.condition == "labels")

    rows = recipe.top_k or len(names)
    card, steps = train_once(recipe, make, order.data, checkpoint, made, order.setting, rows=rows)
    components = document.dump()["experts"]
    return Made({name: components[name] for name in names}, gate_route(recipe, checkpoint), card, {"gate": steps})


def _names(recipe: GateRecipe, order: Order) -> tuple[str, ...]:
    """Of the experts, checked."""
    known = order.document.spec.experts
    names = recipe.experts or tuple(known)
    for name in names:
        if name not in known:
            there = f"{suggestion(name, known)}; there are {', '.join(known)}"
            raise SpecError(f"train.{order.name}.experts: no expert {name!r}{there}")
    if recipe.top_k is not None and recipe.top_k > len(names):
        raise SpecError(f"train.{order.name}.top_k: expected at most {len(names)}, the number of experts, got {recipe.top_k}")
    return names


def mixing(
    recipe: Gating,
    trained: nn.Module,
    experts: Mapping[str, Expert],
    gate: nn.Module | None,
    bounds: GammaInterval,
    *,
    conditional: bool,
) -> Mixing:
    """The objective of a gate, or of lots without one, over experts; `trained` is what is optimised of them."""
    names = tuple(experts)
    if gate is None:
        return Mixing(trained, RoutedExpert(experts, Lots(names)), None, bounds, recipe, conditional)
    watched = Watched(gate, names)
    policy = watched if recipe.top_k is None else TopK(watched, recipe.top_k)
    return Mixing(trained, RoutedExpert(experts, policy), watched, bounds, recipe, conditional)


def freeze(experts: Iterable[Expert]) -> None:
    """Leave experts as they are: no gradients, no dropout."""
    for expert in experts:
        expert.requires_grad_(False).eval()


def gate_config(recipe: Gating, order: Order, experts: int) -> dict[str, Any]:
    """The gate's network, as its card has it."""
    bounds = order.document.bounds
    known = {"type": "gate", "in_channels": order.data.shape[0], "experts": experts}
    return known | {"gamma_min": bounds.gamma_min, "gamma_max": bounds.gamma_max} | recipe.gate


def gate_route(recipe: Gating, checkpoint: Path) -> dict[str, Any]:
    """The route by a gate, as a component."""
    return {"type": "gate", "checkpoint": str(checkpoint)} | ({} if recipe.top_k is None else {"top_k": recipe.top_k})


def mixture_made_of(recipe: Gating, order: Order, **more: Any) -> dict[str, Any]:
    """What makes a mixture's training another than others."""
    document, processes = order.document, order.setting.launch.processes
    return made_of(recipe, order.data, processes, interval=[*document.bounds], condition=document.spec.condition, **more)
