"""Advice: what a tune found, in words, from the key `tune` of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snrouter.report.number import Number, finite

Tune = Mapping[str, Any]
"""What results.json says of a tune."""


def number(told: Mapping[str, Any] | None) -> Number:
    """A value with its standard error, as results.json has them."""
    told = told or {}
    return Number(finite(told.get("value")), finite(told.get("standard_error")))


def path(pieces: Sequence[Mapping[str, Any]]) -> str:
    """Which expert runs where, e.g. "discrete below γ = -6.12, likelihood up to -3.19, then quality"."""
    *below, last = pieces
    if not below:
        return f"{last['expert']} alone"
    told = [f"{piece['expert']} {'up to' if i else 'below γ ='} {piece['to']:.2f}" for i, piece in enumerate(below)]
    return f"{', '.join(told)}, then {last['expert']}"


def advice(tune: Tune, names: Mapping[str, str]) -> str:
    """The finding: the chosen route, and what to expect of it.

    Args:
        tune: what was tuned.
        names: what a metric is called, by its registered name.
    """
    chosen = tune["chosen"]
    expected = {metric: number(told) for metric, told in (chosen.get("expected") or {}).items()}
    told = [f"{names.get(metric, metric)} {value.text()}" for metric, value in expected.items() if metric != "bpd"]
    bound = f"{expected.get('bpd', Number()).text()} bits/dim"
    return f"Use {path(chosen['pieces'])}: expect {bound}{_below(tune)}{''.join(f', and {each}' for each in told)}."


def _below(tune: Tune) -> str:
    """The chosen route against the better expert alone, e.g. ", 0.0212 ± 0.0018 below likelihood alone"."""
    routes = tune.get("routes") or []
    alone = [route for route in routes if route["label"] in tune["experts"] and number(route.get("bpd")).value is not None]
    if not alone or any(route["chosen"] for route in alone):
        return ""
    least = min(alone, key=lambda route: float(route["bpd"]["value"]))
    difference, name = number(least.get("difference")), f"{least['label']} alone"
    if difference.value is None or difference.sign is None:
        return ""
    if difference.sign == 0:
        return f", level with {name}"
    return f", {Number(abs(difference.value), difference.error).text()} {'below' if difference.value > 0 else 'above'} {name}"


def rule(tune: Tune) -> str:
    """What chose the route where nothing but the likelihood was asked for."""
    chosen_on = (tune.get("images") or {}).get("chosen_on")
    where = f" of the {chosen_on} images that it was chosen on" if chosen_on else ""
    return f"the fewest seams whose bits/dim{where} is not demonstrably above the lowest"


def remarks(tune: Tune) -> list[str]:
    """What to bear in mind: which images, how much choosing flatters, the exact likelihood, and where the spec is."""
    images, said = tune.get("images") or {}, []
    if images:
        said.append(
            f"Routes were chosen on {images['chosen_on']} images; bits/dim are of {images['scored_on']} others, bounds (VLB) from "
            "the profile."
        )
    optimism = number(tune.get("optimism"))
    if optimism.value is not None:
        splits = f" over {tune['optimism']['splits']} random splits" if tune["optimism"].get("splits") else ""
        said.append(f"A route does better where it was chosen than elsewhere by {optimism.text()} bits/dim, on average{splits}.")
    exact = tune.get("exact") or {}
    value, difference = number(exact), number(exact.get("difference"))
    if value.value is not None:
        against = f", {difference.text(signed=True)} against the bound there" if difference.value is not None else ""
        said.append(f"The exact ODE gives {value.text()} bits/dim on {exact['images']} images{against}.")
    written = (tune.get("chosen") or {}).get("spec")
    return said + ([f"The chosen route is {written}, ready for snrouter run."] if written else [])
