"""ODE: the probability-flow ODE in the paper's (z, gamma) frame, by any of torchdiffeq's methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snrouter.errors import SpecError, suggestion
from snrouter.experts.base import Expert, Piece
from snrouter.gamma import GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.solvers import grids
from snrouter.solvers.base import Direction, Progress, Solution, Solver, Tally, drift, smooth_pieces
from snrouter.solvers.integrate import ADAPTIVE, FIXED, Method, State, integrate


@dataclass(frozen=True)
class ODE(Solver):
    """An ODE solver, split at seams with the step size carried over.

    An adaptive method has one error norm for the whole batch, so that a sample's result depends on its batch mates within the
    tolerance; a fixed method's does not.

    Args:
        method: an adaptive one (dopri5, dopri8, bosh3, fehlberg2, adaptive_heun) or a fixed one (euler, midpoint, heun2,
            heun3, rk4) of torchdiffeq.
        rtol: relative tolerance of an adaptive method.
        atol: absolute tolerance of an adaptive method.
        steps: number of steps, uniform in gamma, of a fixed method (a seam adds one).
        first_step: first step of an adaptive method, in gamma; chosen by it when left out.
        max_step: longest step of an adaptive method, in gamma.
        max_steps: most steps an adaptive method may take between seams.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int | None = None
    first_step: float | None = None
    max_step: float = math.inf
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if self.method not in (*ADAPTIVE, *FIXED):
            known = ", ".join((*ADAPTIVE, *FIXED))
            raise SpecError(f"unknown ODE method {self.method!r}{suggestion(self.method, (*ADAPTIVE, *FIXED))}; known: {known}")
        if self.method in FIXED:
            if self.steps is None:
                raise SpecError(f"ODE method {self.method!r} takes a fixed number of steps; add e.g. steps: 100")
            grids.check_steps(self.steps)
        elif self.steps is not None:
            raise SpecError(f"ODE method {self.method!r} chooses its steps; leave steps out, or set rtol and atol")
        controls = (self.rtol, self.atol, self.max_step, self.max_steps, 1 if self.first_step is None else self.first_step)
        if not min(controls) > 0:
            raise SpecError("rtol, atol, first_step, max_step and max_steps: expected positive numbers")

    @property
    def coupled(self) -> bool:
        """Whether a sample's steps depend on its batch mates."""
        return self.method in ADAPTIVE

    def grid(self, bounds: GammaInterval) -> list[float] | None:
        """Uniform in gamma for a fixed method."""
        return None if self.steps is None else grids.uniform(bounds, self.steps)

    def controls(self, bounds: GammaInterval) -> Method:
        """The controls of `integrate` on an interval."""
        grid = self.grid(bounds)
        nodes = None if grid is None else tuple(grid)
        return Method(self.method, self.rtol, self.atol, nodes, self.first_step, self.max_step, self.max_steps)

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
        """Integrate the flow; no noise is drawn."""
        bounds = as_interval(interval)
        tally = Tally()

        def field(piece: Piece, gamma: float, state: State) -> State:
            prediction = piece.expert(state[0], gamma, condition)
            tally.add(prediction.calls)
            return (drift(state[0], gamma, prediction.eps_hat),)

        pieces = smooth_pieces(expert, bounds, direction)
        (end,) = integrate(field, (z,), pieces, direction, self.controls(bounds), progress)
        return Solution(end, *tally.per_sample(len(z)))
