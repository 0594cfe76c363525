"""Integration along the axis by torchdiffeq, one piece between seams at a time, the step size carried over.

Stepping across a seam ruins the order of any method, so each piece is integrated to its very end by the expert that owns it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from snrouter.errors import SolverError
from snrouter.experts.base import Piece
from snrouter.solvers import grids
from snrouter.solvers.base import Direction, Progress

FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
"""torchdiffeq's methods with a given number of steps. Not its Adams methods: they take every step for as long as the one before,
which the cut at a seam is not (order 5 becomes 2), and the explicit one, of order 11, is unstable here."""

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's methods that choose their steps from rtol and atol."""

State = tuple[Tensor, ...]
Field = Callable[[Piece, float, State], State]


@dataclass(frozen=True)
class Method:
    """How to integrate: torchdiffeq's method and its controls (see `snrouter.ODE`)."""

    name: str
    rtol: float
    atol: float
    grid: tuple[float, ...] | None
    first_step: float | None
    max_step: float
    max_steps: int


class _Field(nn.Module):
    """One piece's right-hand side, which notes the step that the controller proposes before it is cut at the end."""

    def __init__(self, field: Field, piece: Piece, report: Callable[[float], None]) -> None:
        super().__init__()
        self.field = field
        self.piece = [piece]  # hidden from Module, which would register the expert's parameters
        self.report = report
        self.proposed: float | None = None

    def forward(self, t: Tensor, state: State) -> State:
        (piece,) = self.piece
        # the initial-step probe, and rounding to float32, may fall a little outside the piece
        return self.field(piece, min(max(float(t), piece.lo), piece.hi), state)

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        self.proposed = float(dt)
        self.report(float(t0))


def integrate(
    field: Field,
    state: State,
    pieces: Sequence[Piece],
    direction: Direction,
    method: Method,
    progress: Progress | None = None,
) -> State:
    """Integrate d(state)/dgamma = field through pieces.

    Args:
        field: (piece, gamma, state) -> derivative.
        state: tensors of any shapes; one error norm serves the whole batch (the worst tensor's root mean square).
        pieces: in the order of travel; neighbours share an end.
        direction: of travel: "sample" is downward in gamma, "encode" upward.
        method: torchdiffeq's method and controls.
        progress: told the fraction done.

    Raises:
        SolverError: when the step size underflows or the steps run out.
    """
    downward = direction == "sample"
    start = pieces[0].hi if downward else pieces[0].lo
    total = sum(piece.hi - piece.lo for piece in pieces)

    def report(gamma: float) -> None:
        if progress is not None:
            progress(abs(gamma - start) / total)

    carried = method.first_step
    for piece in pieces:
        ends = (piece.hi, piece.lo) if downward else (piece.lo, piece.hi)
        times = torch.tensor(ends, dtype=torch.float64, device=state[0].device)
        function = _Field(field, piece, report)
        options: dict[str, Any]
        if method.grid is None:
            options = {
                "step_t": times[1:],
                "first_step": carried,
                "max_step": method.max_step,
                "max_num_steps": method.max_steps,
            }
        else:
            nodes = grids.split(method.grid, piece.lo, piece.hi)
            grid = torch.tensor(nodes[::-1] if downward else nodes, dtype=torch.float64, device=state[0].device)
            options = {"grid_constructor": lambda func, y0, t, grid=grid: grid.to(t)}
        try:
            solved = odeint(function, state, times, rtol=method.rtol, atol=method.atol, method=method.name, options=options)
        except AssertionError as error:
            raise SolverError(
                f"{method.name} stopped on gamma in [{piece.lo:g}, {piece.hi:g}]: {error}; loosen rtol and atol, "
                f"raise max_steps, or run the experts in float64"
            ) from None
        state = tuple(tensor[-1] for tensor in solved)
        carried = function.proposed
    report(pieces[-1].lo if downward else pieces[-1].hi)
    return state
