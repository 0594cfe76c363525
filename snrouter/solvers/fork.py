"""Routes from one start, solved together: a solver goes but once where they agree.

Every route is a row of pieces in the order of travel. Routes whose next pieces are alike (`Piece.identity`) travel a leg together,
and each leaves it at the end of its own piece with the very state that it would have there alone, bit for bit. So the routes make a
tree, and a single route is the tree with one branch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Piece, Prediction
from snrouter.gamma import GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.solvers import grids
from snrouter.solvers.base import Direction, Progress, Solution, Solver, Tally, sample_indices, smooth_pieces

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Point:
    """How far one route has come.

    Attributes:
        gamma: where it is.
        state: tensors [B, ...], the first of them z as a rule.
        tally: network calls since the start.
        taken: steps since the start, where a solver counts them.
        step: what an adaptive method would step from here, in gamma.
        slope: the derivative of the state here, where an adaptive method has it already.
    """

    gamma: float
    state: State
    tally: Tally = field(default_factory=Tally)
    taken: int = 0
    step: float | None = None
    slope: State | None = None

    def to(self, gamma: float, z: Tensor, *asked: Prediction) -> Point:
        """The point one step on, for which these predictions were asked."""
        return Point(gamma, (z,), self.tally.plus(*(prediction.calls for prediction in asked)), self.taken + 1)


class Leg(NamedTuple):
    """A stretch that routes travel together.

    Attributes:
        start: where they are.
        ends: gammas where one or more leave, in the order of travel.
        bounds: the whole interval.
        downward: whether gamma falls.
        ask: the expert of the leg, at z [B, ...] and a gamma.
        tell: to be told every gamma come to on the way.
    """

    start: Point
    ends: Sequence[float]
    bounds: GammaInterval
    downward: bool
    ask: Callable[[Tensor, float], Prediction]
    tell: Callable[[float], None]


Travel = Callable[[Leg], Iterator[tuple[float, Point]]]
"""Yields each end of a leg once, in any order, with the point that a route whose piece ends there has come to."""


class Arrival(NamedTuple):
    """A route at its end; `spent` are network rows made for it and for none that arrived before."""

    label: str
    point: Point
    spent: int


class Forked(NamedTuple):
    """What several routes give from one start.

    Attributes:
        solutions: by label, what each gives alone, with the network calls that it takes alone.
        spent: by label, network calls per sample made for it and for none that was done before it; their sum is what all took.
    """

    solutions: dict[str, Solution]
    spent: dict[str, float]


class LegSolver(Solver):
    """A solver that goes leg by leg, so that routes may share legs; what the built-in ones are."""

    @abstractmethod
    def travel(self, leg: Leg, noise: Callable[[Point], Tensor]) -> Iterator[tuple[float, Point]]:
        """Go through a leg: what `Travel` says.

        Args:
            leg: where from, where to, and whom to ask.
            noise: standard normal [B, ...] for the step from a point, keyed by seed, sample and number of steps.
        """

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
        """Leg by leg; see `Solver.solve`."""
        forked = _together(self, {"": expert}, z, interval, indices, condition, seed, direction, progress)
        return forked.solutions[""]


def solve_routes(
    solver: Solver,
    routes: Mapping[str, Expert],
    z: Tensor,
    interval: GammaInterval | tuple[float, float],
    *,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    seed: int = 0,
    direction: Direction = "sample",
    progress: Progress | None = None,
) -> Forked:
    """Move z along several routes, each with the result that `solver.solve` gives it alone.

    Args:
        solver: a `LegSolver` shares what routes have in common; one with a `solve` of its own solves them one by one.
        routes: by label, over the same experts.
        z: states [B, ...] at gamma_max (at gamma_min to encode).
        interval: (gamma_min, gamma_max).
        indices: which samples these are; 0 ... B - 1 when left out.
        condition: passed to the experts.
        seed: of the noise.
        direction: "sample", or "encode" where the solver is deterministic.
        progress: told the fraction done of all that is to be travelled.

    Raises:
        SupportError: when the interval leaves a route's support.
        NonFiniteError: when an expert returns NaN or infinity.
        SolverError: when the solver cannot finish.
    """
    if isinstance(solver, LegSolver) and type(solver).solve is LegSolver.solve:
        return _together(solver, routes, z, interval, indices, condition, seed, direction, progress)
    solutions = dict[str, Solution]()
    for number, (label, expert) in enumerate(routes.items()):

        def told(fraction: float, number: int = number) -> None:
            if progress is not None:
                progress((number + fraction) / len(routes))

        solutions[label] = solver.solve(
            expert.for_samples(sample_indices(z, indices)),
            z,
            interval,
            indices=indices,
            condition=condition,
            seed=seed,
            direction=direction,
            progress=told,
        )
    return Forked(solutions, {label: solution.nfe for label, solution in solutions.items()})


@torch.no_grad()
def _together(
    solver: LegSolver,
    routes: Mapping[str, Expert],
    z: Tensor,
    interval: GammaInterval | tuple[float, float],
    indices: Sequence[int] | None,
    condition: Tensor | None,
    seed: int,
    direction: Direction,
    progress: Progress | None,
) -> Forked:
    bounds, keys, draws = as_interval(interval), sample_indices(z, indices), Draws(seed)

    def noise(at: Point) -> Tensor:
        return draws.normal("ancestral", keys, z.shape[1:], draw=at.taken).to(z)

    start = Point(bounds.gamma_min if direction == "encode" else bounds.gamma_max, (z,))
    routes = {label: expert.for_samples(keys) for label, expert in routes.items()}
    arrivals = fork(routes, start, bounds, lambda leg: solver.travel(leg, noise), direction, condition, progress)
    arrived = {label: (point, spent) for label, point, spent in arrivals}
    solutions, spent = dict[str, Solution](), dict[str, float]()
    for label in routes:
        point, rows = arrived[label]
        solutions[label] = Solution(point.state[0], *point.tally.per_sample(len(z)))
        spent[label] = rows / len(z)
    return Forked(solutions, spent)


def fork(
    routes: Mapping[str, Expert],
    start: Point,
    bounds: GammaInterval,
    travel: Travel,
    direction: Direction,
    condition: Tensor | None = None,
    progress: Progress | None = None,
) -> Iterator[Arrival]:
    """Bring every route from the start to the end of the interval, in the order in which they come there.

    Args:
        routes: by label, over the same experts.
        start: at the end of the interval that the direction starts from.
        bounds: (gamma_min, gamma_max).
        travel: goes through a leg.
        direction: of travel.
        condition: passed to the experts.
        progress: told the fraction done of all that is to be travelled.
    """
    ways = {label: smooth_pieces(expert, bounds, direction) for label, expert in routes.items()}
    downward = direction == "sample"
    made, paid, length, done = Tally(), 0, 0.0, 0.0

    def survey(expert: Expert, at: float, ends: Sequence[float]) -> Iterator[tuple[float, float]]:
        nonlocal length
        length += abs(ends[-1] - at)
        return zip(ends, ends, strict=True)

    def go(expert: Expert, at: Point, ends: Sequence[float]) -> Iterator[tuple[float, Point]]:
        come = 0.0

        def ask(z: Tensor, gamma: float) -> Prediction:
            prediction: Prediction = expert(z, gamma, condition)
            made.add(prediction.calls)
            return prediction

        def tell(gamma: float) -> None:  # a branch may step again where the leg has been
            nonlocal come, done
            new = max(abs(gamma - at.gamma) - come, 0.0)
            come, done = come + new, done + new
            if progress is not None:
                progress(min(done / length, 1.0))

        for end, there in travel(Leg(at, ends, bounds, downward, ask, tell)):
            tell(end)
            yield end, there

    for _ in _walk(ways, start.gamma, downward, survey):
        pass
    for label, point in _walk(ways, start, downward, go):
        yield Arrival(label, point, made.total - paid)
        paid = made.total
    if progress is not None:
        progress(1.0)


Place = TypeVar("Place")


def _walk(
    ways: Mapping[str, Sequence[Piece]],
    at: Place,
    downward: bool,
    travel: Callable[[Expert, Place, Sequence[float]], Iterator[tuple[float, Place]]],
) -> Iterator[tuple[str, Place]]:
    """Depth first through the tree of routes: each with the place that it comes to."""
    while ways:
        leader = next(iter(ways.values()))[0]
        together = {label: way for label, way in ways.items() if way[0].identity == leader.identity}
        ways = {label: way for label, way in ways.items() if label not in together}
        end_of = {label: way[0].lo if downward else way[0].hi for label, way in together.items()}
        for end, there in travel(leader.expert, at, sorted({*end_of.values()}, reverse=downward)):
            leaving = {label: way[1:] for label, way in together.items() if end_of[label] == end}
            yield from ((label, there) for label, way in leaving.items() if not way)
            yield from _walk({label: way for label, way in leaving.items() if way}, there, downward, travel)


def check_routes(routes: Mapping[str, Expert]) -> None:
    """Refuse what is not one or more experts by label.

    Raises:
        SpecError: saying what it is.
    """
    if not isinstance(routes, Mapping) or not routes:
        raise SpecError(f"routes: expected one or more by label, e.g. {{'merged': route}}; got {routes!r:.60}")
    for label, expert in routes.items():
        if not isinstance(expert, Expert):
            where = f"route {label!r}: " if label else ""
            raise SpecError(f"{where}expected an Expert, got {type(expert).__name__}; see snrouter.wrap")


def stepped(leg: Leg, grid: Sequence[float], step: Callable[[Point, float], Point]) -> Iterator[tuple[float, Point]]:
    """Travel by a method of single steps: through the grid's nodes, and from the last node before each end to that end.

    Args:
        leg: to be travelled.
        grid: nodes of the whole interval, ascending.
        step: one step from a point to a gamma.
    """
    at, passed = leg.start, 0
    for end in leg.ends:
        nodes = grids.split(grid, *sorted((leg.start.gamma, end)))[1:-1]
        for node in (nodes[::-1] if leg.downward else nodes)[passed:]:
            at = step(at, node)
            leg.tell(node)
        passed = len(nodes)
        yield end, step(at, end)
