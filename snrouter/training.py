"""Trains small experts and classifiers from a recipe.

The two losses are one, E_gamma w(gamma) ||eps - eps_hat||^2, read through the expert that will be used afterwards:

    EDM   gamma = 2 ln s, ln s ~ N(p_mean, p_std^2) truncated to the support;  w = 1/b^2 with b = d eps_hat / d F, which
          is the loss of the raw output F and EDM's lambda(s) = (s^2 + sigma_data^2) / (s sigma_data)^2 on the image;
    VDM   gamma uniform on [gamma_min, gamma_max];  w = (gamma_max - gamma_min) / 2, the diffusion term of the VLB.

Times are low-discrepancy within a batch, t_i = (u + i/B) mod 1. A learned schedule gamma = b + |w| t moves its ends by
the whole VLB: the prior and reconstruction terms are added.

Sources: EDM arXiv 2206.00364 table 1 and section 5; VDM arXiv 2107.00630 section 4 and appendices H and I.1.
"""

from __future__ import annotations

import math
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from snrouter import gamma as axis
from snrouter.data.base import ImageData, from_levels, to_levels
from snrouter.errors import DataError, NonFiniteError, SpecError
from snrouter.experts import networks, parameterization
from snrouter.experts.base import expand
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.network import NetworkExpert
from snrouter.files import check_writable
from snrouter.gamma import GammaInterval
from snrouter.quiet import quiet_lightning
from snrouter.recipe import Recipe
from snrouter.schedules import Clock, Schedule, schedule


def train(recipe: Recipe, data: ImageData, checkpoint: Path, *, progress: bool = True, accelerator: str = "auto") -> dict[str, Any]:
    """Train a network and write its checkpoint and card.

    Two trainings of one recipe on one machine, with as many threads, write the same bits. The caller's random state
    is kept.

    Args:
        recipe: what to train, and how.
        data: images, with labels for a classifier or a conditional network.
        checkpoint: the .safetensors file to write; its card is written beside it.
        progress: show a progress bar on stderr.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...; one device is used.

    Returns:
        The card.

    Raises:
        DataError: when the data lacks the labels or levels that the recipe needs.
        SpecError: when the network does not fit the images.
        NonFiniteError: when the loss becomes NaN or infinite, naming the step.
        OutputError: when the checkpoint cannot be written.
    """
    check_writable(checkpoint.parent)
    with torch.random.fork_rng(), quiet_lightning():
        torch.manual_seed(recipe.seed)
        run = _Training(recipe, _objective(recipe, data))
        trainer = Trainer(
            max_steps=recipe.steps,
            accelerator=accelerator,
            devices=1,
            gradient_clip_val=recipe.gradient_clip,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar(console_kwargs={"stderr": True})] if progress else [],
        )
        try:
            trainer.fit(run, _batches(recipe, data))
        except SystemExit:  # Lightning's way of ending on an interrupt
            raise KeyboardInterrupt from None
    objective = run.objective
    card = {
        "network": recipe.network,
        "expert": objective.arguments(),
        "recipe": recipe.dump(),
        "data": {"name": data.name, "sha256": data.content_hash(), "images": len(data)},
        "seed": recipe.seed,
        "training_loss": round(run.final_loss(), 6),
        "versions": {
            "snrouter": version("snrouter"),
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "python": platform.python_version(),
        },
    }
    return save_checkpoint(checkpoint, run.average.module, card, objective.extra())


class _Objective(nn.Module, ABC):
    """A network and what it is trained to do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean loss of a batch, images [B, C, H, W] in [-1, 1]."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of the expert, for the card."""
        return {}

    def extra(self) -> dict[str, Tensor]:
        """Trained tensors that are not the network's."""
        return {}


class _Classification(_Objective):
    def __init__(self, network: nn.Module, input_noise: float) -> None:
        super().__init__(network)
        self.input_noise = input_noise

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        noisy = images + self.input_noise * torch.randn_like(images)
        return nn.functional.cross_entropy(self.network(noisy), cast(Tensor, labels))


class _EDM(_Objective):
    def __init__(self, network: nn.Module, recipe: Recipe, support: GammaInterval) -> None:
        super().__init__(network)
        self.recipe = recipe
        self.support = support
        self.shift = 2 * math.log(recipe.data_scale)
        row = partial(parameterization.edm, sigma_data=recipe.sigma_data)
        self.expert = _expert(network, row, schedule("edm_c_noise").t, support, recipe.data_scale)

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        mean, std = 2 * self.recipe.p_mean, 2 * self.recipe.p_std
        lo, hi = torch.special.ndtr((torch.tensor(self.support, dtype=torch.float64) - mean) / std)
        own = mean + std * torch.special.ndtri(lo + (hi - lo) * _times(len(images)))  # the network's own gamma
        error = _noise_error(self.expert, images, own - self.shift, labels)
        b: Tensor = self.expert.parameterization(own).b
        return (error.square() / expand(b, error).square()).mean()

    def arguments(self) -> dict[str, Any]:
        chosen = {"sigma_data": self.recipe.sigma_data, "data_scale": self.recipe.data_scale}
        return {"support": list(self.support), **chosen}


class _VDM(_Objective):
    """The VLB in nats per dimension; with `levels`, the ends are trained and its other two terms are added."""

    def __init__(self, network: nn.Module, support: GammaInterval, levels: int | None) -> None:
        super().__init__(network)
        self.levels = levels
        self.support = support
        self.line = _Line(support, trained=levels is not None)
        moving = GammaInterval(-math.inf, math.inf) if levels else support
        self.expert = _expert(network, parameterization.eps, self.line.t, moving)

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        lo, hi = self.line.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64)).unbind()
        error = _noise_error(self.expert, images, self.line.gamma(_times(len(images))), labels)
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


class _Training(LightningModule):
    """The loop around an objective: AdamW, warm-up and cosine, an average of the weights."""

    def __init__(self, recipe: Recipe, objective: _Objective) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective
        self.average = AveragedModel(objective.network, multi_avg_fn=_average(recipe.ema))
        self.losses: list[Tensor] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch if len(batch) == 2 else (batch[0], None)
        try:
            loss = self.objective.loss(images, labels)
        except NonFiniteError:
            loss = torch.tensor(torch.nan)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"training loss is {float(loss.detach()):g} at step {index} of {self.recipe.steps}; "
                f"lower learning_rate (now {self.recipe.learning_rate:g}), or check the data for extreme values"
            )
        self.losses.append(loss.detach())
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.objective.network)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        decayed = [p for p in self.objective.parameters() if p.ndim > 1]
        others = [p for p in self.objective.parameters() if p.ndim <= 1 and p.requires_grad]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / (recipe.warmup + 1)) * (1 + math.cos(math.pi * step / recipe.steps)) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def final_loss(self) -> float:
        """Mean loss over the last tenth of the steps."""
        return float(torch.stack(self.losses[-max(1, len(self.losses) // 10) :]).double().mean())


def _average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], step: Tensor | int) -> None:
        n = int(step)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for mean, value in zip(average, current, strict=True):
            mean.lerp_(value, weight)

    return update


def _objective(recipe: Recipe, data: ImageData) -> _Objective:
    network = networks.build(recipe.network)
    channels = getattr(network, "in_channels", data.shape[0])
    if channels != data.shape[0]:
        raise SpecError(
            f"network: takes {channels} channels, but {data.name} has {data.shape[0]}; set in_channels: {data.shape[0]}"
        )
    if data.labels is None and (recipe.type == "classifier" or getattr(network, "classes", False)):
        raise DataError(f"dataset {data.name} has no labels, which this recipe needs; give labelled data")
    if recipe.type == "classifier":
        return _Classification(network, recipe.input_noise)
    support = axis.interval(recipe.support)  # type: ignore[arg-type] # the recipe's own check
    if recipe.type == "edm":
        return _EDM(network, recipe, support)
    learned = recipe.schedule == "learned_linear"
    if learned and data.levels is None:
        raise DataError(f"dataset {data.name} has no levels, so no end to a learned schedule; set schedule: linear")
    return _VDM(network, support, data.levels if learned else None)


def _expert(
    network: nn.Module,
    row: parameterization.Parameterization,
    noise_level: Clock,
    support: GammaInterval,
    data_scale: float = 1.0,
) -> NetworkExpert:
    conditional = bool(getattr(network, "classes", False))
    return NetworkExpert(network, row, noise_level, support, data_scale=data_scale, conditional=conditional)


def _times(batch: int) -> Tensor:
    """Low-discrepancy times in [0, 1), float64 [B] on the CPU."""
    return (torch.rand((), dtype=torch.float64) + torch.arange(batch, dtype=torch.float64) / batch) % 1


def _noise_error(expert: NetworkExpert, images: Tensor, gamma: Tensor, labels: Tensor | None) -> Tensor:
    """eps_hat - eps [B, ...] at fresh noise."""
    eps = torch.randn_like(images)
    z = expand(axis.alpha(gamma), images) * images + expand(axis.sigma(gamma), images) * eps
    return expert.predict(z, gamma, labels).eps_hat - eps


def _batches(recipe: Recipe, data: ImageData) -> DataLoader[tuple[Tensor, ...]]:
    tensors = [data.images()] if data.labels is None else [data.images(), data.labels]
    order = RandomSampler(
        range(len(data)),  # only its length is read
        num_samples=recipe.steps * recipe.batch_size,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    return DataLoader(TensorDataset(*tensors), sampler=BatchSampler(order, recipe.batch_size, drop_last=True), batch_size=None)
