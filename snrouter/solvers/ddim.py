"""DDIM (arXiv 2010.02502, eq. 12), on a grid uniform in gamma or on given nodes.

    z_s = alpha_s x_hat + sqrt(sigma_s^2 - std^2) eps_hat + std noise,
    std = stochasticity sigma_s sqrt(-expm1(gamma_s - gamma_t)).

Its stochasticity is called eta in the paper of DDIM; 0 is the deterministic sampler, 1 is ancestral sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.solvers import grids
from snrouter.solvers.fork import Leg, LegSolver, Point, stepped


@dataclass(frozen=True)
class DDIM(LegSolver):
    """First-order steps uniform in gamma, or between given nodes, each made by the expert that owns its piece.

    Args:
        steps: number of steps (a seam adds one); with `nodes`, one less than their number.
        stochasticity: 0 (deterministic, can encode) to 1 (ancestral).
        nodes: positions to step through, as far as they lie inside the run's interval, whose ends are always nodes; or the steps of
            diffusers' DDIM, e.g. `{scheduler: ddpm/scheduler, steps: 50}`. From Python, gammas; see `grids.scheduler_nodes`.
    """

    steps: int = 50
    stochasticity: float = 0.0
    nodes: grids.Nodes | None = None

    def __post_init__(self) -> None:
        if self.nodes is not None:
            if not self.nodes or not all(math.isfinite(node) for node in self.nodes) or len({*self.nodes}) < len(self.nodes):
                raise SpecError("nodes: expected one or more finite gammas, each once")
            object.__setattr__(self, "nodes", tuple(sorted(self.nodes)))
            object.__setattr__(self, "steps", max(len(self.nodes) - 1, 1))
        grids.check_steps(self.steps)
        if not 0 <= self.stochasticity <= 1:
            raise SpecError(f"stochasticity: expected a number between 0 and 1, got {self.stochasticity:g}")

    @property
    def encodes(self) -> bool:
        """Only where it draws no noise."""
        return not self.stochasticity

    def grid(self, bounds: GammaInterval) -> list[float]:
        """Uniform in gamma, or the given nodes."""
        return list(self.nodes) if self.nodes else grids.uniform(bounds, self.steps)

    def travel(self, leg: Leg, noise: Callable[[Point], Tensor]) -> Iterator[tuple[float, Point]]:
        """Step along the grid; the noise of sample i at step j is keyed by (seed, i, j)."""
        if not leg.downward and self.stochasticity:
            raise SpecError("a stochastic DDIM cannot encode; set stochasticity: 0")

        def step(at: Point, s: float) -> Point:
            prediction = leg.ask(at.state[0], at.gamma)
            std = self.stochasticity * sigma(s) * math.sqrt(-math.expm1(s - at.gamma)) if self.stochasticity else 0.0
            z = alpha(s) * prediction.x_hat + math.sqrt(sigma(s) ** 2 - std**2) * prediction.eps_hat
            return at.to(s, z + std * noise(at) if std else z, prediction)

        yield from stepped(leg, self.grid(leg.bounds), step)
