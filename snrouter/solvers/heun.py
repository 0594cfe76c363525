"""Euler and Heun on EDM's rho-grid, in the frame (y = z / alpha, s = edm_sigma), where dy/ds = eps_hat.

Both stages of a Heun step are made by the expert that owns the piece, so that a seam does not cost order.
EDM's "18 steps" are 17 here and `final: denoise`, its last Euler step to sigma = 0.

Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval, alpha, edm_sigma
from snrouter.solvers import grids
from snrouter.solvers.fork import Leg, LegSolver, Point, stepped


class _RhoGrid(LegSolver):
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

    def travel(self, leg: Leg, noise: Callable[[Point], Tensor]) -> Iterator[tuple[float, Point]]:
        """Step along the grid; no noise is drawn."""

        def step(at: Point, there: float) -> Point:
            (y,), size = at.state, edm_sigma(there) - edm_sigma(at.gamma)
            first = leg.ask(alpha(at.gamma) * y, at.gamma)
            ahead = y + size * first.eps_hat
            if not self.corrected:
                return at.to(there, ahead, first)
            second = leg.ask(alpha(there) * ahead, there)
            return at.to(there, y + size / 2 * (first.eps_hat + second.eps_hat), first, second)

        start = replace(leg.start, state=(leg.start.state[0] / alpha(leg.start.gamma),))
        for end, there in stepped(leg._replace(start=start), self.grid(leg.bounds), step):
            yield end, replace(there, state=(alpha(end) * there.state[0],))


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
