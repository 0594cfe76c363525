"""Protocol: what two numbers must have in common to stand in one column.

Whatever a row says of how it was made counts, known to us or not, but for what changes a number by chance or by rounding alone: the
seed, versions, the device, the batch size; for how its error was found; and for the weights, which are what is compared. Images are
known by their hash, not by the name of a data set. The timing of a route depends on the machine: for it device and batch count, and
repetitions do not.

The interval of an expert alone on its own support is the expert's, and no row is asked for it. And what differs between the routes
of one run is the routes' own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of results.json."""

_CHANCE = frozenset({"seed"})
_MODEL = frozenset({"weights_sha256"})
_WORDS = frozenset({"error", "note"})
_ROUNDING = frozenset({"batch_size", "device", "snrouter", "torch", "packages"})
_OF_THE_MACHINE = frozenset({"batch_size", "device", "torch"})
_TIMED = frozenset({"cost"})
_BOUNDS = ("gamma_min", "gamma_max")
_LONG = 40
_HASH = re.compile("[0-9a-f]{64}")


def counted(row: Row) -> dict[str, Any]:
    """What a row's number depends on, n included."""
    facts = {"n": row.get("n"), "splits": row.get("splits"), **(row.get("protocol") or {})}
    left_out = _CHANCE | _ROUNDING | _WORDS | _MODEL
    if row.get("metric") in _TIMED:
        left_out = (left_out - _OF_THE_MACHINE) | {"n", "repetitions"}
    for images in ("data", "reference", "unseen"):
        if f"{images}_sha256" in facts:
            left_out |= {images, f"{images}_n", f"{images}_protocol", f"{images}_statistics"}
    if row.get("interval") == "own support":
        left_out |= set(_BOUNDS)
    return {key: value for key, value in facts.items() if key not in left_out and value is not None}


def differences(rows: Sequence[Row], others: Sequence[Row]) -> dict[str, tuple[Any, Any]]:
    """What the numbers of one run and those of another were not made alike in: by key both values, None where it is not said."""
    mine, own = _common(rows)
    theirs, their_own = _common(others)
    keys = [key for key in dict.fromkeys([*mine, *theirs]) if key not in own | their_own]
    said = {key: (mine.get(key), theirs.get(key)) for key in keys}
    return {key: pair for key, pair in said.items() if not _same(*pair) and not (key in _BOUNDS and None in pair)}


def told(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences in words, e.g. "n 2000 against 400, final decode against denoise"."""
    return ", ".join(f"{key.replace('_', ' ')} {short(mine)} against {short(theirs)}" for key, (mine, theirs) in found.items())


def _common(rows: Sequence[Row]) -> tuple[dict[str, Any], set[str]]:
    """What all rows say alike, and the keys of what they do not; a bound that some do not say is what the others say."""
    facts = [counted(row) for row in rows]
    alike, own = {}, set()
    for key in dict.fromkeys(key for fact in facts for key in fact):
        values = [fact.get(key) for fact in facts if key in fact or key not in _BOUNDS]
        if all(_same(values[0], value) for value in values):
            alike[key] = values[0]
        else:
            own.add(key)
    return alike, own


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)


def short(value: Any) -> str:
    """A fact in few characters."""
    text = "not said" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    if _HASH.fullmatch(text):
        return text[:8]
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
