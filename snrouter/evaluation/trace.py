"""Trace: what a route takes the image to be at a few positions on its way from noise to data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snrouter.experts.base import Expert, Prediction
from snrouter.experts.wrapper import ExpertWrapper
from snrouter.gamma import GammaInterval

TRACED = 4
"""Samples of each route that are followed."""

POSITIONS = 8
"""Evenly spaced gammas of the interval at which they are looked at."""


SAME = 1e-4
"""How far apart two gammas are one position: steps are told in fractions, and some solvers count gamma in float32."""


class Trace:
    """The predictions nearest to evenly spaced positions, from most noise to least.

    Only predictions between two steps count: those at the stages inside one, or in a step that an adaptive solver takes again, are
    of states that are not on the way. Of several at one gamma the last is made from the best state.

    Args:
        bounds: the interval that is sampled over.
    """

    def __init__(self, bounds: GammaInterval) -> None:
        self.bounds = bounds
        self.positions = torch.linspace(bounds.gamma_max, bounds.gamma_min, POSITIONS, dtype=torch.float64)
        self.gamma = torch.full((POSITIONS,), math.inf, dtype=torch.float64)
        self.images: list[Tensor] = [torch.empty(0)] * POSITIONS
        self._between_steps = bounds.gamma_max
        self._last = (math.inf, torch.empty(0))

    def step(self, fraction: float) -> None:
        """A solver tells that it has come this far."""
        self._between_steps = self.bounds.gamma_max + fraction * (self.bounds.gamma_min - self.bounds.gamma_max)
        self._keep(*self._last)

    def see(self, gamma: float, x_hat: Tensor) -> None:
        """An expert predicts."""
        self._last = gamma, x_hat
        self._keep(gamma, x_hat)

    def _keep(self, gamma: float, x_hat: Tensor) -> None:
        if abs(gamma - self._between_steps) > SAME and bool(self.gamma.isfinite().all()):
            return
        near = (gamma - self.positions).abs() <= (self.gamma - self.positions).abs()
        for k in near.nonzero()[:, 0].tolist():
            self.gamma[k], self.images[k] = gamma, x_hat

    def rows(self) -> dict[str, Tensor]:
        """`images` [B, K, ...], the predicted ones, and `gamma` [B, K], where they were predicted."""
        images = torch.stack(self.images, 1)
        return {"images": images, "gamma": self.gamma.expand(len(images), -1)}


class Traced(ExpertWrapper):
    """An expert whose predictions are seen by a trace; they stay the same.

    Args:
        expert: any, asked for all images of the trace at once.
        trace: sees them.
    """

    def __init__(self, expert: Expert, trace: Trace) -> None:
        super().__init__(expert)
        self.trace = trace

    def around(self, expert: Expert) -> Traced:
        """Seen by the same trace."""
        return Traced(expert, self.trace)

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """The expert's."""
        prediction = self.expert.predict(z, gamma, condition)
        self.trace.see(float(gamma[0]), prediction.x_hat)
        return prediction
