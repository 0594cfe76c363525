"""One network trained from its recipe: an expert, or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.experts.checkpoints import read_card, save_checkpoint
from snrouter.files import check_writable, remove
from snrouter.recipe import Optimisation, Recipe
from snrouter.training.kept import Steps, found, made_of, read_steps, steps_of, steps_path, write_steps
from snrouter.training.loop import Setting, first_writes, fit
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

    Two trainings of one recipe on one machine, with as many threads, write the same bits, though one was killed and went on.
    One that is done is not done again. The caller's random state is kept.

    Args:
        recipe: what to train, and how.
        data: images, with labels for a classifier or a conditional network.
        checkpoint: the .safetensors file to write; its card is written beside it.
        progress: show a progress bar on stderr.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...; one device is used.
        logger: Lightning's; gets the recipe, and the loss up to twenty times or every 50 steps.

    Returns:
        The card.

    Raises:
        DataError: when the data lacks the labels or levels that the recipe needs.
        SpecError: when the network does not fit the images.
        NonFiniteError: when the loss becomes NaN or infinite, naming the step.
        OutputError: when the checkpoint cannot be written.
    """
    return train_network(recipe, data, checkpoint, Setting(progress, accelerator, logger))[0]


def train_network(recipe: Recipe, data: ImageData, checkpoint: Path, setting: Setting) -> tuple[dict[str, Any], Steps]:
    """The same, and how long it took."""
    made = made_of(recipe, data, setting.launch.processes, network=recipe.network)
    return train_once(recipe, partial(objective, recipe, data), data, checkpoint, made, setting)


def train_once(
    recipe: Optimisation,
    make: Callable[[], Objective],
    data: ImageData,
    checkpoint: Path,
    made: Mapping[str, Any],
    setting: Setting,
    *,
    parts: Sequence[Tensor] = (),
    rows: int = 1,
) -> tuple[dict[str, Any], Steps]:
    """Train the one network of an objective and write it, unless the same training has; its card, and how long it took.

    Args:
        recipe: how long, how fast, and from which seed.
        make: the objective.
        data: images.
        checkpoint: the .safetensors file to write.
        made: what makes this training another than others; it becomes part of the card.
        setting: where it runs.
        parts: as for `fit`.
        rows: experts that an image runs through.
    """
    check_writable(checkpoint.parent)
    running = checkpoint.with_suffix(".ckpt")
    if (card := found(checkpoint, made)) is not None:
        return card, read_steps(steps_path(checkpoint)).get("train", {"found": True})
    trained = fit(recipe, make, data, running, made, setting, parts)
    extra = {"expert": trained.objective.arguments(), "training_loss": round(trained.loss, 6)}
    steps = steps_of(recipe, max(1, len(parts)), rows, trained.seconds)

    def write() -> None:
        write_steps(steps_path(checkpoint), {"train": steps})
        save_checkpoint(checkpoint, trained.network, {**made, **extra}, trained.objective.extra())
        remove(running)

    first_writes(write)
    return read_card(checkpoint), steps
