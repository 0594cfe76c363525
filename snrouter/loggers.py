"""Lightning's loggers by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from snrouter.errors import PluginError

Name = Literal["csv", "tensorboard"]


def make_logger(name: Name | None, folder: Path, run: str) -> Logger | None:
    """A logger that writes into `folder/run/version_<n>`, the next that is free; None where none is asked for.

    Args:
        name: which.
        folder: of all that is logged.
        run: what this part is called.

    Raises:
        PluginError: when it needs a package that is not installed.
    """
    if name is None:
        return None
    if name == "csv":
        return CSVLogger(folder, run)
    try:
        return TensorBoardLogger(folder, run, default_hp_metric=False)
    except ModuleNotFoundError:
        raise PluginError("logger: the package tensorboard is not installed; run pip install 'snrouter[tensorboard]'") from None
