"""Objectives: a network, and what it is trained to do.

A denoiser's loss is read through the expert that will be used afterwards. A learned schedule gamma = b + |w| t moves its ends by
the whole VLB: the prior and reconstruction terms are added to the diffusion term.

Sources: EDM arXiv 2206.00364 table 1 and section 5; VDM arXiv 2107.00630 section 4 and appendices H and I.1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from snrouter import gamma as axis
from snrouter.data.base import ImageData, from_levels, to_levels
from snrouter.errors import DataError, SpecError
from snrouter.experts import networks, parameterization
from snrouter.experts.base import expand
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import GammaInterval
from snrouter.recipe import Recipe
from snrouter.schedules import Clock, LinearSchedule, Schedule, schedule
from snrouter.training.weighting import Weighting, weighting


class Objective(nn.Module, ABC):
    """A network and what it is trained to do."""

    sparse = False
    """Whether some of the network may have no part in the loss of a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of a batch, images [B, C, H, W] in [-1, 1]."""

    def told(self) -> dict[str, Tensor]:
        """Parts of the last loss, for the log."""
        return {}

    def arguments(self) -> dict[str, Any]:
        """Arguments of the expert, for the card."""
        return {}

    def extra(self) -> dict[str, Tensor]:
        """Trained tensors that are not the network's."""
        return {}


def objective(recipe: Recipe, data: ImageData) -> Objective:
    """The objective of a recipe, around a fresh network.

    Raises:
        DataError: when the data lacks the labels or levels that the recipe needs.
        SpecError: when the network does not fit the images.
    """
    return around(recipe, built(recipe, data), data)


def around(recipe: Recipe, network: nn.Module, data: ImageData) -> Objective:
    """The objective of a recipe around a network that is there.

    Raises:
        DataError: when the data lack the levels that the recipe needs.
    """
    if recipe.type == "classifier":
        return _Classification(network, recipe.input_noise)
    support = axis.interval(recipe.support)  # type: ignore[arg-type] # the recipe's own check
    if recipe.type == "edm" or recipe.weighted != "elbo":
        return _Denoiser(network, recipe, support)
    learned = recipe.schedule == "learned_linear"
    if learned and data.levels is None:
        raise DataError(f"dataset {data.name} has no levels, so no end to a learned schedule; set schedule: linear")
    return _Bound(network, support, data.levels if learned else None)


def built(recipe: Recipe, data: ImageData) -> nn.Module:
    """A recipe's fresh network, checked against the data.

    Raises:
        DataError: when the data lack the labels that it needs.
        SpecError: when it does not fit the images.
    """
    network = networks.build(recipe.network)
    channels = getattr(network, "in_channels", data.shape[0])
    if channels != data.shape[0]:
        raise SpecError(
            f"network: takes {channels} channels, but {data.name} has {data.shape[0]}; set in_channels: {data.shape[0]}"
        )
    if data.labels is None and (recipe.type == "classifier" or getattr(network, "classes", False)):
        raise DataError(f"dataset {data.name} has no labels, which this recipe needs; give labelled data")
    return network


class _Classification(Objective):
    def __init__(self, network: nn.Module, input_noise: float) -> None:
        super().__init__(network)
        self.input_noise = input_noise

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        noisy = images + self.input_noise * torch.randn_like(images)
        return nn.functional.cross_entropy(self.network(noisy), cast(Tensor, labels))


class _Denoiser(Objective):
    """The weighted noise error of an EDM network, or of a VDM network on a fixed schedule."""

    def __init__(self, network: nn.Module, recipe: Recipe, support: GammaInterval) -> None:
        super().__init__(network)
        self.recipe = recipe
        self.support = support
        self.weighting: Weighting = weighting(recipe, support)
        self.scale = recipe.data_scale if recipe.type == "edm" else 1.0
        self.expert = experts_of(recipe, [network])[0]

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        own, root = self.weighting(times(len(images)))
        error = _noise_error(self.expert, images, own - 2 * math.log(self.scale), labels)
        return (error.square() / expand(root, error).square()).mean()

    def arguments(self) -> dict[str, Any]:
        return arguments_of(self.recipe)


class _Bound(Objective):
    """VDM's VLB in nats per dimension; with `levels`, the ends are trained and its other two terms are added."""

    def __init__(self, network: nn.Module, support: GammaInterval, levels: int | None) -> None:
        super().__init__(network)
        self.levels = levels
        self.support = support
        self.line = _Line(support, trained=levels is not None)
        moving = GammaInterval(-math.inf, math.inf) if levels else support
        self.expert = _expert(network, parameterization.eps, self.line.t, moving)

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        lo, hi = self.line.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64)).unbind()
        error = _noise_error(self.expert, images, self.line.gamma(times(len(images))), labels)
        diffusion = (hi - lo).to(images) / 2 * error.square().mean()
        if self.levels is None:
            return diffusion
        prior = (-hi).exp().to(images) / 2 * images.square().mean()
        scale = axis.edm_sigma(lo).to(images)
        noisy = images + scale * torch.randn_like(images)
        centres = from_levels(torch.arange(self.levels, device=images.device), self.levels)
        logits = -((noisy[..., None] - centres) / scale).square() / 2
        own = to_levels(images, self.levels)[..., None]
        return diffusion + prior + (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, own)).mean()

    def arguments(self) -> dict[str, Any]:
        if self.levels is None:
            return {"support": list(self.support)}
        start = self.line.b.item()
        return {"support": [start, start + abs(self.line.w.item())]}

    def extra(self) -> dict[str, Tensor]:
        return {} if self.levels is None else {"schedule.b": self.line.b, "schedule.w": self.line.w}


class _Line(nn.Module, Schedule):
    """gamma = b + |w| t, fixed or trained."""

    def __init__(self, support: GammaInterval, trained: bool) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(support.gamma_min), trained)
        self.w = nn.Parameter(torch.tensor(support.length), trained)

    def gamma(self, t: Tensor) -> Tensor:
        return self.b.to(t) + self.w.abs().to(t) * t

    def t(self, gamma: Tensor) -> Tensor:
        return (gamma - self.b.to(gamma)) / self.w.abs().to(gamma)


def experts_of(recipe: Recipe, of: Sequence[nn.Module]) -> list[NetworkExpert]:
    """Networks as experts of a recipe on a fixed schedule, read alike, so that those with one trunk share its features."""
    support = axis.interval(recipe.support)  # type: ignore[arg-type] # the recipe's own check
    if recipe.type == "edm":
        row: parameterization.Parameterization = partial(parameterization.edm, sigma_data=recipe.sigma_data)
        clock = schedule("edm_c_noise").t
        return [_expert(network, row, clock, support, recipe.data_scale) for network in of]
    clock = LinearSchedule(*support).t
    return [_expert(network, parameterization.eps, clock, support) for network in of]


def arguments_of(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the expert of a recipe on a fixed schedule, for the card."""
    support = {"support": list(axis.interval(recipe.support))}  # type: ignore[arg-type] # the recipe's own check
    if recipe.type == "vdm":
        return support
    return support | {"sigma_data": recipe.sigma_data, "data_scale": recipe.data_scale}


def _expert(
    network: nn.Module,
    row: parameterization.Parameterization,
    noise_level: Clock,
    support: GammaInterval,
    data_scale: float = 1.0,
) -> NetworkExpert:
    conditional = bool(getattr(network, "classes", 0))
    return NetworkExpert(network, row, noise_level, support, data_scale=data_scale, conditional=conditional)


def times(batch: int) -> Tensor:
    """Low-discrepancy times in [0, 1), float64 [B] on the CPU."""
    return (torch.rand((), dtype=torch.float64) + torch.arange(batch, dtype=torch.float64) / batch) % 1


def _noise_error(expert: NetworkExpert, images: Tensor, gamma: Tensor, labels: Tensor | None) -> Tensor:
    """eps_hat - eps [B, ...] at fresh noise."""
    eps = torch.randn_like(images)
    z = expand(axis.alpha(gamma), images) * images + expand(axis.sigma(gamma), images) * eps
    return expert.predict(z, gamma, labels).eps_hat - eps
