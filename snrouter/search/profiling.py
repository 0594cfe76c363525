"""Profiling: asking every expert, on common images and common noise; a pilot on a few images first tells where.

Draws are the variational bound's own, so that with cells of equal width the profile has, of every route, the bound's own sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from snrouter.data.base import check_images
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import SUPPORT_TOLERANCE, GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.metrics.likelihood.bits_per_dim import full_float32
from snrouter.metrics.likelihood.denoising import denoising_errors, stratified
from snrouter.metrics.likelihood.vlb import reconstruction
from snrouter.search.cells import budget, cells, marks
from snrouter.search.profile import Profile
from snrouter.solvers.base import Progress, progress_bar


def measure_profile(
    experts: Mapping[str, Expert],
    images: Tensor,
    edges: Tensor,
    *,
    levels: int | None = 256,
    gamma_min: Sequence[float] = (),
    seed: int = 0,
    repeat: int = 0,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Ask every expert in every cell that it supports.

    Args:
        experts: by name.
        images: [N, ...] at the bin centres of their levels.
        edges: of the cells [J + 1], see `cells`.
        levels: L, or None for continuous data.
        gamma_min: lower ends, besides the lowest edge, whose reconstruction term is wanted.
        seed: draws are keyed by (seed, index); those of gammas, noise and reconstruction are the bound's own.
        repeat: which repetition of the noise.
        indices: which images these are; 0 ... N - 1 when left out.
        condition: one row an image, passed to the experts.
        progress: told the fraction done.

    Raises:
        DataError: when images are off their range or levels.
        NonFiniteError: when an expert returns NaN or infinity.
    """
    check_images(images, levels)
    draws, keys = Draws(seed), range(len(images)) if indices is None else indices
    within = stratified(1, draws, keys, repeat)
    gamma = edges[:-1] + within * edges.diff()
    asked = {name: _may_ask(expert, gamma) for name, expert in experts.items()}
    with torch.autocast(images.device.type, enabled=False), full_float32():
        seen = denoising_errors(
            experts, images, gamma, asked, draws=draws, indices=keys, repeat=repeat, condition=condition, progress=progress
        )
    noise = draws.normal("reconstruction", keys, images.shape[1:], draw=repeat).to(images.device)
    return Profile(
        edges=edges,
        gamma=gamma,
        errors={name: error.cpu() for name, error in seen.errors.items()},
        square_norm=images.double().flatten(1).square().sum(1).cpu(),
        reconstruction={
            end: reconstruction(images, end, levels, noise).cpu() for end in sorted({float(edges[0]), *map(float, gamma_min)})
        },
        calls={
            name: torch.full((len(images),), sum(tally.rows.values()) / len(images), dtype=torch.float64)
            for name, tally in seen.tallies.items()
        },
        dimensions=images[0].numel(),
    )


def _may_ask(expert: Expert, gamma: Tensor) -> Tensor:
    lo, hi = (-math.inf, math.inf) if expert.allow_extrapolation else expert.support
    return (gamma >= lo - SUPPORT_TOLERANCE) & (gamma <= hi + SUPPORT_TOLERANCE)


def profile(
    experts: Mapping[str, Expert],
    images: Tensor,
    interval: GammaInterval | tuple[float, float],
    *,
    times: int = 64,
    levels: int | None = 256,
    gamma_min: Sequence[float] = (),
    gamma_max: Sequence[float] = (),
    adaptive: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    progress: bool | Progress = False,
) -> Profile:
    """Denoising errors of every expert along gamma, from which the variational bound of any route by gamma follows.

    Args:
        experts: by name.
        images: [N, ...] in [-1, 1], pixel level k at 2 (k + 1/2)/levels - 1.
        interval: (gamma_min, gamma_max).
        times: network calls an image and expert, the pilot's included.
        levels: L, or None for continuous data.
        gamma_min: lower ends to choose from, beside the interval's own; the profile covers them all.
        gamma_max: upper ends to choose from, beside the interval's own.
        adaptive: find the cells by a pilot; else they are of equal width, and the profile is the bound's own sample.
        batch_size: images that an expert is asked for at once.
        seed: draws are keyed by (seed, index).
        indices: which draws each image gets; 0 ... N - 1 when left out.
        condition: one row an image, passed to the experts.
        progress: show a progress bar, or a function to tell the fraction done.

    Returns:
        A `Profile`.

    Raises:
        DataError: when images are off their range or levels.
        SpecError: when there are no experts, `times` are too few for the candidates, a candidate for gamma_min is not below
            one for gamma_max, or `indices` or `condition` are not one an image.
        NonFiniteError: when an expert returns NaN or infinity.
    """
    check_images(images, levels)
    if not experts:
        raise SpecError("experts: expected at least one, by name, e.g. {'low': ..., 'high': ...}; got none")
    if times < 1 or batch_size < 1:
        raise SpecError(f"times and batch_size: expected at least 1, got times={times}, batch_size={batch_size}")
    for what, rows in (("indices", indices), ("condition", condition)):
        if rows is not None and len(rows) != len(images):
            raise SpecError(f"{what}: expected {len(images)}, one per image; got {len(rows)}")
    own = as_interval(interval)
    lower, upper = ({end, *map(float, more)} for end, more in ((own.gamma_min, gamma_min), (own.gamma_max, gamma_max)))
    as_interval((max(lower), min(upper)))
    whole = GammaInterval(min(lower), max(upper))
    few, rest = budget(len(images), times) if adaptive else (0, times)
    keys = range(len(images)) if indices is None else indices

    def asked(edges: Tensor, count: int, repeat: int, tell: Progress) -> Profile:
        parts = []
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            part = measure_profile(
                experts,
                images[rows],
                edges,
                levels=levels,
                gamma_min=sorted(lower),
                seed=seed,
                repeat=repeat,
                indices=keys[rows],
                condition=None if condition is None else condition[rows],
                progress=lambda done, rows=rows: tell((rows.start + done * (rows.stop - rows.start)) / count),  # type: ignore[misc]
            )
            parts.append(part.rows())
        return Profile.from_rows({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, edges, images[0].numel())

    with progress_bar(progress, "profile") as tell:
        pilot = asked(cells(whole, times), few, 1, lambda done: None) if few else None
        return asked(cells(whole, rest, pilot, marks(experts, sorted(lower), sorted(upper))), len(images), 0, tell)
