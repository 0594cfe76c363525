"""How far a training is, on disk: Lightning's own checkpoint, written whole every so many steps and read as data, no code run.

It holds weights, their average, the optimiser's state, the number of steps, which is the place in the data's order, and the states
of every process's random generators, so that what goes on from it ends with the bits of a training that was never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from snrouter.errors import DamagedError
from snrouter.files import replacing

KEY = "snrouter"
"""Under which a checkpoint holds what is ours."""


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and of which only tensors and plain data are read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it aside, then move it into place.

        Raises:
            OutputError: when it cannot be written.
        """
        content = BytesIO()  # into a file, PyTorch would tell a full disk as a fault of its own
        torch.save(checkpoint, content)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read it, its tensors on the CPU.

        Raises:
            DamagedError: when it is no such file.
        """
        return _load(Path(path))


def _load(path: Path) -> dict[str, Any]:
    """A checkpoint, its tensors on the CPU.

    Raises:
        DamagedError: when it is no such file.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedError(f"{path}: cannot be read as a training's checkpoint ({reason}); remove it to start over") from None
    if not isinstance(found, dict):
        raise DamagedError(f"{path}: is no training's checkpoint; remove it to start over")
    return found


def goes_on(path: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether there is a checkpoint of the same training.

    Raises:
        DamagedError: when there is a file that is none.
    """
    if not path.is_file():
        return False
    own = _load(path).get(KEY)
    return isinstance(own, dict) and own.get("made_of") == told(made_of)


def told(made_of: Mapping[str, Any]) -> str:
    """What a training is made of, as text that is equal where it is."""
    return json.dumps(made_of, sort_keys=True)
