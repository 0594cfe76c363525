"""Tuned: what `tune` found, as plain data for results.json, and as a spec that runs it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from snrouter.evaluation.routes import Route
from snrouter.evaluation.shards import network_calls
from snrouter.evaluation.tuning.candidates import QUALITY, Beaten, Candidates, likelihood, policy_of, written, written_metrics
from snrouter.evaluation.tuning.possible import constraints_of, own_bounds
from snrouter.evaluation.tuning.profiles import Measured
from snrouter.evaluation.tuning.rounds import Drawn
from snrouter.gamma import GammaInterval
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.metrics.likelihood.estimate import Estimate, Term
from snrouter.router.base import GammaPolicy
from snrouter.search.tune import Choice, optimism
from snrouter.spec import Document
from snrouter.spec.models import Tune

FILE = "tuned.yaml"
"""The spec of the chosen route, in the run's folder."""

SPLITS = 20
"""Random halves over which the optimism is averaged."""

SWITCHES = 61
"""Positions of a switch at which bounds of thresholds are told."""


class Exact(NamedTuple):
    """Exact-ODE bits/dim of the chosen route on the first images of the data, by ends of the interval, and the calls it took."""

    values: Mapping[GammaInterval, Tensor]
    calls: int


class Tuned(NamedTuple):
    """All that `tune` found."""

    document: Document
    tune: Tune
    measured: Measured
    choice: Choice
    found: Candidates
    drawn: Drawn
    chosen: Route
    exact: Exact
    folder: Path


def report(tuned: Tuned) -> dict[str, Any]:
    """The content of `tune` in results.json."""
    document, tune, measured, choice, found, drawn, chosen, exact, _ = tuned
    profile = measured.profile
    told: dict[str, Any] = {
        "experts": list(tune.experts or ()),
        "networks": len(measured.networks),
        "interval": list(choice.bounds),
        "images": {"chosen_on": len(choice.chosen_on), "scored_on": len(choice.scored_on)},
        "times": tune.times,
        "network_calls": _calls(tuned),
        "profile": _curves(tuned),
        "thresholds": [_thresholds(tuned, low, high) for low, high in _pairs(tuned)],
        "seams": [
            {"seams": row.seams, **_told(row.value), "excess": _told(row.excess), "chosen": row.chosen} for row in choice.table
        ],
        "routes": [_route(tuned, route) for route in found.routes],
        "optimism": _told(optimism(profile, constraints_of(tune), splits=SPLITS, bounds=choice.bounds, seed=document.spec.seed))
        | {"splits": SPLITS},
    }
    if len(choice.ends) > 1:
        told["ends"] = [
            {"gamma_min": end.bounds.gamma_min, "gamma_max": end.bounds.gamma_max, **_told(end.value)}
            | {"difference": _told(end.difference), "chosen": end.chosen, "exact": _exact(exact.values.get(end.bounds))}
            for end in choice.ends
        ]
    if drawn.rounds and any(row["metric"] == QUALITY for row in drawn.columns):
        told["quality"] = {
            "metric": QUALITY,
            "rounds": [
                {"samples": samples, "routes": list(routes)}
                | {"dropped": [_dropped(label, beaten) for label, beaten in dropped.items()]}
                for samples, routes, dropped in drawn.rounds
            ],
        }
    values = exact.values.get(chosen.bounds)
    if values is not None:
        bound = profile.subset(range(len(values))).vlb(policy_of(chosen), chosen.bounds)
        told["exact"] = {"label": chosen.label, "images": len(values), **_told(Term.of(values)), "vlb": _told(bound)}
        told["exact"]["difference"] = _told(Term.of(values - bound.values))
    told["chosen"] = {"label": chosen.label, "pieces": pieces(policy_of(chosen), chosen.bounds), "expected": expected(tuned)}
    told["chosen"] |= {"on_all_images": _told(_on_all(tuned)) | {"images": len(profile)}, "spec": FILE}
    return told


def _on_all(tuned: Tuned) -> Estimate:
    """The chosen route's bound on all images of the profile."""
    return tuned.measured.profile.vlb(policy_of(tuned.chosen), tuned.chosen.bounds)


def expected(tuned: Tuned) -> dict[str, dict[str, float]]:
    """The chosen route's first number by each metric, e.g. `{"bpd": {"value": ..., "standard_error": ...}}`."""
    return {name: {key: row[key] for key in ("value", "standard_error")} for name, row in _own_rows(tuned).items()}


def _own_rows(tuned: Tuned) -> dict[str, dict[str, Any]]:
    """The chosen route's first row by each metric."""
    own = [row for row in tuned.drawn.columns if row["label"] == tuned.chosen.label]
    return {name: next(row for row in own if row["metric"] == name) for name in dict.fromkeys(row["metric"] for row in own)}


def pieces(policy: GammaPolicy, bounds: GammaInterval) -> list[dict[str, Any]]:
    """Stretches of a route over an interval, from least noise to most."""
    names, switches = policy.route
    edges = [bounds.gamma_min, *switches, bounds.gamma_max]
    return [{"expert": name, "from": lo, "to": hi} for name, (lo, hi) in zip(names, itertools.pairwise(edges), strict=True)]


def spec_text(tuned: Tuned) -> str:
    """The spec with the chosen route and interval, and what to expect of it, as a YAML file."""
    document, chosen = tuned.document, tuned.chosen
    bounds = written_metrics(document, lambda metric: isinstance(metric, BitsPerDim) and metric.estimator == "vlb")
    spec = document.dump() | {"route": written(policy_of(chosen)), "interval": chosen.bounds._asdict()}
    if not bounds:
        images, times = len(tuned.measured.profile), tuned.measured.profile.times
        spec["evaluate"].insert(0, likelihood(tuned.measured, estimator="vlb", times=times, images=images))
    for key in ("tune", "sweep"):
        spec.pop(key, None)
    *low, high = pieces(policy_of(chosen), chosen.bounds)
    runs = ", ".join([*(f"{piece['expert']} up to gamma = {piece['to']:.4g}" for piece in low), f"then {high['expert']}"])
    lines = [f"Made by `snrouter tune`: {runs if low else high['expert'] + ' alone'}.", "Expected of it:"]
    for name, row in _own_rows(tuned).items():
        lines.append(f"  {row.get('title', name)} {_number(row['value'], row['standard_error'])} ({_of(tuned, row)})")
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(spec, sort_keys=False)


def _of(tuned: Tuned, row: Mapping[str, Any]) -> str:
    if row["metric"] == "bpd":
        whole, images = _on_all(tuned), len(tuned.measured.profile)
        return f"the bound, on {row['n']} images that it was not chosen on; {_number(*_told(whole).values())} on all {images}"
    return f"on {row['n']} samples" + (" that candidates were compared by" if row["metric"] == QUALITY else "")


def _number(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}"


def _told(term: Term) -> dict[str, float]:
    return {"value": term.value, "standard_error": term.standard_error}


def _exact(values: Tensor | None) -> dict[str, float] | None:
    return None if values is None else _told(Term.of(values))


def _calls(tuned: Tuned) -> dict[str, Any]:
    profile, drawn = tuned.measured.profile, tuned.drawn
    return {
        "profile": round(float(profile.spent.sum())),
        "pilot": tuned.measured.pilot,
        "one_vlb": len(profile) * tuned.tune.times,
        "quality": network_calls(drawn.jobs, tuned.document.spec.batch_size, tuned.folder).get("samples"),
        "exact": tuned.exact.calls,
    }


def _curves(tuned: Tuned) -> dict[str, Any]:
    profile = tuned.measured.profile
    error = {}
    for name in tuned.tune.experts or ():
        value, deviation = profile.curve(name)
        error[name] = {"value": value.tolist(), "standard_error": deviation.tolist()}
    return {"edges": profile.edges.tolist(), "gamma": ((profile.edges[:-1] + profile.edges[1:]) / 2).tolist(), "error": error}


def _dropped(label: str, beaten: Beaten) -> dict[str, Any]:
    away = {
        name: {"value": paired.difference, "standard_error": paired.standard_error} for name, paired in beaten.difference.items()
    }
    return {"label": label, "beaten_by": beaten.by, "difference": away}


def _route(tuned: Tuned, route: Route) -> dict[str, Any]:
    scored = tuned.measured.profile.subset(tuned.choice.scored_on)
    bound, best = (scored.vlb(policy_of(one), one.bounds) for one in (route, tuned.chosen))
    dropped = [seen.samples for seen in tuned.drawn.rounds if route.label in seen.dropped]
    return {
        "label": route.label,
        "pieces": pieces(policy_of(route), route.bounds),
        "seams": len(policy_of(route).seams),
        "bpd": _told(bound),
        "difference": _told(Term.of(bound.values - best.values)),
        "chosen": route.label == tuned.chosen.label,
        "dropped_after": dropped[0] if dropped else None,
    }


def _pairs(tuned: Tuned) -> list[tuple[str, str]]:
    """Experts that run one above the other in some candidate or in the spec's route, where a single switch can join them."""
    own = tuned.document.policy()
    policies = [policy_of(route) for route in tuned.found.routes] + ([own] if isinstance(own, GammaPolicy) else [])
    found = dict.fromkeys(pair for policy in policies for pair in itertools.pairwise(policy.route[0]))
    return [pair for pair in found if {*pair} <= {*tuned.measured.experts} and _common(tuned, *pair).length > 0]


def _common(tuned: Tuned, low: str, high: str) -> GammaInterval:
    """Where a switch may lie between two experts; empty when they do not reach the ends of the interval."""
    bounds = tuned.choice.bounds
    below, above = (own_bounds(tuned.measured.experts[name], bounds) for name in (low, high))
    reach = below.gamma_min <= bounds.gamma_min and above.gamma_max >= bounds.gamma_max
    return GammaInterval(above.gamma_min, below.gamma_max) if reach else GammaInterval(0.0, 0.0)


def _thresholds(tuned: Tuned, low: str, high: str) -> dict[str, Any]:
    bounds, where = tuned.choice.bounds, _common(tuned, low, high)
    switches = where.at(torch.linspace(0, 1, SWITCHES, dtype=torch.float64)).tolist()
    values = [Term.of(row) for row in tuned.measured.profile.thresholds(low, high, switches, bounds)]
    return {
        "low": low,
        "high": high,
        "gamma": switches,
        "eta": [tuned.document.bounds.eta(gamma) for gamma in switches],
        "value": [term.value for term in values],
        "standard_error": [term.standard_error for term in values],
    }
