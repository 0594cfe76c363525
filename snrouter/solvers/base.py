"""The one solver interface, and what every solver shares.

The probability-flow ODE in the VP frame (paper arXiv 2511.19434, eq. 10), from gamma_max down to gamma_min:

    dz/dgamma = -1/2 sigmoid(gamma) z + 1/2 sigma eps_hat(z, gamma).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Piece
from snrouter.gamma import GammaInterval, interval, sigma, sigmoid
from snrouter.solvers import grids

Direction = Literal["sample", "encode"]
"""From noise to data (gamma_max down to gamma_min), or from data to noise."""

Progress = Callable[[float], None]
"""Called with the fraction of the interval that is done."""


class Solution(NamedTuple):
    """What a solver returns.

    Attributes:
        z: states [B, ...] at the end, in the VP frame.
        nfe: network calls per sample.
        nfe_per_expert: the same by expert name.
        status: "done".
        x: images [B, ...] in [-1, 1] after the final step (`sample` fills it).
    """

    z: Tensor
    nfe: float
    nfe_per_expert: Mapping[str, float]
    status: str = "done"
    x: Tensor | None = None


class Tally:
    """Counts network rows by expert over one solve."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def add(self, calls: Mapping[str, int]) -> None:
        """Add the calls of one prediction."""
        for name, count in calls.items():
            self.rows[name or "expert"] = self.rows.get(name or "expert", 0) + count

    def plus(self, *calls: Mapping[str, int]) -> Tally:
        """A new tally with the calls of more predictions."""
        tally = Tally()
        for more in (self.rows, *calls):
            tally.add(more)
        return tally

    @property
    def total(self) -> int:
        """Rows of all experts."""
        return sum(self.rows.values())

    def per_sample(self, batch: int) -> tuple[float, dict[str, float]]:
        """Network calls per sample: in all, and by expert."""
        each = {name: count / batch for name, count in self.rows.items()}
        return sum(each.values()), each


class Solver(ABC):
    """Moves states along the axis."""

    @property
    def encodes(self) -> bool:
        """Whether it can also go from data to noise: it draws no noise of its own."""
        return True

    def grid(self, bounds: GammaInterval) -> list[float] | None:
        """The gammas its steps go through, ascending, seams not yet inserted; None when it chooses them as it goes."""
        return None

    def steps_on(self, lo: float, hi: float, bounds: GammaInterval) -> int | None:
        """How many steps it takes on a piece [lo, hi] of the interval; None when it chooses them as it goes."""
        grid = self.grid(bounds)
        return None if grid is None else len(grids.split(grid, lo, hi)) - 1

    @abstractmethod
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
        """Move z from one end of the interval to the other.

        Args:
            expert: a single expert or a route.
            z: states [B, ...] at gamma_max (at gamma_min to encode).
            interval: (gamma_min, gamma_max).
            indices: which samples these are, for solvers that draw noise; 0 ... B - 1 when left out.
            condition: passed to the expert.
            seed: of the noise.
            direction: "sample", or "encode" where the solver is deterministic.
            progress: told the fraction done.

        Raises:
            SupportError: when the interval leaves the expert's support.
            NonFiniteError: when an expert returns NaN or infinity.
            SolverError: when the solver cannot finish.
        """


def smooth_pieces(expert: Expert, bounds: GammaInterval | tuple[float, float], direction: Direction) -> list[Piece]:
    """The pieces of the interval in the order of travel, after checking that the expert may run on all of it."""
    if direction not in get_args(Direction):
        raise SpecError(f"direction: expected sample or encode, got {direction!r}")
    bounds = interval(bounds)
    pieces = list(expert.pieces(*bounds))
    for piece in pieces:
        piece.expert.require(piece.lo, piece.hi)
    return pieces if direction == "encode" else pieces[::-1]


def sample_indices(z: Tensor, indices: Sequence[int] | None) -> Sequence[int]:
    """The given indices, checked, or 0 ... B - 1."""
    if indices is None:
        return range(len(z))
    if len(indices) != len(z):
        raise SpecError(f"indices: expected {len(z)}, one per sample; got {len(indices)}")
    return indices


def drift(z: Tensor, gamma: float, eps_hat: Tensor) -> Tensor:
    """Right-hand side of the probability-flow ODE."""
    return -0.5 * sigmoid(gamma) * z + 0.5 * sigma(gamma) * eps_hat


@contextmanager
def progress_bar(progress: bool | Progress, what: str) -> Iterator[Progress]:
    """A Rich progress bar on standard error, a caller's function, or nothing."""
    if progress is not True:
        yield progress or (lambda fraction: None)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
