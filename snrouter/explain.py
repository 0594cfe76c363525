"""What a spec will do, told before any expert is loaded."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from snrouter.errors import SpecError
from snrouter.experts.checkpoints import card_path
from snrouter.experts.diffusers_unet import PIXELS, clock, diffusers_unet
from snrouter.experts.edm import PRECONDITIONINGS, edm
from snrouter.experts.generic import generic
from snrouter.gamma import GammaInterval, interval, units
from snrouter.router.base import GammaPolicy
from snrouter.scheduler_configs import read_scheduler
from snrouter.schedules import Clock as Time
from snrouter.schedules import DiscreteSchedule, schedule, scheduler_schedule
from snrouter.spec import Document


def explain(document: Document) -> dict[str, Any]:
    """Pieces of the route over the run's interval, each with both ends in every unit and the solver's steps on it.

    Returns:
        `{"interval": ..., "solver": ..., "pieces": [{"expert", "weights", "from", "to", "steps"}, ...],
        "clocks": [{"of", "at"}, ...]}`, pieces from most noise to least, as sampling runs; `weights` are of "one expert", or of a
        "mixture", whose experts `expert` lists; `steps` are the first and last step on the piece, 1 being the first, or None for an
        adaptive solver. `clocks` are those of experts with numbered steps, and of schedulers that positions are read through; `at`
        are the ends of the pieces, each with `gamma`, the fractional `timestep`, and where a scheduler is known `boundary_ratio`
        and `denoising_end`; None beyond the first or last step.
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
        "clocks": [{"of": found.of, "at": [found.told(gamma) for gamma in reversed(edges)]} for found in _clocks(document)],
    }


class _Clock(NamedTuple):
    """Numbered steps: of whom, own gamma -> timestep, the own gammas that have one, pixels over ours, and a scheduler's T."""

    of: str
    time: Time
    support: GammaInterval
    data_scale: float
    steps: int | None

    def told(self, gamma: float) -> dict[str, float | None]:
        """One position on it."""
        import torch

        own = gamma + 2 * math.log(self.data_scale)
        at = float(self.time(torch.tensor([own], dtype=torch.float64))) if self.support.covers(own) else None
        told = {"gamma": gamma, "timestep": at}
        if self.steps is None:
            return told
        share = None if at is None else at / self.steps
        return told | {"boundary_ratio": share, "denoising_end": None if share is None else 1 - share}


def _clocks(document: Document) -> Iterator[_Clock]:
    for name in document.spec.experts:
        found = document.at(("experts", name), lambda name=name: _expert_clock(document, name))  # type: ignore[misc]
        if found is not None:
            yield found
    for path in document.schedulers():
        scheduler = read_scheduler(path)
        own = scheduler_schedule(scheduler)
        yield _Clock("/".join(path.parts[-2:]), own.t, own.support, 1.0, scheduler.steps)


def _expert_clock(document: Document, name: str) -> _Clock | None:
    """The clock of an expert with numbered steps, from the spec, its scheduler or its card; None for another, or an absent file."""
    target, given = document.expert_arguments(name)
    if target not in (generic, diffusers_unet, edm):
        return None
    scale = given.get("data_scale")
    if scale is not None and not 0 < scale < math.inf:
        raise SpecError(f"data_scale: expected a positive number, got {scale:g}")
    if target is generic and "clock" in given:
        parameters = given.get("clock_parameters") or {}
        own = document.at(("experts", name, "clock_parameters"), lambda: schedule(given["clock"], **parameters))
        return _Clock(name, own.t, own.support, scale or 1.0, None) if isinstance(own, DiscreteSchedule) else None
    if target is diffusers_unet and given["checkpoint"].exists():
        held = clock(given["checkpoint"], given.get("scheduler"))
        return _Clock(name, held.schedule.t, held.schedule.support, scale or PIXELS, held.scheduler.steps)
    if target is edm and card_path(given["checkpoint"]).is_file():
        return _edm_clock(name, card_path(given["checkpoint"]), scale)
    return None


def _edm_clock(name: str, card: Path, scale: float | None) -> _Clock | None:
    """Of EDM's preconditionings, VP and iDDPM number their steps."""
    try:
        held = json.loads(card.read_text())["expert"]
        kind = held.get("preconditioning", "edm")
        if kind not in ("vp", "iddpm"):
            return None
        numbers = {key: float(value) for key, value in held.items() if key not in ("preconditioning", "support")}
        if not all(0 < number < math.inf for number in numbers.values()):
            return None
        own_scale = numbers.pop("data_scale", 256 / 255)
        own = PRECONDITIONINGS[kind](**numbers)
        return _Clock(name, own.clock, interval(own.support), scale or own_scale, None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None  # what is wrong with a card is told when it is loaded
