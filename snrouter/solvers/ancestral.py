"""Ancestral sampling (paper arXiv 2511.19434, algorithm 2 and the listing of appendix B.2).

From gamma_t to gamma_s < gamma_t, with c = -expm1(gamma_s - gamma_t):

    mean = alpha_s / alpha_t (z - c sigma_t eps_hat),    std = sigma_s sqrt(c).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.solvers import grids
from snrouter.solvers.fork import Leg, LegSolver, Point


@dataclass(frozen=True)
class Ancestral(LegSolver):
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

    def travel(self, leg: Leg, noise: Callable[[Point], Tensor]) -> Iterator[tuple[float, Point]]:
        """Draw z_0 step by step; the noise of sample i at step j is keyed by (seed, i, j)."""
        if not leg.downward:
            raise SpecError("ancestral sampling is stochastic and cannot encode; use solver {type: ode}")
        grid, at = self.grid(leg.bounds)[::-1], leg.start
        for end in leg.ends:
            while grid[at.taken] > end:
                t, s = grid[at.taken : at.taken + 2]
                prediction = leg.ask(at.state[0], t)
                c = -math.expm1(s - t)
                mean = alpha(s) / alpha(t) * (at.state[0] - c * sigma(t) * prediction.eps_hat)
                at = at.to(s, mean + sigma(s) * math.sqrt(c) * noise(at), prediction)
                leg.tell(s)
            yield end, at
