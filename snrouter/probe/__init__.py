"""The probe: does each expert denoise as one that is registered rightly would?

On n images, at gammas over its support, under noise eps that all experts share, an expert's error is

    e(gamma) = E |eps_hat(z) - eps|^2 / D.

Beside it stands that of the best linear predictor of each pixel alone, eps_hat = sigma (z - alpha mu) / (alpha^2 v + sigma^2),
with its mean mu and variance v over the images, on the same states. A network is then read in other ways
(`snrouter.probe.readings`), and one that has decisively less error tells what the registration got wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import CheckpointError
from snrouter.experts.base import Expert
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import GammaInterval
from snrouter.probe.findings import Fault, Probe, against_linear, better_elsewhere, fix_of, levels_of, name_swapped
from snrouter.probe.readings import Reading, named_clock
from snrouter.probe.search import IMAGES, Search, Told
from snrouter.probe.states import GAMMAS, States, quiet
from snrouter.router.base import Policy

__all__ = ["IMAGES", "Fault", "Probe", "Tick", "probe"]

Tick = Callable[[str, str, int, int], None]
"""Called with an expert, what is being tried, the network calls made for it, and how many are planned by now."""


@torch.no_grad()
def probe(
    experts: Mapping[str, Expert],
    data: ImageData,
    policy: Policy,
    bounds: GammaInterval,
    *,
    keys: Mapping[str, Collection[str]],
    cards: Mapping[str, str] | None = None,
    labelled: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    images: int = IMAGES,
    tick: Tick | None = None,
    done: Callable[[str, Probe], None] | None = None,
) -> Probe:
    """Measure experts on images, and name what their registrations got wrong.

    Args:
        experts: by name.
        data: some of its images are used, evenly spaced.
        policy: the route, for the notes.
        bounds: the run's interval, which stands for a support without ends.
        keys: those that each expert takes in a spec.
        cards: for experts whose line of time is the `clock` of a card, that card.
        labelled: give experts the labels of the data.
        dtype: of the states.
        device: of the experts.
        seed: of the noise.
        images: how many are used at most.
        tick: told what is being tried.
        done: told of each expert that is done, with what was found by then.
    """
    states = States(data, images, labelled, Draws(seed), dtype, device)
    supports = {name: _probed(expert.support, bounds) for name, expert in experts.items()}
    grid = GammaInterval(min(s.gamma_min for s in supports.values()), max(s.gamma_max for s in supports.values()))
    registered = {name: Reading.of(expert) for name, expert in experts.items() if isinstance(expert, NetworkExpert)}
    found, right, read = Probe(), dict[str, tuple[list[float], Tensor]](), dict(registered)
    for name, expert in experts.items():
        lo, hi = supports[name]
        gammas = [min(max(grid.at(j / (GAMMAS - 1)), lo), hi) for j in range(GAMMAS)]
        search = Search(states, gammas, partial(tick or quiet, name))
        try:
            errors = search.errors(lambda *state, expert=expert: expert.predict(*state).eps_hat, range(GAMMAS), range(len(states)))
        except CheckpointError as error:
            found.faults.append(Fault(name, "failed", "it does not run", str(error), "is this the checkpoint for these images?"))
        else:
            found.levels[name] = levels_of(gammas, errors, search.linear)
            told: list[Told] = []
            if name in registered:
                others = {other: reading for other, reading in registered.items() if other != name}
                told, read[name] = search.run(registered[name], errors, others, data.levels)
            clock = named_clock(read[name].clock, supports[name]) if told else None
            for change, evidence in told:
                fix = fix_of(change, read[name], clock, expert.support, keys.get(name, ()), (cards or {}).get(name))
                found.faults.append(Fault(name, change.fault, change.looks, evidence, fix))
            if not told:
                right[name] = gammas, errors
                against_linear(found, name, gammas, errors, search.linear, name in registered)
        found.calls[name] = search.calls if next(expert.parameters(), None) is not None else 0
        if done:
            done(name, found)
    name_swapped(found, registered, read)
    found.notes += better_elsewhere(right, policy, bounds)
    return found


def _probed(support: GammaInterval, bounds: GammaInterval) -> GammaInterval:
    """What the run can use of a support, or the support where that is nothing."""
    common = support.intersect(bounds)
    return common if common.gamma_min < common.gamma_max else support
