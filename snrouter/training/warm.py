"""The first phase of a mixture: each expert is trained on its own slice of the data, by its own recipe's objective.

Separate experts are trained one after the other, each kept under what it was made of, so that recipes which ask for the same share
it. Experts that are one network with heads are trained together: a batch has images of every slice, and each head sees its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snrouter.data.base import ImageData
from snrouter.errors import SpecError, suggestion
from snrouter.experts.checkpoints import load_network
from snrouter.experts.networks.adapter_unet import AdapterUNet
from snrouter.recipe import MixtureRecipe, Recipe
from snrouter.training.gates import Order
from snrouter.training.kept import Steps, alone, made_of
from snrouter.training.networks import train_network, train_once
from snrouter.training.objectives import Objective, arguments_of, around, built
from snrouter.training.progress import told


@dataclass(frozen=True)
class Warm:
    """The experts' networks before the second phase.

    Attributes:
        files: their checkpoints, one an expert, or one of all; none without a first phase.
        sha256: of each.
        steps: how long the phase took, under its name.
    """

    files: Sequence[Path]
    sha256: Sequence[str]
    steps: dict[str, Any]

    def networks(self, recipe: MixtureRecipe, data: ImageData) -> list[nn.Module]:
        """Each expert's, or the one of all, as trained so far or fresh."""
        if self.files:
            return [load_network(file)[0] for file in self.files]
        return [built(recipe.together(), data)] if recipe.adapter else [built(recipe.warmed(0), data) for _ in recipe.experts]


def warm(recipe: MixtureRecipe, order: Order) -> Warm:
    """Carry out the first phase, if the recipe has one.

    Raises:
        SpecError: when a slice is not there.
        DataError: when a slice is empty, or the data lack what it asks for.
    """
    parts = [_members(order, name) for name in recipe.experts.values()]
    if not recipe.warm_steps:
        return Warm([], [], {})
    if recipe.adapter:
        file, card, steps = _together(recipe, order, parts)
        return Warm([file], [card["sha256"]], {"warm": steps})
    done = [
        _alone(recipe.warmed(k), order, part, slice_)
        for k, (part, slice_) in enumerate(zip(parts, recipe.experts.values(), strict=True))
    ]
    each = dict(zip(recipe.experts, (steps for _, _, steps in done), strict=True))
    total = {key: sum(steps.get(key, 0) for steps in each.values()) for key in ("steps", "images", "rows", "seconds")}
    total |= {"found": all(steps["found"] for steps in each.values()), "each": each}
    return Warm([file for file, _, _ in done], [card["sha256"] for _, card, _ in done], {"warm": total})


def _alone(recipe: Recipe, order: Order, part: Tensor, name: str | None) -> tuple[Path, dict[str, Any], Steps]:
    data = order.data
    if name is not None:
        labels = None if data.labels is None else data.labels[part]
        data = ImageData(data.pixels[part], data.levels, labels, f"{data.name}[{name}]", data.protocol)
    made = made_of(recipe, data, order.setting.launch.processes, network=recipe.network)
    file = order.shared / f"{recipe.type}-{_key(made)}.safetensors"
    with alone(file.with_suffix(".lock")):
        return file, *train_network(recipe, data, file, replace(order.setting, logger=None))


def _together(recipe: MixtureRecipe, order: Order, parts: Sequence[Tensor]) -> tuple[Path, dict[str, Any], Steps]:
    own, data = recipe.together(), order.data
    slices = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in parts]
    made = made_of(own, data, order.setting.launch.processes, network=own.network, slices=slices)
    file = order.shared / f"{own.type}-{_key(made)}.safetensors"
    make, setting = partial(_Heads, own, data), replace(order.setting, logger=None)
    with alone(file.with_suffix(".lock")):
        return file, *train_once(own, make, data, file, made, setting, parts=parts)


def _key(made: dict[str, Any]) -> str:
    return hashlib.sha256(told(made).encode()).hexdigest()[:16]


def _members(order: Order, name: str | None) -> Tensor:
    """Indices of the images of a slice, or of all."""
    document, data = order.document, order.data
    if name is None:
        return torch.arange(len(data))
    known = document.spec.slices
    if name not in known:
        there = f"there are {', '.join(known)}" if known else "add e.g. slices: {round: {classes: [0, 6]}}"
        raise SpecError(f"train.{order.name}.experts: no slice {name!r}{suggestion(name, known)}; {there}")
    indices: Tensor = document.members(name, data).nonzero()[:, 0]
    return indices


class _Heads(Objective):
    """The mean of the losses of heads, each on its own part of the batch."""

    def __init__(self, recipe: Recipe, data: ImageData) -> None:
        network = built(recipe, data)
        assert isinstance(network, AdapterUNet)
        super().__init__(network)
        self.recipe = recipe
        self.each = nn.ModuleList(around(recipe, network.head(k), data) for k in range(len(network.heads)))

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Images of all slices, as many of each."""
        count = len(self.each)
        parts = zip(self.each, images.chunk(count), labels.chunk(count) if labels is not None else [None] * count, strict=True)
        return torch.stack([objective.loss(own, own_labels) for objective, own, own_labels in parts]).mean()  # type: ignore[operator]

    def arguments(self) -> dict[str, Any]:
        """Those of all."""
        return arguments_of(self.recipe)
