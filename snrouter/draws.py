"""Random numbers keyed by what they are for, so that no draw depends on batch size, order, device count or resume.

Each draw is the output of NumPy's counter-based Philox4x64 generator at key (seed, purpose) and counter
(block, draw, stage, sample index), made on the CPU in float64 and then cast and moved. Sample i therefore gets the same
numbers whoever computes it and whenever.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from snrouter.errors import SpecError


class Draws:
    """Every draw of one run.

    Args:
        seed: the run's seed, an integer in [0, 2^64).
    """

    def __init__(self, seed: int) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise SpecError(f"seed: expected an integer between 0 and 2^64 - 1, got {seed}")
        self.seed = seed

    def normal(self, purpose: str, indices: Sequence[int], shape: Sequence[int], *, draw: int = 0, stage: int = 0) -> Tensor:
        """Standard normal draws, float64 [len(indices), *shape]."""
        return self._fill(np.random.Generator.standard_normal, purpose, indices, shape, draw, stage)

    def uniform(
        self, purpose: str, indices: Sequence[int], shape: Sequence[int], *, draw: int | Sequence[int] = 0, stage: int = 0
    ) -> Tensor:
        """Uniform draws in [0, 1), float64 [len(indices), *shape]; `draw` is one number, or one an index."""
        return self._fill(np.random.Generator.random, purpose, indices, shape, draw, stage)

    def rademacher(self, purpose: str, indices: Sequence[int], shape: Sequence[int], *, draw: int = 0, stage: int = 0) -> Tensor:
        """Draws of -1 or +1 with equal probability, float64 [len(indices), *shape]."""
        return torch.where(self.uniform(purpose, indices, shape, draw=draw, stage=stage) < 0.5, -1.0, 1.0).double()

    def _fill(
        self,
        sampler: Callable[..., object],
        purpose: str,
        indices: Sequence[int],
        shape: Sequence[int],
        draw: int | Sequence[int],
        stage: int,
    ) -> Tensor:
        if any(index != int(index) or index < 0 for index in indices):
            raise SpecError(f"indices: expected whole numbers of at least 0, got {list(indices)[:8]}")
        key = np.array([self.seed, zlib.crc32(purpose.encode())], dtype=np.uint64)
        out = np.empty((len(indices), math.prod(shape)))
        philox = np.random.Philox(key=key)
        generator = np.random.Generator(philox)
        state = philox.state
        numbers = [draw] * len(indices) if isinstance(draw, int) else draw
        for row, index, number in zip(out, indices, numbers, strict=True):
            state["state"]["counter"][:] = (0, number, stage, index)
            philox.state = state  # setting a state costs a sixth of building a generator
            sampler(generator, out=row)
        return torch.from_numpy(out.reshape(len(indices), *shape))
