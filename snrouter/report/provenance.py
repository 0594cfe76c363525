"""Provenance: how each number was made, told once where numbers share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snrouter.report.measures import measures
from snrouter.report.number import MISSING
from snrouter.report.tables import Row, table


@dataclass(frozen=True)
class Account:
    """How the numbers of one measure were made.

    Attributes:
        title: of the measure; "All measures" for what every one has in common.
        facts: what all its rows say alike, but for what all measures have in common.
        differing: by route, or routes alike, what they do not share with all others.
    """

    title: str
    facts: Mapping[str, Any]
    differing: Mapping[str, str]


def accounts(results: Mapping[str, Any]) -> list[Account]:
    """What is common to all rows, then what is common to a measure and what differs by route, n included."""
    known, rows = measures(results), table(results)
    said = {m.key: {name(row): _facts(row.rows[m.key]) for row in rows if m.key in row.rows} for m in known}
    everywhere = _shared([facts for by_route in said.values() for facts in by_route.values()]) if len(known) > 1 else {}
    found = [Account("All measures", everywhere, {})] if everywhere else []
    for measure in known:
        by_route = said[measure.key]
        common = _shared(list(by_route.values()))
        own = {key: value for key, value in common.items() if key not in everywhere}
        found.append(Account(measure.title, own, _differing(by_route, common)))
    return found


def name(row: Row) -> str:
    """A route, and its run where there are several."""
    return f"{row.run}/{row.label}" if row.run else row.label


def fact(value: Any) -> str:
    """A value in words, e.g. "torch 2.13.0, numpy 2.4.0"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(fact, value))
    return MISSING if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"n": row.get("n"), **(row.get("protocol") or {})}


def _shared(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = facts
    return {key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)}


def _differing(by_route: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> dict[str, str]:
    told: dict[str, list[str]] = {}
    for route, facts in by_route.items():
        own = ", ".join(f"{key.replace('_', ' ')} {fact(value)}" for key, value in facts.items() if key not in common)
        if own:
            told.setdefault(own, []).append(route)
    return {", ".join(routes): own for own, routes in told.items()}
