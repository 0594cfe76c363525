"""Ancestral sampling (paper arXiv 2511.19434, algorithm 2 and the listing of appendix B.2).

From gamma_t to gamma_s < gamma_t, with c = -expm1(gamma_s - gamma_t):

    mean = alpha_s / alpha_t (z - c sigma_t eps_hat),    std = sigma_s sqrt(c).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.gamma import interval as as_interval
from snrouter.solvers import grids
from snrouter.solvers.base import Direction, Progress, Solution, Solver, Tally, sample_indices, smooth_pieces


@dataclass(frozen=True)
class Ancestral(Solver):
    """Stochastic steps uniform in gamma; a step that starts at a switch is the expert's below it (eq. 9).

    Args:
        steps: number of steps T.
    """

    steps: int = 256

    def __post_init__(self) -> None:
        grids.check_steps(self.steps)

    @property
    def encodes(self) -> bool:
        """It draws noise."""
        return False

    def grid(self, bounds: GammaInterval) -> list[float]:
        """Uniform in gamma."""
        return grids.uniform(bounds, self.steps)

    def steps_on(self, lo: float, hi: float, bounds: GammaInterval) -> int:
        """Steps that start on (lo, hi]: a step is not cut at a seam."""
        return sum(lo < node <= hi for node in self.grid(bounds))

    @torch.no_grad()
    def solve(
        self,
        expert: Expert,
        z: Tensor,
        interval: GammaInterval | tuple[float, float],
        *,
        indices: Sequence[int] | None = None,
        condition: Tensor | None = None,
        seed: int = 0,
        direction: Direction = "sample",
        progress: Progress | None = None,
    ) -> Solution:
        """Draw z_0 step by step; the noise of sample i at step j is keyed by (seed, i, j)."""
        if direction != "sample":
            raise SpecError("ancestral sampling is stochastic and cannot encode; use solver {type: ode}")
        bounds = as_interval(interval)
        smooth_pieces(expert, bounds, direction)
        keys, draws, tally = sample_indices(z, indices), Draws(seed), Tally()
        grid = self.grid(bounds)[::-1]
        for number, (t, s) in enumerate(itertools.pairwise(grid)):
            prediction = expert(z, t, condition)
            tally.add(prediction.calls)
            c = -math.expm1(s - t)
            mean = alpha(s) / alpha(t) * (z - c * sigma(t) * prediction.eps_hat)
            noise = draws.normal("ancestral", keys, z.shape[1:], draw=number).to(z)
            z = mean + sigma(s) * math.sqrt(c) * noise
            if progress is not None:
                progress((number + 1) / self.steps)
        return Solution(z, *tally.per_sample(len(z)))
