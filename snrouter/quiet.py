"""Keep Lightning's advice (devices, data-loading workers, tips) off the terminal, and what PyTorch says of processes it ends."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LEVELS = {
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "torch.multiprocessing.spawn": logging.ERROR,
}


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Raise the level of Lightning's loggers and ignore its warnings, for a while."""
    loggers = [logging.getLogger(name) for name in _LEVELS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        silence_lightning()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def silence_lightning() -> None:
    """The same for good, for a process of our own."""
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
