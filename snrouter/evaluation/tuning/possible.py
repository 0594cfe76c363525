"""Possible: whether any route keeps what `tune` asks for within the supports of its experts, told before any of them is asked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress

import torch

from snrouter.errors import SpecError, SupportError
from snrouter.experts.base import Expert
from snrouter.experts.discrete import Discrete
from snrouter.gamma import GammaInterval
from snrouter.search.cells import cells, marks
from snrouter.search.profile import Profile
from snrouter.search.routes import Constraints, best_routes
from snrouter.spec.models import Tune


def constraints_of(tune: Tune) -> Constraints:
    """What every route must keep."""
    return Constraints(tune.experts, tune.seams, tune.exactly, tune.order, tune.above)


def seams_label(count: int) -> str:
    """What a route with so many seams is called."""
    return "no seam" if count == 0 else f"{count} seam{'s' if count > 1 else ''}"


def widest(tune: Tune) -> GammaInterval:
    """From the lowest end of the interval to the highest that it may have."""
    return GammaInterval(tune.gamma_min[0], tune.gamma_max[-1])


def own_bounds(expert: Expert, bounds: GammaInterval) -> GammaInterval:
    """The part of an interval that an expert supports."""
    low, high = bounds
    return GammaInterval(
        low if _supports(expert, low) else max(low, expert.support.gamma_min),
        high if _supports(expert, high) else min(high, expert.support.gamma_max),
    )


def check_possible(experts: Mapping[str, Expert], tune: Tune, times: int, levels: int | None) -> None:
    """Refuse what cannot be: every end must lie in some support, and some pair of ends must have a route.

    Args:
        experts: that may run.
        tune: what is asked for, resolved.
        times: cells of the profile.
        levels: of the images; None for continuous data.

    Raises:
        SpecError: for pixels on other levels than those of the data.
        SupportError: naming the gammas that no expert covers, or what no route can keep.
    """
    for name, expert in experts.items():
        for part in expert.modules():
            if isinstance(part, Discrete) and levels not in (None, part.levels):
                raise SpecError(f"expert {name!r}: levels: expected the {levels} of the data, got {part.levels}")
    supports = ", ".join(f"{name} {expert.support}" for name, expert in experts.items())
    for key, ends in (("gamma_min", tune.gamma_min), ("gamma_max", tune.gamma_max)):
        for end in ends:
            if not any(_supports(expert, end) for expert in experts.values()):
                raise SupportError(f"no expert that may run supports {key}={end:g}; supports: {supports}")
    narrowest = GammaInterval(tune.gamma_min[-1], tune.gamma_max[0])
    gap = _gap(experts, narrowest)
    if gap is not None:
        raise SupportError(f"no expert that may run covers gamma in {gap}; supports: {supports}")
    for name, gamma in tune.above.items():
        if gamma < narrowest.gamma_max and _gap({name: experts[name]}, GammaInterval(gamma, narrowest.gamma_max)):
            where = GammaInterval(gamma, narrowest.gamma_max)
            raise SupportError(f"above: {name!r} cannot run everywhere in {where}; its support is {experts[name].support}")
    if not _has_route(experts, tune, times):
        kept = [f"{'exactly' if tune.exactly else 'at most'} {seams_label(tune.seams)}"]
        kept += [f"the order {', '.join(tune.order)}"] if tune.order else []
        kept += [f"{name} above gamma={gamma:g}" for name, gamma in tune.above.items()]
        raise SupportError(f"no route over {widest(tune)} in {times} cells keeps {' and '.join(kept)}; supports: {supports}")


def _has_route(experts: Mapping[str, Expert], tune: Tune, times: int) -> bool:
    """Whether the search finds a route in a profile without any error measured, which only tells who may be asked where."""
    edges = cells(widest(tune), times, None, marks(experts, tune.gamma_min, tune.gamma_max))
    gamma = ((edges[:-1] + edges[1:]) / 2)[None]
    none = torch.zeros(1, dtype=torch.float64)
    covered = {name: torch.tensor([[_supports(expert, at) for at in gamma[0].tolist()]]) for name, expert in experts.items()}
    errors = {name: torch.where(there, 0.0, torch.nan).double() for name, there in covered.items()}
    profile = Profile(edges, gamma, errors, none, dict.fromkeys(tune.gamma_min, none), {}, 1)
    for bounds in itertools.product(tune.gamma_min, tune.gamma_max):
        with suppress(SupportError):
            return bool(best_routes(profile, constraints_of(tune), bounds))
    return False


def _supports(expert: Expert, gamma: float) -> bool:
    return expert.allow_extrapolation or expert.support.covers(gamma)


def _gap(experts: Mapping[str, Expert], bounds: GammaInterval) -> GammaInterval | None:
    """The lowest gammas of an interval that no expert covers."""
    reached = bounds.gamma_min
    while reached < bounds.gamma_max:
        ends = [own_bounds(expert, bounds).gamma_max for expert in experts.values() if _supports(expert, reached)]
        if max(ends, default=reached) <= reached:
            starts = [expert.support.gamma_min for expert in experts.values() if expert.support.gamma_min > reached]
            return GammaInterval(reached, min([*starts, bounds.gamma_max]))
        reached = max(ends)
    return None
