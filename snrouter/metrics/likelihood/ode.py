"""Exact log-density under the probability-flow ODE (paper arXiv 2511.19434, eq. 7 and 12; score SDE arXiv 2011.13456).

Integrated upward from data at gamma_min to noise at gamma_max,

    log p(z_0) = log N(z_1; 0, sigma_max^2 I) + integral of div f over [gamma_min, gamma_max],
    div f = -D/2 sigmoid(gamma) + 1/2 sigma tr(d eps_hat / dz).

The sign is plus, as the Gaussian shows; the paper prints minus. State and log-density are float64 whatever the network's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval, sigma, sigmoid
from snrouter.solvers.base import Progress, Tally, drift
from snrouter.solvers.fork import Leg, Point, State, fork
from snrouter.solvers.integrate import integrate
from snrouter.solvers.ode import ODE

Divergence = Literal["hutchinson", "exact"]
ProbeNoise = Literal["rademacher", "gaussian"]

EXACT_CHUNK = 64
"""Dimensions differentiated at once by the exact divergence."""


class LogDensity(NamedTuple):
    """`prior` = log N(z_max) and `divergence`, its integral, in nats [B]; `z_max` [B, ...]; the network calls."""

    prior: Tensor
    divergence: Tensor
    z_max: Tensor
    tally: Tally


class LogDensities(NamedTuple):
    """`each` route's log-density by label, and the network calls an image `spent` on it, as `Forked` has them."""

    each: dict[str, LogDensity]
    spent: dict[str, float]


def log_densities(
    routes: Mapping[str, Expert],
    z: Tensor,
    bounds: GammaInterval,
    *,
    solver: ODE,
    divergence: Divergence,
    probes: int,
    probe_noise: ProbeNoise,
    draws: Draws,
    indices: Sequence[int],
    draw: int = 0,
    condition: Tensor | None = None,
    progress: Progress | None = None,
) -> LogDensities:
    """Log-densities of z [B, ...], states at gamma_min, under several routes, each what it is under that route alone.

    Args:
        routes: by label, over the same experts, each with an invertible flow; they share what they have in common at low noise.
        z: states at gamma_min, float64.
        bounds: (gamma_min, gamma_max).
        solver: method and tolerances; the divergence is part of its state.
        divergence: "hutchinson" (probes fixed over the solve, as in the paper) or "exact" (D vector products a step).
        probes: Hutchinson probes an image.
        probe_noise: their distribution.
        draws: the run's draws.
        indices: which images these are.
        draw: first probe number of each image.
        condition: passed to the experts.
        progress: told the fraction done.

    Raises:
        SpecError: when a flow is not invertible, or an option is unknown.
    """
    for expert in routes.values():
        if expert.obstacle:
            raise SpecError(f"exact-ODE likelihood needs an invertible flow, and {expert.obstacle}; use estimator: vlb")
    if divergence not in ("hutchinson", "exact") or probe_noise not in ("rademacher", "gaussian") or probes < 1:
        raise SpecError(
            f"expected divergence hutchinson or exact, probe_noise rademacher or gaussian, probes >= 1; "
            f"got {divergence!r}, {probe_noise!r}, {probes}"
        )
    z = z.double()
    count = z[0].numel()
    vectors: list[Tensor] = []
    if divergence == "hutchinson":
        make = draws.rademacher if probe_noise == "rademacher" else draws.normal
        vectors = [make("probe", indices, z.shape[1:], draw=draw + p).to(z) for p in range(probes)]

    def travel(leg: Leg) -> Iterator[tuple[float, Point]]:
        def field(gamma: float, state: State) -> tuple[State, Mapping[str, int]]:
            with torch.enable_grad():
                here = state[0].detach().requires_grad_()
                prediction = leg.ask(here, gamma)
                trace = torch.zeros_like(state[1])
                if divergence == "exact":
                    trace = _exact_trace(prediction.eps_hat, here)
                for p, vector in enumerate(vectors):
                    (product,) = torch.autograd.grad(
                        prediction.eps_hat, here, vector, retain_graph=p + 1 < len(vectors), materialize_grads=True
                    )
                    trace = trace + (product * vector).flatten(1).sum(1) / len(vectors)
            rate = -0.5 * count * sigmoid(gamma) + 0.5 * sigma(gamma) * trace
            return (drift(state[0], gamma, prediction.eps_hat.detach()), rate), prediction.calls

        return integrate(field, leg, solver.controls(bounds))

    start = Point(bounds.gamma_min, (z, torch.zeros(len(z), dtype=torch.float64, device=z.device)))
    with torch.no_grad():
        arrived = {arrival.label: arrival for arrival in fork(routes, start, bounds, travel, "encode", condition, progress)}
    each = {label: _log_density(arrived[label].point, bounds) for label in routes}
    return LogDensities(each, {label: arrived[label].spent / len(z) for label in routes})


def _log_density(at: Point, bounds: GammaInterval) -> LogDensity:
    end, integral = at.state
    count, variance = end[0].numel(), sigma(bounds.gamma_max) ** 2
    prior = -0.5 * (end.flatten(1).square().sum(1) / variance + count * math.log(2 * math.pi * variance))
    return LogDensity(prior, integral, end, at.tally)


def _exact_trace(eps_hat: Tensor, z: Tensor) -> Tensor:
    """Trace of d eps_hat / dz for each image, [B], by D vector-Jacobian products in chunks."""
    count = z[0].numel()
    trace = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    for start in range(0, count, EXACT_CHUNK):
        dims = torch.arange(start, min(start + EXACT_CHUNK, count), device=z.device)
        basis = torch.nn.functional.one_hot(dims, count).to(z).reshape(len(dims), 1, *z.shape[1:]).expand(-1, *z.shape)
        (rows,) = torch.autograd.grad(
            eps_hat, z, basis, is_grads_batched=True, retain_graph=start + len(dims) < count, materialize_grads=True
        )
        trace = trace + rows.flatten(2)[torch.arange(len(dims)), :, dims].sum(0)
    return trace
