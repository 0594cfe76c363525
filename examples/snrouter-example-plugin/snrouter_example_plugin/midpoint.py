"""Midpoint: the second-order Runge-Kutta method of that name, on a grid uniform in gamma."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.solvers import grids
from snrouter.solvers.base import Direction, Progress, Solution, Solver, Tally, drift, smooth_pieces
from torch import Tensor


@dataclass(frozen=True)
class Midpoint(Solver):
    """Two network calls a step, both of the expert that owns the piece.

    Args:
        steps: number of steps (a seam adds one).
    """

    steps: int = 32

    def __post_init__(self) -> None:
        grids.check_steps(self.steps)

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
        bounds, tally = as_interval(interval), Tally()
        for piece in smooth_pieces(expert, bounds, direction):

            def slope(z: Tensor, gamma: float, on: Expert = piece.expert) -> Tensor:
                prediction = on(z, gamma, condition)
                tally.add(prediction.calls)
                return drift(z, gamma, prediction.eps_hat)

            nodes = grids.split(grids.uniform(bounds, self.steps), piece.lo, piece.hi)
            for here, there in itertools.pairwise(nodes if direction == "encode" else nodes[::-1]):
                step = there - here
                z = z + step * slope(z + step / 2 * slope(z, here), here + step / 2)
                if progress is not None:
                    done = bounds.eta(there)
                    progress(done if direction == "encode" else 1 - done)
        return Solution(z, *tally.per_sample(len(z)))
