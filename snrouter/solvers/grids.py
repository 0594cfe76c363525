"""Grids of gamma for solvers with a given number of steps, ascending, with the seams among their nodes."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval, edm_sigma, from_edm_sigma


def uniform(bounds: GammaInterval, steps: int) -> list[float]:
    """Nodes uniform in gamma (VDM's linear schedule), both ends included."""
    return [bounds.at(i / steps) for i in range(steps + 1)]


def rho(bounds: GammaInterval, steps: int, power: float = 7.0) -> list[float]:
    """Nodes uniform in edm_sigma^(1/rho) (EDM arXiv 2206.00364, eq. 5), both ends included."""
    lo, hi = (edm_sigma(end) ** (1 / power) for end in bounds)
    inner = [from_edm_sigma((lo + (hi - lo) * i / steps) ** power) for i in range(1, steps)]
    return [bounds.gamma_min, *inner, bounds.gamma_max]


def split(grid: Iterable[float], lo: float, hi: float) -> list[float]:
    """The part of a grid on one piece, with the piece's ends as nodes; nodes closer than 1e-9 to an end give way to it."""
    return [lo, *(node for node in grid if lo + 1e-9 < node < hi - 1e-9), hi]


MOST_STEPS = 1_000_000
"""More steps than this are a slip of the pen."""


def check_steps(steps: int) -> None:
    """Check a number of steps.

    Raises:
        SpecError: when it is below one or beyond `MOST_STEPS`.
    """
    if not isinstance(steps, Integral) or steps < 1:
        raise SpecError(f"steps: expected a whole number of at least 1, got {steps}")
    if steps > MOST_STEPS:
        raise SpecError(f"steps: expected at most {MOST_STEPS:,}, got {steps:,}")
