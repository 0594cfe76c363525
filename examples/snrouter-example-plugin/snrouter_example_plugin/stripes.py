"""Stripes: synthetic images of any size and number of levels, labelled by their direction."""

from __future__ import annotations

import math

import torch
from snrouter.data.base import ImageData, to_levels
from snrouter.draws import Draws
from snrouter.errors import SpecError


def stripes(count: int = 256, size: int = 8, levels: int = 17, seed: int = 0) -> ImageData:
    """Sinusoidal stripes [count, 1, size, size] of random direction, period (4 pixels or more) and phase.

    Args:
        count: how many images.
        size: side of an image.
        levels: number of levels L.
        seed: image i is the same for any count.

    Raises:
        SpecError: when there would be no image, side or level to speak of.
    """
    if count < 1 or size < 4 or not 2 <= levels <= 256:
        raise SpecError(f"stripes: expected count >= 1, size >= 4 and levels 2 to 256, got {count}, {size}, {levels}")
    direction, frequency, phase = Draws(seed).uniform("stripes", range(count), (3,)).unbind(1)
    labels = (direction < 0.5).long()
    at = torch.arange(size, dtype=torch.float64)
    wave = (2 * math.pi * (frequency[:, None] / 4 * at + phase[:, None])).sin()[:, None, None, :].expand(-1, 1, size, size)
    images = torch.where(labels.bool()[:, None, None, None], wave, wave.mT)
    return ImageData(to_levels(images, levels).to(torch.uint8), levels, labels, f"stripes/seed={seed}")
