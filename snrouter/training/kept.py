"""What a training wrote, found again: the same training is not done twice, whoever asks for it.

A checkpoint's card says what it was made of. `<name>.steps.json` beside it says how long that took, which no two runs share and
which is therefore no part of the card.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from snrouter.data.base import ImageData
from snrouter.errors import CheckpointError, OutputError
from snrouter.experts.checkpoints import card_path, read_card, sha256
from snrouter.files import write
from snrouter.launched import launched
from snrouter.recipe import Optimisation

Steps = dict[str, Any]
"""One phase: `steps` of the optimiser, `images`, `rows` of experts' networks, `seconds`, and whether it was `found` done."""


def made_of(recipe: Optimisation, data: ImageData, processes: int, **more: Any) -> dict[str, Any]:
    """What makes a training another than others, as it stands in its card."""
    return {
        **more,
        **({"processes": processes} if processes > 1 else {}),
        "recipe": recipe.dump(),
        "data": {"name": data.name, "sha256": data.content_hash(), "images": len(data)},
        "seed": recipe.seed,
        "versions": {
            "snrouter": version("snrouter"),
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "python": platform.python_version(),
        },
    }


def found(checkpoint: Path, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of a checkpoint that the same training wrote, and that is whole; None where there is none."""
    if not (checkpoint.is_file() and card_path(checkpoint).is_file()):
        return None
    try:
        card = read_card(checkpoint)
    except CheckpointError:
        return None
    asked = {"processes": 1} | json.loads(json.dumps(made))
    same = all(({"processes": 1} | card).get(key) == value for key, value in asked.items())
    return card if same and card.get("sha256") == sha256(checkpoint) else None


def steps_of(recipe: Optimisation, parts: int, rows: int, seconds: float) -> Steps:
    """How long a training took, whose batches have so many parts of `batch_size` images, each image run through so many experts."""
    images = recipe.steps * recipe.batch_size * parts
    return {"steps": recipe.steps, "images": images, "rows": images * rows, "seconds": seconds, "found": False}


def write_steps(path: Path, steps: Mapping[str, Any]) -> None:
    """Keep how long a training took.

    Raises:
        OutputError: when it cannot be written.
    """
    write(path, (json.dumps(steps, indent=2) + "\n").encode())


def read_steps(path: Path) -> dict[str, Any]:
    """How long a training took that is found done; nothing where that was not kept."""
    try:
        return {name: {**phase, "found": True} for name, phase in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def steps_path(checkpoint: Path) -> Path:
    """Where how long a training took is kept."""
    return checkpoint.with_suffix(".steps.json")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock, so that of processes which want the same training one does it and the others find it; it goes with its process.

    Raises:
        OutputError: when the lock cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another folder") from None
    with file:
        with suppress(ModuleNotFoundError):  # not on Windows, where the training may then be done twice, with the same outcome
            import fcntl

            if launched() is None:  # those of a launcher do it together
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
