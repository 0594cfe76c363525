"""Advice: what a tune found, in words, from the key `tune` of results.json."""

from __future__ import annotations

import math
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
    runs = least["pieces"][0]["from"], least["pieces"][-1]["to"]
    if not all(math.isclose(*both, abs_tol=1e-6) for both in zip(runs, tune["interval"], strict=True)):
        name += f" (over its support, γ = {runs[0]:.4g} to {runs[1]:.4g})"
    if difference.sign == 0:
        return f", level with {name}"
    return f", {Number(abs(difference.value), difference.error).text()} {'below' if difference.value > 0 else 'above'} {name}"


def rule(tune: Tune) -> str:
    """What chose the route where nothing but the likelihood was asked for."""
    return f"the lowest in bits/dim{chosen_on(tune)}, with the fewest seams that no more are demonstrably better than"


def chosen_on(tune: Tune) -> str:
    """Where, e.g. " on the 200 images that routes were chosen on"; "" where a tune does not say."""
    images = (tune.get("images") or {}).get("chosen_on")
    return f" on the {images} images that routes were chosen on" if images else ""


def remarks(tune: Tune) -> list[str]:
    """What to bear in mind: which images, how much choosing flatters, the exact likelihood, and where the spec is."""
    images, chosen, said = tune.get("images") or {}, tune.get("chosen") or {}, []
    if images:
        said.append(
            f"Routes were chosen on {images['chosen_on']} images; bits/dim are of {images['scored_on']} others, bounds (VLB) from "
            "the profile."
        )
    whole = chosen.get("on_all_images") or {}
    if whole:
        said.append(
            f"On all {whole['images']} images, about what snrouter run will measure: {number(whole).text()} bits/dim (VLB)."
        )
    optimism = number(tune.get("optimism"))
    if optimism.value:  # a single expert leaves nothing to choose
        splits = f" over {tune['optimism']['splits']} random splits" if tune["optimism"].get("splits") else ""
        said.append(f"A route does better where it was chosen than elsewhere by {optimism.text()} bits/dim, on average{splits}.")
    exact = tune.get("exact") or {}
    value, difference = number(exact), number(exact.get("difference"))
    if value.value is not None:
        against = f", {difference.text(signed=True)} against the bound there" if difference.value is not None else ""
        said.append(f"The exact ODE gives {value.text()} bits/dim on {exact['images']} images{against}.")
    written = chosen.get("spec")
    return said + ([f"The chosen route is {written}, ready for snrouter run."] if written else [])
