"""Piecewise: any number of experts in a row; Single: one of them everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from snrouter.errors import SpecError, SupportError
from snrouter.gamma import Gamma
from snrouter.router.base import GammaPolicy, Policy


@dataclass(frozen=True)
class Single(GammaPolicy):
    """One expert everywhere.

    Args:
        expert: its name.
    """

    expert: str

    @property
    def route(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """One expert, no switch."""
        return (self.expert,), ()

    def restrict(self, lo: float, hi: float) -> Policy:
        """Itself."""
        return self


@dataclass(frozen=True)
class Stretch:
    """One piece of a piecewise route.

    Args:
        expert: name of the expert that runs on it.
        up_to: gamma of its upper end; only the last piece has none.
    """

    expert: str
    up_to: Gamma | None = None


@dataclass(frozen=True)
class Piecewise(GammaPolicy):
    """Experts in a row along the axis, from least noise to most; one may serve several pieces.

    Args:
        pieces: each with its expert and its upper end, the last without one.
    """

    pieces: Sequence[Stretch]

    def __post_init__(self) -> None:
        if not self.pieces:
            raise SpecError("pieces: expected at least one, e.g. [{expert: likelihood, up_to: {gamma: -6}}, {expert: quality}]")
        *body, last = self.pieces
        for position, stretch in enumerate(body):
            if stretch.up_to is None:
                raise SpecError(f"pieces[{position}] ({stretch.expert!r}): only the last piece goes without up_to")
        if last.up_to is not None:
            raise SupportError(
                f"route has a gap: no expert above gamma={last.up_to:g}; leave up_to out of the last piece, or add one"
            )
        switches = self.route[1]
        for below, above in itertools.pairwise(switches):
            if above <= below:
                raise SpecError(f"pieces: up_to must ascend from least noise to most, got {below:g} then {above:g}")

    @property
    def route(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Experts and the switches between them."""
        return (
            tuple(stretch.expert for stretch in self.pieces),
            tuple(float(stretch.up_to) for stretch in self.pieces if stretch.up_to is not None),
        )

    def restrict(self, lo: float, hi: float) -> Policy:
        """The one expert of that piece."""
        return Single(self.expert_between(lo, hi))
