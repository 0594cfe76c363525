"""The profile of a tune as results.json has it: what each expert errs by along the axis, and what follows for a route."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from snrouter.report.advice import Tune
from snrouter.report.number import finite

if TYPE_CHECKING:
    from numpy.typing import NDArray


def curves(tune: Tune) -> tuple[NDArray[Any], dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Gammas, and each expert's errors with their standard errors there; NaN where it was not asked."""
    profile = tune.get("profile") or {}
    found = {}
    for name, told in (profile.get("error") or {}).items():
        value, error = (np.array([math.nan if (n := finite(x)) is None else n for x in told[key]]) for key in told)
        if np.isfinite(value).any():
            found[name] = (value, np.nan_to_num(error))
    return np.array(profile.get("gamma") or [], float), found


def level_of(tune: Tune, pair: Mapping[str, Any]) -> float | None:
    """The chosen route's VLB on the images of the thresholds, all of them; None where its experts are not known everywhere.

    A switch at the upper end leaves the low expert throughout; the chosen route differs from that by half the integral of the
    difference of their errors, over ln 2 for bits. It is exact for switches at edges of cells, where the search puts them.
    """
    _, found = curves(tune)
    edges = np.array((tune.get("profile") or {}).get("edges") or [], float)
    pieces = tune["chosen"]["pieces"]
    low, high = tune["interval"]
    whole = math.isclose(pieces[0]["from"], low, abs_tol=1e-6) and math.isclose(pieces[-1]["to"], high, abs_tol=1e-6)
    if (
        not whole
        or not {pair["low"], *(piece["expert"] for piece in pieces)} <= found.keys()
        or not math.isclose(pair["gamma"][-1], high, abs_tol=1e-6)
    ):
        return None
    base, shift = found[pair["low"]][0], 0.0
    for piece in pieces:
        width = np.clip(np.minimum(edges[1:], piece["to"]) - np.maximum(edges[:-1], piece["from"]), 0.0, None)
        cells = (width > 0) & (piece["expert"] != pair["low"])
        shift += float(np.sum((width * (found[piece["expert"]][0] - base))[cells]))
    level = pair["value"][-1] + shift / (2 * math.log(2))
    return level if math.isfinite(level) else None
