"""The variational bound (VDM arXiv 2107.00630, eq. 11, 15 and 22), term by term, in nats an image.

- prior: KL of q(z_1 | x) against N(0, sigma_max^2 I) = |x|^2 / (2 edm_sigma_max^2);
- reconstruction: -log p(x | z_0), one draw of z_0, by the L-way discretised softmax over bin centres, or for continuous data
  N(z_0 / alpha_0, edm_sigma_0^2);
- diffusion: 1/2 (gamma_max - gamma_min) E_t |eps - eps_hat|^2, times stratified per image, t_ij = (j + u_i) / m; or with T
  finite steps, T/2 E_i expm1(gamma_t - gamma_s) |eps - eps_hat(z_t)|^2, t = i/T, s = (i - 1)/T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snrouter.data.base import from_levels, to_levels
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Piece
from snrouter.gamma import GammaInterval, edm_sigma
from snrouter.metrics.likelihood.denoising import noisy_state, squared_error, stratified
from snrouter.solvers.base import Progress, Tally


class Terms(NamedTuple):
    """The three terms in nats, each float64 [B], and the network calls: of the route alone, and those no route before it made."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor
    tally: Tally
    spent: int


RECONSTRUCTION_CHUNK = 2**24
"""Pixels times levels that the reconstruction term holds at once (128 MiB)."""


def prior(x: Tensor, gamma_max: float) -> Tensor:
    """KL of q(z_1 | x) against N(0, sigma_max^2 I), nats [B]; both have variance sigma_max^2."""
    return 0.5 * x.double().flatten(1).square().sum(1) / edm_sigma(gamma_max) ** 2


def reconstruction(x: Tensor, gamma_0: float, levels: int | None, noise: Tensor) -> Tensor:
    """-log p(x | z_0) at z_0 = alpha_0 x + sigma_0 noise, nats [B]."""
    s = edm_sigma(gamma_0)
    if levels is None:
        return (0.5 * noise.square() + math.log(s * math.sqrt(2 * math.pi))).flatten(1).sum(1)
    centres = from_levels(torch.arange(levels, device=x.device), levels, torch.float64)
    chunk = max(1, RECONSTRUCTION_CHUNK // (x[0].numel() * levels))
    parts = []
    for seen, level in zip(torch.split(x.double() + s * noise, chunk), torch.split(to_levels(x, levels), chunk), strict=True):
        log_p = (-0.5 * ((seen.unsqueeze(-1) - centres) / s) ** 2).log_softmax(-1)
        parts.append(-log_p.gather(-1, level.unsqueeze(-1)).flatten(1).sum(1))
    return torch.cat(parts)


def variational_bounds(
    routes: Mapping[str, Expert],
    x: Tensor,
    bounds: GammaInterval,
    *,
    levels: int | None,
    times: int,
    steps: int | None,
    draws: Draws,
    indices: Sequence[int],
    repeat: int = 0,
    condition: Tensor | None = None,
    progress: Progress | None = None,
) -> dict[str, Terms]:
    """The bounds of several routes, on common times and noise.

    What routes ask of one expert for the same images of the batch at the same time, it is asked once. At a time where a switch has
    some images below it and some above, each route asks for its own, though those of another overlap: its terms are, bit for bit,
    those it has alone.

    Args:
        routes: by label; each asks once per image and time.
        x: images [B, ...].
        bounds: (gamma_min, gamma_max) of the bound.
        levels: L, or None for continuous data.
        times: m, times an image.
        steps: T of the finite-step loss, or None for the continuous one.
        draws: the run's draws.
        indices: which images these are.
        repeat: which repetition of the noise.
        condition: passed to the experts.
        progress: told the fraction done.

    Raises:
        SpecError: for times or steps below one.
        SupportError: when the bounds leave a route's support.
    """
    if times < 1 or (steps is not None and steps < 1):
        raise SpecError(f"times and steps: expected at least 1, got times={times}, steps={steps}")
    for expert in routes.values():
        expert.require(*bounds)
    first = draws.normal("reconstruction", indices, x.shape[1:], draw=repeat).to(x.device)
    ends = prior(x, bounds.gamma_max), reconstruction(x, bounds.gamma_min, levels, first)
    t = stratified(times, draws, indices, repeat)
    if steps is None:
        gamma, weight = bounds.at(t), 0.5 * bounds.length
    else:
        gamma = bounds.at(((t * steps).floor() + 1).clamp(max=steps) / steps)
        weight = 0.5 * steps * math.expm1(bounds.length / steps)
    seen = {label: _Seen(gamma, x.device) for label in routes}
    questions = _questions({label: list(expert.pieces(*bounds)) for label, expert in routes.items()}, gamma)
    for done, question in enumerate(questions):
        rows, j = question.rows, question.column
        z, noise = (part[rows] for part in noisy_state(x, gamma, j, draws, indices, repeat))
        with torch.no_grad():
            expert = question.expert.for_samples([indices[row] for row in rows.tolist()])
            prediction = expert(z, gamma[rows, j], None if condition is None else condition[rows])
        error = squared_error(question.expert.name, gamma[rows, j], noise, prediction.eps_hat)
        seen[question.routes[0]].spent += sum(prediction.calls.values())
        for label in question.routes:
            seen[label].errors[rows, j] = error
            seen[label].tally.add(prediction.calls)
        if progress is not None:
            progress((done + 1) / len(questions))
    return {label: Terms(*ends, weight * route.errors.mean(1), route.tally, route.spent) for label, route in seen.items()}


class _Seen:
    """What one route has seen: its errors [B, m], its network calls, and those that no route before it made."""

    def __init__(self, gamma: Tensor, device: torch.device) -> None:
        self.errors = torch.full(gamma.shape, torch.nan, dtype=torch.float64, device=device)
        self.tally = Tally()
        self.spent = 0


class _Question(NamedTuple):
    """What routes ask an expert in common: at one time of these images."""

    expert: Expert
    column: int
    rows: Tensor
    routes: list[str]


def _questions(routes: Mapping[str, Sequence[Piece]], gamma: Tensor) -> list[_Question]:
    """What routes ask pointwise at gamma [B, m], expert by expert; gamma <= switch is the piece below (arXiv 2511.19434, eq. 9)."""
    different: list[Piece] = []
    asked: dict[tuple[int, int, bytes], _Question] = {}
    for label, pieces in routes.items():
        switches = torch.tensor([piece.hi for piece in pieces[:-1]], dtype=torch.float64)
        owner = torch.bucketize(gamma, switches)
        for place, piece in enumerate(pieces):
            number = next((i for i, other in enumerate(different) if other.identity == piece.identity), len(different))
            if number == len(different):
                different.append(piece)
            mine = owner == place
            for column in mine.any(0).nonzero()[:, 0].tolist():
                rows = mine[:, column].nonzero()[:, 0]
                question = _Question(piece.expert, column, rows, [])
                asked.setdefault((number, column, rows.numpy().tobytes()), question).routes.append(label)
    return [asked[key] for key in sorted(asked)]
