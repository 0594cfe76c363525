"""Sandwich: one expert in the middle of the axis and another on both sides of it, which no single switch can express."""

from __future__ import annotations

from dataclasses import dataclass

from snrouter.errors import SpecError
from snrouter.gamma import Gamma
from snrouter.router.base import GammaPolicy, Policy
from snrouter.router.piecewise import Single


@dataclass(frozen=True)
class Sandwich(GammaPolicy):
    """Use `inner` at lo < gamma <= hi and `outer` elsewhere.

    Args:
        inner: name of the expert in the middle.
        outer: name of the expert on both sides.
        lo: lower end of the middle, a position in any unit.
        hi: its upper end.
    """

    inner: str
    outer: str
    lo: Gamma
    hi: Gamma

    def __post_init__(self) -> None:
        if not self.lo < self.hi:
            raise SpecError(f"sandwich: expected lo below hi in noise, got gamma {self.lo:g} and {self.hi:g}; swap them")

    @property
    def route(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Outer, inner, outer, and the two switches."""
        return (self.outer, self.inner, self.outer), (float(self.lo), float(self.hi))

    def restrict(self, lo: float, hi: float) -> Policy:
        """The one expert of that piece."""
        return Single(self.expert_between(lo, hi))
