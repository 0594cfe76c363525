"""Images on their levels.

Data x lies in [-1, 1]; an image of L levels sits at the bin centres 2 (k + 1/2) / L - 1, k = 0 ... L - 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snrouter.errors import DataError


def to_levels(x: Tensor, levels: int) -> Tensor:
    """The level, 0 ... levels - 1, whose bin centre is nearest to each value of x (the argmax of p(x | z_0)); int64."""
    return ((x.double() + 1) * levels / 2 - 0.5).round().long().clamp(0, levels - 1)


def from_levels(level: Tensor, levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bin centres 2 (k + 1/2) / levels - 1 of level indices, in [-1, 1]."""
    return ((2 * level.double() + 1) / levels - 1).to(dtype)


def check_images(images: Tensor, levels: int | None, source: str = "images") -> None:
    """Check that images are finite, within [-1, 1] and, when `levels` is given, on its bin centres.

    Raises:
        DataError: naming what was found and what to do.
    """
    if not isinstance(images, Tensor) or images.ndim < 2:
        raise DataError(f"{source}: expected a tensor [B, ...], got {type(images).__name__} {list(getattr(images, 'shape', []))}")
    if len(images) == 0:
        raise DataError(f"{source}: no images; expected at least one")
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{source}: NaN or infinite pixels; expected finite values in [-1, 1]")
    if levels is None:
        return
    lo, hi = float(images.min()), float(images.max())
    if lo < -1 or hi > 1:
        raise DataError(
            f"{source}: pixels span [{lo:g}, {hi:g}], expected [-1, 1]; map level k of {levels} to 2 (k + 1/2)/{levels} - 1"
        )
    offset = float((images.double() - from_levels(to_levels(images, levels), levels, torch.float64)).abs().max())
    if offset > 1e-3 / levels + 1e-6:
        raise DataError(
            f"{source}: pixels lie up to {offset:.2g} off the {levels} levels, expected bin centres "
            f"2 (k + 1/2)/{levels} - 1; is levels={levels} right, or are these pixels k/127.5 - 1 (another grid)?"
        )


@dataclass(frozen=True)
class ImageData:
    """A named set of images.

    Attributes:
        pixels: level indices, integer [N, C, H, W] (or finite floats in their own range when `levels` is None).
        levels: L, or None for continuous data.
        labels: class labels [N], or None.
        name: what it is, e.g. "digits/test".
    """

    pixels: Tensor
    levels: int | None
    labels: Tensor | None
    name: str

    def __post_init__(self) -> None:
        if self.pixels.ndim < 2 or len(self.pixels) == 0:
            raise DataError(f"dataset {self.name}: no images (shape {list(self.pixels.shape)}); expected [N, C, H, W]")
        if self.levels is not None:
            lo, hi = int(self.pixels.min()), int(self.pixels.max())
            if lo < 0 or hi >= self.levels:
                raise DataError(f"dataset {self.name}: levels span {lo} to {hi}, expected 0 to {self.levels - 1}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.pixels.shape[1:])

    def images(self, indices: Sequence[int] | slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Images [B, C, H, W] at the bin centres, in [-1, 1]."""
        chosen = self.pixels[indices]
        return chosen.to(dtype) if self.levels is None else from_levels(chosen, self.levels, dtype)

    def content_hash(self) -> str:
        """SHA-256 of pixels, labels, shape and levels."""
        digest = hashlib.sha256(f"{list(self.pixels.shape)} {self.pixels.dtype} {self.levels}".encode())
        digest.update(self.pixels.contiguous().numpy().tobytes())
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()
