"""The loop around an objective: Lightning, AdamW, warm-up and decay, an average of the weights."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from snrouter.data.base import ImageData
from snrouter.errors import NonFiniteError
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.files import check_writable
from snrouter.quiet import quiet_lightning
from snrouter.recipe import Recipe
from snrouter.training.objectives import Objective, objective


def train(
    recipe: Recipe,
    data: ImageData,
    checkpoint: Path,
    *,
    progress: bool = True,
    accelerator: str = "auto",
    logger: Logger | None = None,
) -> dict[str, Any]:
    """Train a network and write its checkpoint and card.

    Two trainings of one recipe on one machine, with as many threads, write the same bits. The caller's random state
    is kept.

    Args:
        recipe: what to train, and how.
        data: images, with labels for a classifier or a conditional network.
        checkpoint: the .safetensors file to write; its card is written beside it.
        progress: show a progress bar on stderr.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...; one device is used.
        logger: Lightning's; gets the recipe, and the loss every 50 steps.

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
        run = _Training(recipe, objective(recipe, data))
        trainer = Trainer(
            max_steps=recipe.steps,
            max_epochs=1,  # of as many batches
            accelerator=accelerator,
            devices=1,
            gradient_clip_val=recipe.gradient_clip or None,
            logger=logger or False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar(console_kwargs={"stderr": True})] if progress else [],
        )
        if logger is not None:
            logger.log_hyperparams(recipe.dump())
        try:
            trainer.fit(run, _batches(recipe, data))
        except SystemExit:  # Lightning's way of ending on an interrupt
            raise KeyboardInterrupt from None
    trained = run.objective
    card = {
        "network": recipe.network,
        "expert": trained.arguments(),
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
    return save_checkpoint(checkpoint, run.average.module, card, trained.extra())


class _Training(LightningModule):
    """The loop around an objective: AdamW, warm-up and cosine, an average of the weights."""

    def __init__(self, recipe: Recipe, objective: Objective) -> None:
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
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)

        def factor(step: int) -> float:
            decay = 1.0 if recipe.learning_rate_decay == "none" else (1 + math.cos(math.pi * step / recipe.steps)) / 2
            return min(1.0, (step + 1) / (recipe.warmup + 1)) * decay

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


class _Images(Dataset[tuple[Tensor, ...]]):
    """Images at the bin centres, made batch by batch from their levels; asked by lists of indices."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, ...]:
        images = self.data.images(indices)
        return (images,) if self.data.labels is None else (images, self.data.labels[indices])


def _batches(recipe: Recipe, data: ImageData) -> DataLoader[tuple[Tensor, ...]]:
    order = RandomSampler(
        range(len(data)),  # only its length is read
        num_samples=recipe.steps * recipe.batch_size,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    return DataLoader(_Images(data), sampler=BatchSampler(order, recipe.batch_size, drop_last=True), batch_size=None)
