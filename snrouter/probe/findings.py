"""What the probe found, in words: faults with what to change, notes, and the table of errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snrouter.gamma import GammaInterval, interval
from snrouter.probe.readings import Change, Named, Reading
from snrouter.probe.search import DECISIVE, SIGMAS
from snrouter.probe.states import FLOOR, denoises, difference_of
from snrouter.router.base import Policy

ROOM = 0.1
"""Where an expert's and the linear predictor's errors are all below this, as at high noise, no difference of theirs is a fault."""
BETTER_ELSEWHERE = 0.25
"""A route is noted where another expert's score is lower by this on all of a piece."""


class Fault(NamedTuple):
    """Something that an expert's registration got wrong: what, how it shows, and what to change."""

    expert: str
    fault: str
    looks: str
    evidence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.looks} ({self.evidence}); {self.fix}"


class Level(NamedTuple):
    """An expert at one gamma: its error, the standard error of that, and the linear predictor's error."""

    gamma: float
    error: float
    standard_error: float
    linear: float


@dataclass
class Probe:
    """What was found.

    Attributes:
        levels: by expert, ascending in gamma.
        right: experts that denoise as registered.
        faults: none where every registration is right.
        notes: what is worth a look, and no fault.
        calls: rows that networks were given, by expert.
    """

    levels: dict[str, list[Level]] = field(default_factory=dict)
    right: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "experts": {name: [level._asdict() for level in levels] for name, levels in self.levels.items()},
            "right": self.right,
            "faults": [fault._asdict() for fault in self.faults],
            "notes": self.notes,
            "calls": self.calls,
        }


def levels_of(gammas: Sequence[float], errors: Tensor, linear: Tensor) -> list[Level]:
    """The table of an expert; a gamma that several levels were held to stands once."""
    spread = errors.std(1) / math.sqrt(errors.shape[1])
    rows = zip(gammas, errors.mean(1).tolist(), spread.tolist(), linear.mean(1).tolist(), strict=True)
    return [Level(*row) for row in dict.fromkeys(rows)]


def name_swapped(found: Probe, registered: Mapping[str, Reading], read: Mapping[str, Reading]) -> None:
    """Two networks, each read rightly as the other is registered, are swapped: that is the fault of both."""
    wrong = {name: [f for f in found.faults if f.expert == name] for name in dict.fromkeys(f.expert for f in found.faults)}
    for one, other in itertools.combinations([name for name in wrong if name in read], 2):
        gammas = torch.tensor([level.gamma for name in (one, other) for level in found.levels[name]], dtype=torch.float64)
        if read[one].same(registered[other], gammas) and read[other].same(registered[one], gammas):
            for name, partner in ((one, other), (other, one)):
                looks = f"its network looks like that of {partner!r}: the two are swapped"
                wrong[name] = [Fault(name, "swapped", looks, wrong[name][0].evidence, "exchange their checkpoints")]
    found.faults = [fault for faults in wrong.values() for fault in faults]


def fix_of(
    change: Change, reading: Reading, clock: Named | None, support: GammaInterval, known: Collection[str], card: str | None
) -> str:
    """What to change, in the keys of the expert's type or of its card where they have them."""
    keys: Mapping[str, Any] = change.keys
    if not keys:
        return change.remedy
    if card and keys.get("clock") == "linear" and clock:
        line = clock.schedule.support
        inside = line.covers(support.gamma_min) and line.covers(support.gamma_max)
        more = "" if inside else ', and narrow "support" to it,'
        return f'set "clock": {line}{more} in {card}'
    told = "set"
    if not set(keys) <= set(known):
        told = f"register it as type: {'edm' if 'sigma_data' in keys else 'generic'} with"
        if "sigma_data" not in keys and clock:  # another type has other defaults: say all that it is
            own = GammaInterval(*(end + 2 * math.log(reading.scale) for end in support))
            keys = {
                "prediction": reading.prediction_name,
                **clock.keys,
                "support": interval(own.intersect(clock.schedule.support)),
                "data_scale": round(reading.scale, 7),
                **keys,
            }
    told = f"{told} {', '.join(f'{key}: {value}' for key, value in keys.items())}"
    return f"{told}, and {change.remedy}" if change.remedy else told


def against_linear(found: Probe, name: str, gammas: Sequence[float], errors: Tensor, linear: Tensor, is_network: bool) -> None:
    """A fault where an expert is worse than the linear predictor, or a network nowhere better; a note where it is worse at some."""
    mean, bar = errors.mean(1), linear.mean(1)
    difference, spread = difference_of(linear, errors)
    gain = linear - errors
    better = bool((gain.mean(1) > SIGMAS * gain.std(1) / math.sqrt(gain.shape[1])).any())
    room = bool((torch.maximum(mean, bar) > ROOM).any())
    at = int((mean / (bar + FLOOR)).argmax())
    evidence = f"error {mean[at]:.2g} against {bar[at]:.2g} of a linear predictor of each pixel, at gamma {gammas[at]:.3g}"
    if room and difference > max(DECISIVE, SIGMAS * spread) and not denoises(errors, linear):
        looks = "it denoises worse than its images' means and variances alone, however it is read"
        fix = "is this the checkpoint for these images? check its prediction, clock and data_scale, and the data"
        found.faults.append(Fault(name, "unknown", looks, evidence, fix))
    elif room and is_network and not better:
        looks = "it is nowhere better than its images' means and variances alone, however it is read"
        fix = "is it trained, and on such images?"
        found.faults.append(Fault(name, "unknown", looks, evidence, fix))
    elif not better:
        found.notes.append(f"expert {name!r} is nowhere better than a linear predictor of each pixel, so nothing is known of it")
    else:
        found.right.append(name)
        worse = [gamma for gamma, e, t in zip(gammas, mean.tolist(), bar.tolist(), strict=True) if e > 1.2 * t + FLOOR]
        if worse and is_network:  # a closed form knows what it knows
            where = ", ".join(f"{gamma:.3g}" for gamma in worse)
            found.notes.append(
                f"expert {name!r} is worse than a linear predictor of each pixel at gamma {where}; narrow its support?"
            )


def better_elsewhere(measured: Mapping[str, tuple[Sequence[float], Tensor]], policy: Policy, bounds: GammaInterval) -> list[str]:
    """Pieces of the route on which another expert has decisively less error at every level that both were measured at."""
    notes = []
    seams = [seam for seam in policy.seams if bounds.gamma_min < seam < bounds.gamma_max]
    for lo, hi in itertools.pairwise([bounds.gamma_min, *seams, bounds.gamma_max]):
        name, *more = policy.restrict(lo, hi).experts
        for other in measured if name in measured and not more else ():
            gammas, errors = measured[name]
            inside = [j for j, gamma in enumerate(gammas) if lo <= gamma <= hi]
            if other == name or not inside or any(gammas[j] != measured[other][0][j] for j in inside):
                continue
            here, there = errors[inside], measured[other][1][inside]
            difference, spread = difference_of(here, there)
            if difference < -max(BETTER_ELSEWHERE, SIGMAS * spread) and bool((there.mean(1) < here.mean(1)).all()):
                at = int((here.mean(1) / (there.mean(1) + FLOOR)).argmax())
                notes.append(
                    f"the route runs {name!r} on [{lo:.3g}, {hi:.3g}], where {other!r} has less error throughout "
                    f"({there[at].mean():.2g} against {here[at].mean():.2g} at gamma {gammas[inside[at]]:.3g}); are they exchanged?"
                )
    return notes
