"""ODE: the probability-flow ODE in the paper's (z, gamma) frame, by any of torchdiffeq's methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from snrouter.errors import SpecError, suggestion
from snrouter.gamma import GammaInterval
from snrouter.solvers import grids
from snrouter.solvers.base import drift
from snrouter.solvers.fork import Leg, LegSolver, Point, State
from snrouter.solvers.integrate import ADAPTIVE, FIXED, Method, integrate


@dataclass(frozen=True)
class ODE(LegSolver):
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

    def travel(self, leg: Leg, noise: Callable[[Point], Tensor]) -> Iterator[tuple[float, Point]]:
        """Integrate the flow; no noise is drawn."""

        def field(gamma: float, state: State) -> tuple[State, Mapping[str, int]]:
            prediction = leg.ask(state[0], gamma)
            return (drift(state[0], gamma, prediction.eps_hat),), prediction.calls

        yield from integrate(field, leg, self.controls(leg.bounds))
