"""What a spec will do, told before any weight is loaded."""

from __future__ import annotations

import itertools
from typing import Any

from snrouter.gamma import units
from snrouter.router.base import GammaPolicy
from snrouter.spec import Document


def explain(document: Document) -> dict[str, Any]:
    """Pieces of the route over the run's interval, each with both ends in every unit and the solver's steps on it.

    Returns:
        `{"interval": ..., "solver": ..., "pieces": [{"expert", "from", "to", "steps"}, ...]}`, pieces from most noise to least, as
        sampling runs; `steps` are the first and last step on the piece, 1 being the first, or None for an adaptive solver.
    """
    bounds, policy, solver = document.bounds, document.policy(), document.solver()
    edges = [bounds.gamma_min, *(at for at in policy.seams if bounds.gamma_min < at < bounds.gamma_max), bounds.gamma_max]
    pieces: list[dict[str, Any]] = []
    taken = 0
    for lo, hi in reversed(list(itertools.pairwise(edges))):
        held = policy.restrict(lo, hi)
        count = solver.steps_on(lo, hi, bounds)
        steps = None if count is None else [taken + 1, taken + count]
        taken += count or 0
        pieces.append(
            {
                "expert": ", ".join(held.experts),
                "weights": "one expert" if isinstance(held, GammaPolicy) else "mixture",
                "from": units(hi, bounds),
                "to": units(lo, bounds),
                "steps": steps,
            }
        )
    return {
        "interval": {"gamma_min": units(bounds.gamma_min, bounds), "gamma_max": units(bounds.gamma_max, bounds)},
        "route": document.spec.route.name,
        "solver": repr(solver),
        "pieces": pieces,
    }
