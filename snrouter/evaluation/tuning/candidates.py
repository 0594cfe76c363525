"""Candidates: the routes that `tune` weighs against each other, and which of them are beaten."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from snrouter.errors import SupportError
from snrouter.evaluation.results import Paired, paired
from snrouter.evaluation.routes import Route, own_route
from snrouter.evaluation.rows import Row
from snrouter.evaluation.tuning.possible import constraints_of, own_bounds, seams_label
from snrouter.evaluation.tuning.profiles import Measured
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import SampleMetric
from snrouter.router.base import GammaPolicy
from snrouter.router.piecewise import Single
from snrouter.router.threshold import Threshold
from snrouter.search.routes import Constraints, best_routes
from snrouter.search.tune import Choice, best_route
from snrouter.spec import Document
from snrouter.spec.models import Tune

QUALITY = "fid"
"""The metric whose trade-off with bits/dim decides."""


class Candidates(NamedTuple):
    """Routes to compare, all on one interval or the part of it that a lone expert supports.

    Attributes:
        routes: with `evaluate` holding the bound, and then every metric of samples that the spec has.
        best: label of the one that the likelihood asks for.
        singles: labels of lone experts.
        allowed: labels of those that may be chosen: all but lone experts that do not keep what `tune` asks for.
    """

    routes: Sequence[Route]
    best: str
    singles: Sequence[str]
    allowed: Sequence[str]


def candidates(document: Document, tune: Tune, measured: Measured, choice: Choice) -> Candidates:
    """The best routes with fewer seams, those with more of the quality expert, and each network alone; none twice."""
    found = _Found(document, measured, choice.bounds)
    for name in measured.networks:
        own = own_bounds(measured.experts[name], choice.bounds)
        if own.length > 0:
            found.add(name, Single(name), own)
    singles, constraints = list(found.routes), constraints_of(tune)
    barred = [name for name in singles if not _may_run_alone(name, measured, constraints, choice.bounds)]
    most = len(choice.policy.seams)
    for row in choice.table:
        if row.seams < most:
            found.add(seams_label(row.seams), row.policy, choice.bounds)
    best = found.add(seams_label(most), choice.policy, choice.bounds)
    quality = quality_expert(document, tune, choice.policy)
    for gamma in _heights(quality, tune.candidates, measured, choice):
        above = replace(constraints, above={**constraints.above, quality: gamma})
        ends = {"gamma_min": [choice.bounds.gamma_min], "gamma_max": [choice.bounds.gamma_max]}
        try:
            policy = best_route(measured.profile, above, **ends, seed=document.spec.seed).policy
        except SupportError:
            continue
        begins = policy.route[1][-1] if policy.seams else choice.bounds.gamma_min  # not above that gamma, but it may be below
        found.add(f"{quality} above {begins:.3g}", policy, choice.bounds)
    routes = [*(route for label, route in found.routes.items() if label not in singles), *(found.routes[name] for name in singles)]
    return Candidates(routes, best, singles, [label for label in found.routes if label not in barred])


def _may_run_alone(name: str, measured: Measured, constraints: Constraints, bounds: GammaInterval) -> bool:
    """Whether a lone expert keeps the constraints on the whole interval."""
    try:
        return bool(best_routes(measured.profile, replace(constraints, experts=(name,)), bounds))
    except SupportError:
        return False


def quality_expert(document: Document, tune: Tune, policy: GammaPolicy) -> str:
    """The one that `tune` names, or else the high-noise one of the spec's route, or of the route chosen."""
    own = document.policy()
    named = tune.quality or (own.route[0][-1] if isinstance(own, GammaPolicy) else "")
    return named if named in (tune.experts or ()) else policy.route[0][-1]


def policy_of(route: Route) -> GammaPolicy:
    """The policy of a route by gamma."""
    policy = route.document.policy()
    assert isinstance(policy, GammaPolicy)
    return policy


def written(policy: GammaPolicy) -> dict[str, Any]:
    """A route as a spec has it."""
    names, switches = policy.route
    if not switches:
        return {"type": "single", "expert": names[0]}
    if isinstance(policy, Threshold):
        return {"type": "threshold", "low": policy.low, "high": policy.high, "switch": switches[0]}
    body = [{"expert": name, "up_to": gamma} for name, gamma in zip(names, switches, strict=False)]
    return {"type": "piecewise", "pieces": [*body, {"expert": names[-1]}]}


def written_metrics(document: Document, kept: Callable[[Any], bool]) -> list[dict[str, Any]]:
    """Some of the metrics of `evaluate` as a spec has them."""
    return [part for part, metric in zip(document.dump()["evaluate"], document.metrics(), strict=True) if kept(metric)]


def likelihood(measured: Measured, **keys: Any) -> dict[str, Any]:
    """Bits/dim of the profile's images as a spec has it: of a density where they have no levels."""
    return {"metric": "bpd"} | keys | ({} if measured.levels is not None else {"dequantization": "none"})


class Beaten(NamedTuple):
    """By which route, and by how much in bits/dim and in quality."""

    by: str
    difference: Mapping[str, Paired]


def beaten(rows: Sequence[Row], found: Candidates) -> dict[str, Beaten]:
    """Which routes another that may be chosen beats in both bits/dim and quality, by more than two paired standard errors.

    The route that the likelihood asks for stays, and of the lone experts the one of the best quality, which the choice is held to.

    Args:
        rows: of all routes.
        found: what they were.
    """
    of = {metric: _by_label(rows, metric) for metric in ("bpd", QUALITY)}
    labels = [label for label in of["bpd"] if label in of[QUALITY]]
    singles = [label for label in labels if label in found.singles]
    safe = {found.best, *sorted(singles, key=lambda label: float(of[QUALITY][label].columns["value"]))[:1]}
    lost = dict[str, Beaten]()
    for label in labels:
        rivals = [other for other in labels if other != label and other in found.allowed]
        by = {other: {name: paired(seen[label], seen[other]) for name, seen in of.items()} for other in rivals}
        above = [other for other, each in by.items() if all(d.difference > 2 * d.standard_error for d in each.values())]
        if above and label not in safe:
            first = min(above, key=lambda other: float(of["bpd"][other].columns["value"]))
            lost[label] = Beaten(first, by[first])
    return lost


def _by_label(rows: Sequence[Row], metric: str) -> Mapping[str, Row]:
    """The first row of each route by that metric."""
    return {row.columns["label"]: row for row in reversed(rows) if row.columns["metric"] == metric}


class _Found:
    """Routes by label, each once."""

    def __init__(self, document: Document, measured: Measured, bounds: GammaInterval) -> None:
        self.bounds = bounds
        bound = likelihood(measured, estimator="vlb", times=measured.profile.times)
        kept = written_metrics(document, lambda metric: isinstance(metric, SampleMetric))
        self.document = document.with_parts(evaluate=[bound, *kept])
        self.routes: dict[str, Route] = {}

    def add(self, label: str, policy: GammaPolicy, bounds: GammaInterval) -> str:
        """The label under which the route is there now; another's label is numbered."""
        for known, route in self.routes.items():
            if policy_of(route).route == policy.route and route.bounds == bounds:
                return known
        numbered = (f"{label} ({k})" for k in itertools.count(2))
        label = next(one for one in itertools.chain([label], numbered) if one not in self.routes)
        route = own_route(self.document.with_route(written(policy)))
        columns = dict(route.columns) | ({} if bounds == self.bounds else {"interval": "own support"})
        self.routes[label] = replace(route, label=label, bounds=bounds, columns=columns)
        return label


def _heights(quality: str, count: int, measured: Measured, choice: Choice) -> list[float]:
    """Gammas above which the quality expert runs: evenly between the lowest there can be and where the likelihood has it begin."""
    names, switches = choice.policy.route
    begins = choice.bounds.gamma_max if names[-1] != quality else switches[-1] if switches else choice.bounds.gamma_min
    lowest = own_bounds(measured.experts[quality], choice.bounds).gamma_min
    return [begins - (begins - lowest) * k / (count + 1) for k in range(1, count + 1)] if begins > lowest else []
