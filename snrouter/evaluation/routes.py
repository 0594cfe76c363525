"""Routes to evaluate: the spec's own, and those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.router.base import GammaPolicy
from snrouter.router.gate import TopK
from snrouter.router.threshold import Threshold
from snrouter.spec import Document


@dataclass(frozen=True)
class Route:
    """One route to evaluate: its spec, what a person calls it, and where it runs.

    Attributes:
        label: e.g. "eta=0.2" or "quality".
        document: the spec with this route.
        bounds: the interval it runs on: the spec's, or a lone expert's own support.
        columns: columns of its result rows.
    """

    label: str
    document: Document
    bounds: GammaInterval
    columns: Mapping[str, Any]


def own_route(document: Document) -> Route:
    """The spec's route, on the spec's interval."""
    component, policy = document.spec.route, document.policy()
    columns: dict[str, Any] = {"route": component.name}
    label = component.name
    if not isinstance(policy, GammaPolicy):  # a mixture, which runs no one expert
        columns["experts"] = list(policy.experts)
        if isinstance(policy, TopK):
            columns["top_k"] = policy.k
            label = f"{label}, k={policy.k}"
    elif len(policy.seams) == 1:
        columns |= {"eta": round(document.bounds.eta(policy.seams[0]), 10), "gamma_switch": policy.seams[0]}
        columns |= _written(component.arguments.get("switch"))
        label = f"eta={columns['eta']:.6g}"
    elif not policy.seams:
        columns["expert"] = label = ", ".join(policy.experts)
    else:
        columns["gamma_switches"] = list(policy.seams)
    return Route(label, document, document.bounds, columns)


def sweep_routes(document: Document) -> list[Route]:
    """The routes that `sweep` compares.

    The threshold route at every switch, or where only ends of the interval are swept over the spec's own route; each on every
    interval with such ends. Then each expert of the spec's route alone on its own support.

    Raises:
        SpecError: when switches are to be compared of a route that is no threshold, or there is nothing to sweep.
    """
    switches, ends, sweep = document.switches(), document.ends(), document.spec.sweep
    assert sweep is not None
    over_ends = bool(sweep.gamma_min or sweep.gamma_max)
    routes = _thresholds(document, switches) if switches else [own_route(document)] * over_ends
    if over_ends:
        routes = [_with_ends(route, bounds, alone=not switches) for route in routes for bounds in ends]
        for i, route in enumerate(routes):
            if any(route.label == other.label for other in routes[:i]):
                raise SpecError(f"sweep: an end is given twice ({route.label}); remove one")
    if sweep.singles:
        for name in document.policy().experts:
            support = document.expert(name).support
            columns = {"route": "single", "expert": name, "interval": "own support"}
            routes.append(Route(name, document.with_route({"type": "single", "expert": name}), support, columns))
    return routes


def _thresholds(document: Document, switches: Sequence[float]) -> list[Route]:
    """The spec's threshold route at every switch of `sweep`."""
    route, sweep = document.spec.route, document.spec.sweep
    if not isinstance(document.policy(), Threshold):
        said = "write the two experts as low and high, or in sweep switches: []"
        raise SpecError(f"sweep needs route {{type: threshold, ...}}, got {route.name!r}; {said}")
    routes: list[Route] = []
    for i, switch in enumerate(switches):
        eta = document.bounds.eta(switch)
        changed = document.with_route({**route.model_dump(), "switch": switch})
        columns = {"route": "threshold", "eta": round(eta, 10), "gamma_switch": switch}
        columns |= _written(sweep.switches[i] if sweep else None)
        label, labels = f"eta={eta:.6g}", [other.label for other in routes]
        if label in labels:
            raise SpecError(f"sweep.switches[{i}]: the same position ({label}) as switches[{labels.index(label)}]; remove one")
        routes.append(Route(label, changed, document.bounds, columns))
    return routes


def _with_ends(route: Route, bounds: GammaInterval, alone: bool) -> Route:
    """A route of a sweep over ends, called by those that are swept over; `alone`: it is the only route that is."""
    sweep, interval = route.document.spec.sweep, "the spec's" if bounds == route.bounds else "swept"
    parts = [f"{name}={value:.6g}" for name, value in bounds._asdict().items() if getattr(sweep, name)]
    label = ", ".join(parts if alone else [*parts, route.label])
    return replace(route, label=label, bounds=bounds, columns={**route.columns, "interval": interval})


def _written(switch: Any) -> dict[str, Any]:
    """The column that holds a switch as the spec has it, when that is in a unit or a pipeline's words."""
    return {"switch": dict(switch)} if isinstance(switch, Mapping) else {}
