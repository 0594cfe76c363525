"""Threshold: the paper's route, one switch between two experts (arXiv 2511.19434, eq. 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from snrouter.errors import SpecError
from snrouter.gamma import Gamma
from snrouter.router.base import GammaPolicy, Policy
from snrouter.router.piecewise import Single


@dataclass(frozen=True)
class Threshold(GammaPolicy):
    """Use `low` at gamma <= switch and `high` above it.

    Args:
        low: name of the expert for less noise.
        high: name of the expert for more noise.
        switch: gamma of the switch (gamma_eta in the paper).
    """

    low: str
    high: str
    switch: Gamma

    def __post_init__(self) -> None:
        if not isinstance(self.switch, (int, float)) or not math.isfinite(self.switch):
            raise SpecError(f"switch: expected a gamma, a finite number, got {self.switch!r}; see snrouter.position")

    @property
    def route(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Two experts and the switch between them."""
        return (self.low, self.high), (float(self.switch),)

    def restrict(self, lo: float, hi: float) -> Policy:
        """The one expert of that piece."""
        return Single(self.expert_between(lo, hi))
