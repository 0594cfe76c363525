"""Extractor: what a network finds in images, and one pass over them for every metric that asks."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from snrouter.errors import CheckpointError
from snrouter.metrics.blocks import on_cpu
from snrouter.metrics.likelihood.bits_per_dim import full_float32

What = Literal["features", "logits"]


class Extractor(ABC):
    """Features of images, and the logits of their classes where the network tells classes apart.

    Attributes:
        name: what the result row's `features` says.
        key: hash of all that the numbers depend on, under which they may be kept; None where nothing tells it for certain.
        protocol: how they are made, for the result row: hash of the weights, resize, ...
        has_logits: whether it tells classes apart, where that is known before it is asked.
        batch: images at a time, always the same, so that an image's features do not depend on who asks.
    """

    name: str
    key: str | None
    protocol: Mapping[str, Any]
    has_logits: bool = True
    batch: ClassVar[int] = 64

    @abstractmethod
    def compute(self, images: Tensor, what: What) -> dict[str, Tensor]:
        """`what` [n, ...] of one batch, and whatever else comes of the same pass; without gradients.

        Args:
            images: [n, C, H, W] in [-1, 1], on the CPU, n at most `batch`.
            what: "features" [n, F] or "logits" [n, K]. A network without logits leaves them out.

        Raises:
            CheckpointError: when the network cannot take such images.
        """

    @torch.no_grad()
    def outputs(self, images: Tensor, what: What = "features") -> dict[str, Tensor]:
        """The same of any number of images, float64 on the CPU.

        Raises:
            CheckpointError: when the network cannot take the images, has no such output, or gives no finite matrix.
        """
        with full_float32():
            parts = [self._batch(part.cpu(), what) for part in torch.split(images, self.batch)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def width(self, images: Tensor, what: What = "features") -> int:
        """How many numbers `what` has for images of this shape: tried on these few, on the CPU, once for each shape.

        Raises:
            CheckpointError: as `outputs`.
        """
        known: dict[Any, int] = vars(self).setdefault("_widths", {})
        if (case := (images.shape[1:], what)) not in known:
            with on_cpu():
                known[case] = self.outputs(images, what)[what].shape[1]
        return known[case]

    def _batch(self, images: Tensor, what: What) -> dict[str, Tensor]:
        try:
            found, n = self.compute(images, what), len(images)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"features {self.name}: cannot take images {list(images.shape)} ({reason})") from error
        if what not in found:
            raise CheckpointError(f"features {self.name}: the network gives no {what}; name one that does")
        for name, values in found.items():
            if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != n:
                got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise CheckpointError(f"features {self.name}: expected {name} [{n}, {name[0].upper()}], got {got}")
            if not bool(torch.isfinite(values).all()):
                raise CheckpointError(f"features {self.name}: NaN or infinite {name}; are its weights right?")
        return {name: values.double().cpu() for name, values in found.items()}


def found(measured: MutableMapping[str, Tensor], extractor: Extractor, what: What = "features", count: int | None = None) -> Tensor:
    """`what` of the first `count` of `measured["images"]`, all when left out; kept as `measured["<key>/<what>"]` for other metrics.

    Returns:
        float64 [n, F] or [n, K].

    Raises:
        CheckpointError: as `Extractor.outputs`.
    """
    images = measured["images"]
    count = len(images) if count is None else min(count, len(images))
    if extractor.key is None:
        return extractor.outputs(images[:count], what)[what]
    start = len(measured.get(f"{extractor.key}/{what}", ()))
    if start < count:
        stop = min(math.ceil(count / extractor.batch) * extractor.batch, len(images))  # the same batches, whoever asks first
        for name, values in extractor.outputs(images[start:stop], what).items():
            before = measured.get(f"{extractor.key}/{name}", values[:0])
            if len(before) == start:
                measured[f"{extractor.key}/{name}"] = torch.cat([before, values])
    return measured[f"{extractor.key}/{what}"][:count]


def compact(values: Tensor) -> Tensor:
    """As float32 where that loses nothing, which is so of networks that compute in it."""
    return small if torch.equal((small := values.float()).double(), values) else values


def key_of(*parts: Any) -> str:
    """Hash of what an extractor computes: its kind, its version, the hashes of its files."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
