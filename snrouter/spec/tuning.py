"""Tuning: what the key `tune` means, its names checked and its positions resolved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from snrouter.errors import SpecError, suggestion
from snrouter.gamma import GammaInterval, position
from snrouter.spec.files import Location
from snrouter.spec.models import Tune

At = Callable[[Location, Callable[[], Any]], Any]
"""Calls, and lets an error say where it is."""


def resolved(tune: Tune, known: Collection[str], bounds: GammaInterval, at: At) -> Tune:
    """The same with the names of all experts that may run, every position as a gamma, and at least one candidate for each end.

    Args:
        tune: as the spec has it.
        known: names of the spec's experts.
        bounds: the spec's interval, which `eta` refers to.
        at: of the document.

    Raises:
        SpecError: when it names an expert that is not there, or a position where none can be.
    """
    if tune.experts is not None:
        _check_names(tune.experts, "experts", known, at)
    experts = tuple(dict.fromkeys(tune.experts or known))
    order = tune.order or ()
    _check_names(order, "order", experts, at)
    experts = tuple(name for name in experts if name in order) or experts
    for i, name in enumerate(order):
        at(("tune", "order", i), partial(_check_once, name, order[:i]))
    for key, name in (*((("above", name), name) for name in tune.above), *([(("quality",), tune.quality)] if tune.quality else ())):
        at(("tune", *key), partial(_check_name, name, experts))
    lowest, highest = _ends(tune.gamma_min, "gamma_min", bounds, at), _ends(tune.gamma_max, "gamma_max", bounds, at)
    at(("tune",), partial(_check_ends, lowest, highest))
    widest = GammaInterval(lowest[0], highest[-1])
    above = {name: at(("tune", "above", name), partial(_inside, place, bounds, widest)) for name, place in tune.above.items()}
    return tune.model_copy(update={"experts": experts, "above": above, "gamma_min": lowest, "gamma_max": highest})


def _check_names(given: Sequence[str], key: str, known: Collection[str], at: At) -> None:
    for i, name in enumerate(given):
        at(("tune", key, i), partial(_check_name, name, known))


def _check_name(name: str, known: Collection[str]) -> None:
    if name not in known:
        raise SpecError(f"no expert {name!r} to choose from{suggestion(name, known)}; there are {', '.join(known)}")


def _check_once(name: str, before: Sequence[str]) -> None:
    if name in before:
        raise SpecError(f"{name!r} is there already; an order has each expert once")


def _ends(written: Sequence[Any], key: str, bounds: GammaInterval, at: At) -> tuple[float, ...]:
    """Candidates for an end of the interval, ascending; the spec's own where there are none."""
    ends = {at(("tune", key, i), partial(position, place, bounds)) for i, place in enumerate(written)}
    return tuple(sorted(ends)) or (getattr(bounds, key),)


def _check_ends(lowest: Sequence[float], highest: Sequence[float]) -> None:
    if lowest[-1] >= highest[0]:
        raise SpecError(f"expected every gamma_min below every gamma_max, got gamma_min={lowest[-1]:g}, gamma_max={highest[0]:g}")


def _inside(place: Any, bounds: GammaInterval, widest: GammaInterval) -> float:
    """A position between the outermost candidates for the ends."""
    gamma = position(place, bounds)
    if not widest.covers(gamma):
        raise SpecError(f"expected a position inside the interval {widest}, got gamma={gamma:g}")
    return gamma
