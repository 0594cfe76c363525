"""The loop around an objective: Lightning, AdamW, warm-up and decay, an average of the weights, checkpoints to go on from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

import snrouter.errors
from snrouter.data.base import ImageData
from snrouter.errors import NonFiniteError, SnrouterError, SpecError
from snrouter.files import remove
from snrouter.launch import Launch
from snrouter.launched import is_first
from snrouter.quiet import quiet_lightning, silence_lightning
from snrouter.recipe import Optimisation
from snrouter.training.batches import Images, Shuffled
from snrouter.training.objectives import Objective
from snrouter.training.progress import KEY, WholeFiles, goes_on, told


@dataclass(frozen=True)
class Fitted:
    """What came out of the loop.

    Attributes:
        objective: as trained.
        network: the average of its network's weights.
        loss: mean over the last tenth of the steps.
        seconds: of all the processes that went on from one another.
    """

    objective: Objective
    network: nn.Module
    loss: float
    seconds: float


@dataclass(frozen=True)
class Setting:
    """Where and how visibly a training runs.

    Args:
        progress: show a progress bar on stderr.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...
        logger: Lightning's; gets the recipe, and numbers every so many steps.
        launch: how many processes train together, each on its part of every batch.
    """

    progress: bool = True
    accelerator: str = "auto"
    logger: Logger | None = None
    launch: Launch = field(default_factory=Launch)

    def check(self, batch_size: int) -> None:
        """Check that every process has as many images of a batch.

        Raises:
            SpecError: where it has not.
        """
        if batch_size % self.launch.processes:
            raise SpecError(
                f"batch_size: {batch_size} images cannot be divided among {self.launch.processes} processes; "
                f"make it a multiple, or give fewer --devices"
            )


def fit(
    recipe: Optimisation,
    make: Callable[[], Objective],
    data: ImageData,
    checkpoint: Path,
    made_of: Mapping[str, Any],
    setting: Setting,
    parts: Sequence[Tensor] = (),
) -> Fitted:
    """Run the loop, from the beginning or from where it was stopped; the caller's random state is kept.

    Args:
        recipe: how long, how fast, and from which seed.
        make: the objective, made after the seed is set.
        data: images, with labels where the objective reads them.
        checkpoint: the file to go on from; the caller removes it when what came out is written.
        made_of: what makes this training another than others, as plain data; a checkpoint of another is written over.
        setting: where it runs.
        parts: indices of images, where a batch is `batch_size` images of each of these; of all images when left out.

    Raises:
        NonFiniteError: when the loss becomes NaN or infinite, naming the step.
        OutputError: when the checkpoint cannot be written, or is damaged.
    """
    setting.check(recipe.batch_size)
    with torch.random.fork_rng(), quiet_lightning():
        torch.manual_seed(recipe.seed)
        run = _Training(recipe, make(), data, parts, checkpoint, told(made_of))
        resumed = goes_on(checkpoint, made_of)
        if not resumed:
            remove(checkpoint)
        trainer = _trainer(recipe, setting, sparse=run.objective.sparse)
        if setting.logger is not None:
            setting.logger.log_hyperparams(recipe.dump())
        try:
            trainer.fit(run, ckpt_path=checkpoint if resumed else None)
        except SystemExit:  # Lightning's way of ending on an interrupt
            raise KeyboardInterrupt from None
        except ProcessRaisedException as error:
            raise _of_process(error) from None
    return Fitted(run.objective, run.average.module, run.final_loss(), run.seconds())


def _trainer(recipe: Optimisation, setting: Setting, *, sparse: bool) -> Trainer:
    options = setting.launch.distributed(unused=sparse)
    return Trainer(
        max_steps=recipe.steps,
        max_epochs=1,  # of as many batches
        accelerator=setting.accelerator,
        gradient_clip_val=recipe.gradient_clip or None,
        logger=setting.logger or False,
        log_every_n_steps=max(1, min(50, recipe.steps // 20)),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=setting.progress,
        callbacks=[RichProgressBar(console_kwargs={"stderr": True})] if setting.progress else [],
        use_distributed_sampler=False,
        **options | {"plugins": [WholeFiles(), *options.get("plugins", [])]},
    )


class _Training(LightningModule):
    """The loop around an objective: AdamW, warm-up and cosine, an average of the weights."""

    losses: Tensor

    def __init__(
        self,
        recipe: Optimisation,
        objective: Objective,
        data: ImageData,
        parts: Sequence[Tensor],
        checkpoint: Path,
        made_of: str,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective
        self.data = data
        self.parts = parts
        self.checkpoint = checkpoint
        self.made_of = made_of
        self.made_by = os.getpid()
        self.average = AveragedModel(objective.network, multi_avg_fn=partial(_average, recipe.ema)).requires_grad_(False)
        self.register_buffer("losses", torch.full((recipe.steps,), torch.nan))
        self.generators: list[dict[str, Any]] | None = None
        self.before, self.since = 0.0, time.monotonic()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["made_by"] != os.getpid():  # a spawned process begins here
            silence_lightning()
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        parts = self.parts or [torch.arange(len(self.data))]
        order = Shuffled(self.recipe, parts, self.global_step, self.global_rank, self.trainer.world_size)
        return DataLoader(Images(self.data), sampler=order, batch_size=None)

    def on_train_start(self) -> None:
        if self.trainer.world_size > 1:
            torch.manual_seed(self.recipe.seed + ((self.global_rank + 1) << 20))  # each its own noise, times and dropout

    def on_train_batch_start(self, *_: object) -> None:
        if self.generators is not None:
            _set_generators(self.generators[self.global_rank], self.device)
            self.generators = None

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch if len(batch) == 2 else (batch[0], None)
        try:
            loss, parts = self.objective.loss(images, labels), self.objective.told()
        except NonFiniteError as error:
            raise self._not_finite(torch.nan, f" ({error})") from error
        if not bool(torch.isfinite(loss)):
            raise self._not_finite(float(loss.detach()))
        self.losses[self.global_step] = loss.detach()
        self.log("loss", loss, prog_bar=True)
        self.log_dict(parts)
        return loss

    def _not_finite(self, loss: float, cause: str = "") -> NonFiniteError:
        return NonFiniteError(
            f"training loss is {loss:g} at step {self.global_step} of {self.recipe.steps}; "
            f"lower learning_rate (now {self.recipe.learning_rate:g}), or check the data for extreme values{cause}"
        )

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.objective.network)
        if self.global_step % self.recipe.checkpoint_every == 0 and self.global_step < self.recipe.steps:
            for logger in self.loggers:
                if isinstance(logger, CSVLogger):
                    logger.save()  # what is logged until here is not logged again
            self.trainer.save_checkpoint(self.checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        generators: list[Any] = [_generators(self.device)]
        if self.trainer.world_size > 1:
            generators = [None] * self.trainer.world_size
            distributed.all_gather_object(generators, _generators(self.device))
        checkpoint[KEY] = {"made_of": self.made_of, "generators": generators, "seconds": self.seconds()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.generators, self.before = checkpoint[KEY]["generators"], checkpoint[KEY]["seconds"]

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)

        def factor(step: int) -> float:
            decay = 1.0 if recipe.learning_rate_decay == "none" else (1 + math.cos(math.pi * step / recipe.steps)) / 2
            return min(1.0, (step + 1) / (recipe.warmup + 1)) * decay

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def final_loss(self) -> float:
        """Mean loss over the last tenth of the steps."""
        return float(self.losses[-max(1, len(self.losses) // 10) :].double().mean())

    def seconds(self) -> float:
        """Since the training began, but for the time that it lay."""
        return self.before + time.monotonic() - self.since


@torch.no_grad()
def _average(decay: float, average: Sequence[Tensor], current: Sequence[Tensor], step: Tensor | int) -> None:
    """Move the average towards the current weights."""
    n = int(step)
    weight = 1 - min(decay, (1 + n) / (10 + n))
    for mean, value in zip(average, current, strict=True):
        mean.lerp_(value, weight)


def _generators(device: torch.device) -> dict[str, Any]:
    """States of the random generators that a training draws from."""
    states = {"cpu": torch.random.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_generators(states: Mapping[str, Any], device: torch.device) -> None:
    torch.random.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _of_process(error: ProcessRaisedException) -> Exception:
    """What another process raised, which reaches this one as text."""
    last = str(error).strip().splitlines()[-1]
    name, _, message = last.partition(": ")
    kind = getattr(snrouter.errors, name.rpartition(".")[2], None)
    return kind(message) if isinstance(kind, type) and issubclass(kind, SnrouterError) else error


def first_writes(write: Callable[[], object]) -> None:
    """Let the first of the processes that a launcher started write, and the others wait until it has."""
    if is_first():
        write()
    if distributed.is_initialized():
        distributed.barrier()
