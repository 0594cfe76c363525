"""Experts trained with their gate: by themselves first (`warm`), then all on all images by the mixture's bound.

Separate experts are a file each, experts with a shared encoder one file of as many heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snrouter.errors import SupportError
from snrouter.experts import networks
from snrouter.experts.checkpoints import read_card, save_checkpoint
from snrouter.experts.networks.adapter_unet import AdapterUNet
from snrouter.files import check_writable, remove
from snrouter.recipe import MixtureRecipe
from snrouter.training.gates import Made, Order, freeze, gate_config, gate_route, mixing, mixture_made_of
from snrouter.training.gating import Mixing
from snrouter.training.kept import found, read_steps, steps_of, write_steps
from snrouter.training.loop import first_writes, fit
from snrouter.training.objectives import arguments_of, built, experts_of
from snrouter.training.warm import Warm, warm


def train_mixture(recipe: MixtureRecipe, order: Order) -> Made:
    """Train experts by themselves, then with their gate.

    Raises:
        SpecError: when a network does not fit, or a slice is not there.
        SupportError: when the experts' support does not hold the spec's interval.
        DataError: when a slice is empty, or the data lack what it asks for.
    """
    folder, names = order.out / order.name, [*recipe.experts]
    check_writable(folder)
    _check(recipe, order)
    start = warm(recipe, order)
    cards, components = _files(recipe, order, folder)
    by_gate = recipe.routing == "gate"
    route = gate_route(recipe, folder / "gate.safetensors") if by_gate else {"type": "random", "among": names}
    made = mixture_made_of(recipe, order, warm=[*start.sha256])
    there = [found(path, card | made) for path, card in cards.items()]
    if all(there) and there[-1] is not None:
        return Made(components, route, there[-1], read_steps(folder / "steps.json"))
    steps = _second_phase(recipe, order, start, cards, made)
    return Made(components, route, read_card([*cards][-1]), steps)


def _check(recipe: MixtureRecipe, order: Order) -> None:
    """Find out what the second phase would refuse before the first is trained."""
    order.setting.check(recipe.batch_size)
    bounds = order.document.bounds
    with torch.random.fork_rng(devices=[]):
        support = experts_of(recipe.warmed(0), [built(recipe.warmed(0), order.data)])[0].support
        if not (support.covers(bounds.gamma_min) and support.covers(bounds.gamma_max)):
            at = f"train.{order.name}.expert.support"
            raise SupportError(f"{at}: {support} does not hold the interval {bounds}; widen it, or narrow the interval")
        if recipe.routing == "gate":
            networks.build(gate_config(recipe, order, len(recipe.experts)))


class _Bank(nn.Module):
    """The networks that the second phase trains."""

    def __init__(self, experts: Sequence[nn.Module], gate: nn.Module | None) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate


def _files(recipe: MixtureRecipe, order: Order, folder: Path) -> tuple[dict[Path, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What is written, each file with what its card says, the gate last; and the experts as components."""
    own, names = recipe.together() if recipe.adapter else recipe.warmed(0), [*recipe.experts]
    card: dict[str, Any] = {"type": own.type, "network": own.network, "expert": arguments_of(own)}
    if recipe.adapter:
        joined = folder / "experts.safetensors"
        cards = {joined: card | {"heads": names}}
        components = {name: {"type": own.type, "checkpoint": str(joined), "head": k} for k, name in enumerate(names)}
    else:
        files = {name: folder / f"{name}.safetensors" for name in names}
        cards = dict.fromkeys(files.values(), card)
        components = {name: {"type": own.type, "checkpoint": str(file)} for name, file in files.items()}
    if recipe.routing == "gate":
        network = gate_config(recipe, order, len(names))
        cards[folder / "gate.safetensors"] = {"network": network, "gate": {"experts": names}}
    return cards, components


def _second_phase(
    recipe: MixtureRecipe, order: Order, start: Warm, cards: dict[Path, dict[str, Any]], made: dict[str, Any]
) -> dict[str, Any]:
    """Train experts and gate, or the gate alone, and write them; how long each phase took."""
    second = recipe.second()
    running = order.out / f"{order.name}.ckpt"

    def make() -> Mixing:
        parts = start.networks(recipe, order.data)
        heads = [parts[0].head(k) for k in range(len(recipe.experts))] if isinstance(parts[0], AdapterUNet) else parts
        experts = dict(zip(recipe.experts, experts_of(recipe.warmed(0), heads), strict=True))
        if not recipe.joint:
            freeze(experts.values())
        gate = networks.build(gate_config(recipe, order, len(experts))) if recipe.routing == "gate" else None
        bank = _Bank(parts if recipe.joint else [], gate)
        return mixing(recipe, bank, experts, gate, order.document.bounds, conditional=True)

    trained = fit(second, make, order.data, running, made, order.setting)
    bank: Any = trained.network
    kept = [*bank.experts] or start.networks(recipe, order.data)
    kept += [bank.gate] if bank.gate is not None else []

    rows = 1 if recipe.routing == "random" else recipe.top_k or len(recipe.experts)
    steps = start.steps | {"joint" if recipe.joint else "gate": steps_of(second, 1, rows, trained.seconds)}

    def write() -> None:
        write_steps(order.out / order.name / "steps.json", steps)
        for (path, card), network in zip(cards.items(), kept, strict=True):
            save_checkpoint(path, network, card | made | {"training_loss": round(trained.loss, 6)})
        remove(running)

    first_writes(write)
    return steps
