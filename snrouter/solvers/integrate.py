"""Integration along the axis by torchdiffeq, one leg between seams at a time, the step size carried over.

Stepping across a seam ruins the order of any method, so each leg is integrated to its very end by the expert that owns it. An
adaptive method chooses its steps without regard to where shorter routes leave, and each of those starts again from the last step
that was its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

from snrouter.errors import SolverError
from snrouter.solvers.fork import Leg, Point, State, stepped

FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
"""torchdiffeq's methods with a given number of steps. Not its Adams methods: they take every step for as long as the one before,
which the cut at a seam is not (order 5 becomes 2), and the explicit one, of order 11, is unstable here."""

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's methods that choose their steps from rtol and atol."""

Field = Callable[[float, State], tuple[State, Mapping[str, int]]]


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


class _Steps:
    """The right-hand side as torchdiffeq asks it, which notes where steps start.

    A mark is where a shorter integration from the same start ends. It is this one until it is asked beyond the mark, or cuts a step
    there; `noted` has the point that step is made from. The field is asked at `nodes` exactly, where one step ends and another
    starts, though torchdiffeq rounds gamma to the state's dtype.
    """

    def __init__(
        self, field: Field, leg: Leg, start: Point, end: float, marks: Sequence[float] = (), nodes: Sequence[float] = ()
    ) -> None:
        self.field = field
        self.leg = leg
        self.at = start
        self.end = end
        self.marks = list(marks)
        self.nodes = {float(torch.tensor(node, dtype=start.state[0].dtype)): node for node in nodes}
        self.noted: dict[float, Point] = {}
        self.tally = start.tally
        self.slope: State | None = None

    def __call__(self, t: Tensor, state: State) -> State:
        # the initial-step probe, and rounding to float32, may fall a little outside
        low, high = sorted((self.leg.start.gamma, self.end))
        gamma = min(max(self.nodes.get(float(t), float(t)), low), high)
        self._reach(gamma)
        if self.slope is None and self.at.slope is not None:
            self.slope = self.at.slope
        else:
            self.slope, calls = self.field(gamma, state)
            self.tally = self.tally.plus(calls)
            if self.at.slope is None:
                self.at = replace(self.at, slope=self.slope, tally=self.tally)
        return self.slope

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        gamma, step = float(t0), float(dt)
        slope = self.at.slope if gamma == self.at.gamma else self.slope  # where a step is tried again, and where one has ended
        self.at = Point(gamma, state, self.tally, step=step, slope=slope)
        self._reach(gamma - step if self.leg.downward else gamma + step)
        self.leg.tell(gamma)

    def _reach(self, gamma: float) -> None:
        while self.marks and (gamma <= self.marks[0] if self.leg.downward else gamma >= self.marks[0]):
            self.noted[self.marks.pop(0)] = self.at


def integrate(field: Field, leg: Leg, method: Method) -> Iterator[tuple[float, Point]]:
    """Integrate d(state)/dgamma = field over a leg; what `Travel` says.

    Args:
        field: (gamma, state) -> derivative, and network calls.
        leg: its states are tensors of any shapes; one error norm serves the whole batch (the worst tensor's root mean square).
        method: torchdiffeq's method and controls.

    Raises:
        SolverError: when the step size underflows or the steps run out.
    """
    if method.grid is not None:

        def step(at: Point, there: float) -> Point:
            return _solve(_Steps(field, leg, at, there, nodes=(at.gamma, there)), method)

        yield from stepped(leg, method.grid, step)
        return
    *marks, last = leg.ends
    steps = _Steps(field, leg, leg.start, last, marks)
    yield last, _solve(steps, method)
    for mark in marks:
        yield mark, _solve(_Steps(field, leg, steps.noted.pop(mark), mark), method)


def _solve(steps: _Steps, method: Method) -> Point:
    """Integrate to the end, from wherever `steps` is."""
    start = steps.at
    times = torch.tensor((start.gamma, steps.end), dtype=torch.float64, device=start.state[0].device)
    options: dict[str, Any] = {}
    if method.grid is None:
        options = {
            "step_t": times[1:],
            "first_step": start.step or method.first_step,
            "max_step": method.max_step,
            "max_num_steps": method.max_steps,
        }
    try:
        solved = odeint(steps, start.state, times, rtol=method.rtol, atol=method.atol, method=method.name, options=options)
    except AssertionError as error:
        low, high = sorted((steps.leg.start.gamma, steps.end))
        raise SolverError(
            f"{method.name} stopped on gamma in [{low:g}, {high:g}]: {error}; loosen rtol and atol, "
            f"raise max_steps, or run the experts in float64"
        ) from None
    return Point(steps.end, tuple(tensor[-1] for tensor in solved), steps.tally, step=steps.at.step)
