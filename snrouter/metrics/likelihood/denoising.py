"""Denoising errors |eps - eps_hat|^2 of one or several experts at the same noisy states: what variational bounds integrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import NonFiniteError
from snrouter.experts.base import Expert, expand
from snrouter.gamma import alpha, sigma
from snrouter.solvers.base import Progress, Tally


class Denoising(NamedTuple):
    """What experts made of the same noisy states.

    Attributes:
        errors: |eps - eps_hat|^2 by expert, float64 [B, J]; NaN where the expert was not asked.
        tallies: network calls by expert.
    """

    errors: Mapping[str, Tensor]
    tallies: Mapping[str, Tally]


def stratified(times: int, draws: Draws, indices: Sequence[int], repeat: int = 0) -> Tensor:
    """Times in [0, 1) stratified per image, t_ij = (j + u_i) / m, float64 [B, m] on the CPU."""
    offset = draws.uniform("vlb_time", indices, (), draw=repeat)
    return (torch.arange(times, dtype=torch.float64) + offset[:, None]) / times


def noisy_state(x: Tensor, gamma: Tensor, j: int, draws: Draws, indices: Sequence[int], repeat: int = 0) -> tuple[Tensor, Tensor]:
    """States z = alpha x + sigma eps of images x [B, ...] at column j of gamma [B, J], and their noise eps, both [B, ...].

    The noise is that of the bound with J times at its time j.
    """
    noise = draws.normal("vlb_noise", indices, x.shape[1:], draw=repeat * gamma.shape[1] + j).to(x)
    at = gamma[:, j]
    return expand(alpha(at), x) * x + expand(sigma(at), x) * noise, noise


def squared_error(name: str, gamma: Tensor, noise: Tensor, eps_hat: Tensor) -> Tensor:
    """|eps - eps_hat|^2 of each image, float64 [B], of what the expert of this name returned at gamma [B].

    Raises:
        NonFiniteError: when that is NaN or infinite.
    """
    error = (noise - eps_hat).double().flatten(1).square().sum(1)
    bad = ~error.isfinite().cpu()
    if bool(bad.any()):
        raise NonFiniteError(
            f"expert {name!r} returned NaN or infinity at gamma={float(gamma[bad][0]):g} for "
            f"{int(bad.sum())} of {len(error)} images; check its weights, or run it in float32"
        )
    return error


@torch.no_grad()
def denoising_errors(
    experts: Mapping[str, Expert],
    x: Tensor,
    gamma: Tensor,
    asked: Mapping[str, Tensor],
    *,
    draws: Draws,
    indices: Sequence[int],
    repeat: int = 0,
    condition: Tensor | None = None,
    progress: Progress | None = None,
) -> Denoising:
    """Ask every expert for the noise in the same states z = alpha x + sigma eps.

    Args:
        experts: by name.
        x: images [B, ...].
        gamma: float64 [B, J] on the CPU.
        asked: by expert, where it is asked, bool [B, J].
        draws: the run's draws, as `noisy_state` takes them.
        indices: which images these are.
        repeat: which repetition of the noise.
        condition: passed to the experts, [B, ...].
        progress: told the fraction done.

    Raises:
        SupportError: when an expert is asked outside its support.
        NonFiniteError: when an expert returns NaN or infinity.
    """
    times = gamma.shape[1]
    errors = {name: torch.full(gamma.shape, torch.nan, dtype=torch.float64, device=x.device) for name in experts}
    tallies = {name: Tally() for name in experts}
    for j in range(times):
        at, (z, noise) = gamma[:, j], noisy_state(x, gamma, j, draws, indices, repeat)
        for name, expert in experts.items():
            rows = asked[name][:, j].nonzero()[:, 0]
            if not len(rows):
                continue
            asking = expert.for_samples([indices[row] for row in rows.tolist()])
            prediction = asking(z[rows], at[rows], None if condition is None else condition[rows])
            tallies[name].add(prediction.calls)
            errors[name][rows, j] = squared_error(name, at[rows], noise[rows], prediction.eps_hat)
        if progress is not None:
            progress((j + 1) / times)
    return Denoising(errors, tallies)
