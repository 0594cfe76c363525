"""Cells: where along gamma a profile spends its network calls.

A bound is a sum over cells of width times error, so that at a given number of cells its noise is least when each is as narrow as
the error is noisy there. A pilot on a few images tells where; its own numbers are thrown away, which keeps the bound unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import SUPPORT_TOLERANCE, GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.search.profile import Profile

PILOT = 16
"""One image in so many is a pilot's."""


def budget(images: int, times: int, most: int | None = None) -> tuple[int, int]:
    """How many images the pilot has, at most so many, and how many gammas the profile: both cost `times` calls an image and expert.

    Below 4 `PILOT` images or `PILOT` gammas there is no pilot.
    """
    pilot = min(images // PILOT, most or images) if images >= 4 * PILOT and times >= PILOT else 0
    return pilot, times - math.ceil(pilot * times / images)


def marks(experts: Mapping[str, Expert], gamma_min: Sequence[float] = (), gamma_max: Sequence[float] = ()) -> list[float]:
    """Gammas that should be edges of cells: candidates for the interval's ends, and ends of supports that are none of these."""
    named = [*gamma_min, *gamma_max]
    ends = [end for expert in experts.values() if not expert.allow_extrapolation for end in expert.support]
    apart = [end for end in ends if all(abs(end - other) > SUPPORT_TOLERANCE for other in named)]
    return sorted({*named, *apart})


def cells(
    interval: GammaInterval | tuple[float, float], times: int, pilot: Profile | None = None, at: Sequence[float] = ()
) -> Tensor:
    """Edges of cells, ascending [times + 1].

    With a pilot half of the cells are spread evenly and half in proportion to the noise of the error (Neyman allocation). On the
    digits that leaves a bound about a quarter less variance, and a difference between two routes 5 % more to 40 % less. The even
    half guards against what few images do not tell.

    Args:
        interval: what they cover.
        times: how many.
        pilot: a profile of a few images on the same interval; cells of equal width when left out.
        at: gammas that must be edges: the nearest edges are moved there. Those outside the interval, or within 0.01 of its ends,
            are left out.

    Raises:
        SpecError: when there are more of these than edges to move.
    """
    bounds = as_interval(interval)
    fraction = torch.arange(times + 1, dtype=torch.float64) / times
    edges = bounds.at(fraction)
    if pilot is not None:
        mass = _noise(pilot) * pilot.edges.diff()
        share = 0.5 * pilot.edges.diff() / bounds.length + 0.5 * mass / mass.sum().clamp(min=1e-300)
        below = torch.cat([torch.zeros(1), share.cumsum(0) / share.sum()])
        edges[1:-1] = torch.from_numpy(np.interp(fraction[1:-1], below, pilot.edges))
    margin = SUPPORT_TOLERANCE  # an end of a support that stands for the interval's own
    inside = sorted({gamma for gamma in at if bounds.gamma_min + margin < gamma < bounds.gamma_max - margin})
    if len(inside) > times - 1:
        raise SpecError(f"times: {times} leave no cells between {len(inside)} candidates and ends of supports; ask for more")
    free = torch.ones(times + 1, dtype=torch.bool)
    free[[0, -1]] = False
    for gamma in inside:
        nearest = int(torch.where(free, (edges - gamma).abs(), torch.inf).argmin())
        edges[nearest], free[nearest] = gamma, False
    return edges.sort().values


def _noise(pilot: Profile) -> Tensor:
    """Standard deviation of the error at one state in each cell [J], of the expert that errs least there.

    Images differ, too, but smoothly in gamma: half the variance of the difference between neighbouring cells is the noise. Where a
    support ends within a cell, it is that of the images asked there.
    """
    mean = torch.stack([pilot.curve(name)[0].nan_to_num(torch.inf) for name in pilot.errors])
    apart = torch.stack([error.diff() for error in pilot.errors.values()])  # [K, N, J - 1], between cells
    variance = (apart - apart.nanmean(1, keepdim=True)).square().nanmean(1) / 2
    padded = torch.cat([variance[:, :1], variance, variance[:, -1:]], 1)
    noise = torch.stack([padded[:, :-1], padded[:, 1:]]).nanmean(0).sqrt()
    return noise.gather(0, mean.argmin(0, keepdim=True))[0].nan_to_num(0.0)
