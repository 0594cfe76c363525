"""The profile of a tune as results.json has it: what each expert errs by along the axis."""

from __future__ import annotations

import math
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
