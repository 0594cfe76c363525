"""Euler and Heun on EDM's rho-grid, in the frame (y = z / alpha, s = edm_sigma), where dy/ds = eps_hat.

Both stages of a Heun step are made by the expert that owns the piece, so that a seam does not cost order.
EDM's "18 steps" are 17 here and `final: denoise`, its last Euler step to sigma = 0.

Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval, alpha, edm_sigma
from snrouter.gamma import interval as as_interval
from snrouter.solvers import grids
from snrouter.solvers.base import Direction, Progress, Solution, Solver, Tally, smooth_pieces


class _RhoGrid(Solver):
    """What Euler and Heun share: they differ in one correction."""

    steps: int
    rho: float
    corrected: bool

    def __post_init__(self) -> None:
        grids.check_steps(self.steps)
        if not self.rho > 0:
            raise SpecError(f"rho: expected a positive number, got {self.rho:g}")

    def grid(self, bounds: GammaInterval) -> list[float]:
        """Uniform in edm_sigma^(1/rho)."""
        return grids.rho(bounds, self.steps, self.rho)

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
        """Step along the grid; no noise is drawn."""
        bounds = as_interval(interval)
        grid = self.grid(bounds)
        tally = Tally()
        for piece in smooth_pieces(expert, bounds, direction):

            def slope(y: Tensor, gamma: float, on: Expert = piece.expert) -> Tensor:
                prediction = on(alpha(gamma) * y, gamma, condition)
                tally.add(prediction.calls)
                return prediction.eps_hat  # type: ignore[no-any-return]

            nodes = grids.split(grid, piece.lo, piece.hi)
            nodes = nodes if direction == "encode" else nodes[::-1]
            y = z / alpha(nodes[0])
            for here, there in itertools.pairwise(nodes):
                step = edm_sigma(there) - edm_sigma(here)
                first = slope(y, here)
                ahead = y + step * first
                y = y + step / 2 * (first + slope(ahead, there)) if self.corrected else ahead
                if progress is not None:
                    done = bounds.eta(there)
                    progress(done if direction == "encode" else 1 - done)
            z = alpha(nodes[-1]) * y
        return Solution(z, *tally.per_sample(len(z)))


@dataclass(frozen=True)
class Euler(_RhoGrid):
    """First-order steps on the rho-grid: one network call a step.

    Args:
        steps: number of steps from one end of the interval to the other (a seam adds one).
        rho: exponent of the grid; 7 puts most steps at low noise.
    """

    steps: int = 50
    rho: float = 7.0
    corrected = False


@dataclass(frozen=True)
class Heun(_RhoGrid):
    """Second-order steps on the rho-grid: two network calls a step.

    Args:
        steps: number of steps from one end of the interval to the other (a seam adds one).
        rho: exponent of the grid; 7 puts most steps at low noise.
    """

    steps: int = 18
    rho: float = 7.0
    corrected = True
