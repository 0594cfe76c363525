"""Bits per dimension of images under an expert or a route, by a named protocol."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from snrouter.data.base import check_images
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.metrics.likelihood.dequantization import Dequantization, dequantize
from snrouter.metrics.likelihood.estimate import Estimate, Term, error_parts
from snrouter.metrics.likelihood.ode import Divergence, ProbeNoise, log_densities
from snrouter.metrics.likelihood.vlb import variational_bounds
from snrouter.solvers.base import Progress, Tally, progress_bar
from snrouter.solvers.fork import check_routes
from snrouter.solvers.ode import ODE


@overload
def bits_per_dim(
    expert: Expert,
    images: Tensor,
    interval: GammaInterval | tuple[float, float],
    estimator: Literal["ode", "vlb"] = "ode",
    dequantization: Dequantization = "truncated_normal",
    seed: int = 0,
    *,
    levels: int = 256,
    solver: ODE | None = None,
    divergence: Divergence = "hutchinson",
    probes: int = 1,
    probe_noise: ProbeNoise = "rademacher",
    importance_samples: int = 1,
    gamma_0: float | None = None,
    times: int = 128,
    steps: int | None = None,
    repeats: int = 1,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    progress: bool | Progress = False,
) -> Estimate: ...
@overload
def bits_per_dim(
    expert: Mapping[str, Expert], images: Tensor, interval: GammaInterval | tuple[float, float], *args: Any, **options: Any
) -> dict[str, Estimate]: ...
def bits_per_dim(
    expert: Expert | Mapping[str, Expert],
    images: Tensor,
    interval: GammaInterval | tuple[float, float],
    estimator: Literal["ode", "vlb"] = "ode",
    dequantization: Dequantization = "truncated_normal",
    seed: int = 0,
    *,
    levels: int = 256,
    solver: ODE | None = None,
    divergence: Divergence = "hutchinson",
    probes: int = 1,
    probe_noise: ProbeNoise = "rademacher",
    importance_samples: int = 1,
    gamma_0: float | None = None,
    times: int = 128,
    steps: int | None = None,
    repeats: int = 1,
    indices: Sequence[int] | None = None,
    condition: Tensor | None = None,
    progress: bool | Progress = False,
) -> Estimate | dict[str, Estimate]:
    """Bits/dim of images [B, ...] at the bin centres of their levels; lower is better.

    Args:
        expert: a single expert or a route; or several by label, over the same experts, which share the network calls that they have
            in common, each estimate being the one that it has alone.
        images: [B, ...] in [-1, 1], pixel level k at 2 (k + 1/2)/levels - 1; any finite values with dequantization "none".
        interval: (gamma_min, gamma_max) of the integral or bound.
        estimator: "ode", the exact density under the probability flow, or "vlb", the variational bound.
        dequantization: "truncated_normal", "uniform", or "none" for continuous data (with "vlb" too, whose bound over levels
            needs no dequantization).
        seed: draws are keyed by (seed, index), so that batch by batch calls equal one call.
        levels: L.
        solver: of the ODE; `ODE()` when left out.
        divergence: "hutchinson" or "exact".
        probes: Hutchinson probes an image.
        probe_noise: "rademacher" or "gaussian".
        importance_samples: K; above 1 it tightens the bound, and with Hutchinson noise is biased, which the protocol says.
        gamma_0: start of the ODE's integral, when it is not gamma_min (uniform dequantization is best near -11.8 at L = 256).
        times: VLB times an image, stratified.
        steps: T of the VLB's finite-step loss; continuous when left out.
        repeats: above 1, that many dequantization draws, each with as many probe draws, split the error into its parts.
        indices: which draws each image gets; 0 ... B - 1 when left out.
        condition: one row an image, passed to the expert.
        progress: show a progress bar, or a function to tell the fraction done.

    Returns:
        An `Estimate`; of several routes, one by label.

    Raises:
        DataError: when images are off their range or levels.
        SpecError: for an unknown option, or an exact density of a route whose flow is not invertible.
        SupportError: when the interval leaves the expert's support.
        NonFiniteError: when an expert returns NaN or infinity.
    """
    if estimator not in ("ode", "vlb"):
        raise SpecError(f"estimator: expected ode or vlb, got {estimator!r}")
    if dequantization not in get_args(Dequantization):
        raise SpecError(f"dequantization: expected {', '.join(get_args(Dequantization))}, got {dequantization!r}")
    if importance_samples < 1 or repeats < 1:
        raise SpecError(f"expected importance_samples and repeats >= 1, got {importance_samples} and {repeats}")
    if not isinstance(levels, int) or levels < 2 or not isinstance(solver or ODE(), ODE):
        raise SpecError(f"expected levels >= 2 and solver an ODE, got {levels} and {solver}")
    bounds = as_interval(interval)
    if gamma_0 is not None:
        if estimator == "vlb":
            raise SpecError("gamma_0 starts the ODE's integral; for the vlb, set the interval")
        bounds = as_interval((gamma_0, bounds.gamma_max))
    continuous = dequantization == "none"
    check_images(images, None if continuous else levels)
    keys = range(len(images)) if indices is None else indices
    for what, rows in (("indices", keys), ("condition", condition)):
        if rows is not None and len(rows) != len(images):
            raise SpecError(f"{what}: expected {len(images)}, one per image; got {len(rows)}")
    routes = dict(expert) if isinstance(expert, Mapping) else {"": expert}
    check_routes(routes)
    draws, solver = Draws(seed), solver or ODE()
    tallies, spent = {label: Tally() for label in routes}, dict.fromkeys(routes, 0.0)
    to_bits = 1 / (images[0].numel() * math.log(2))
    outer = repeats if estimator == "vlb" or not continuous else 1
    inner = repeats if estimator == "ode" and divergence == "hutchinson" else 1
    samples = 1 if continuous or estimator == "vlb" else importance_samples

    def bound(r: int, s: int, tell: Progress) -> dict[str, dict[str, Tensor]]:
        found = variational_bounds(
            routes,
            images,
            bounds,
            levels=None if continuous else levels,
            times=times,
            steps=steps,
            draws=draws,
            indices=keys,
            repeat=r,
            condition=condition,
            progress=tell,
        )
        for label, terms in found.items():
            tallies[label].add(terms.tally.rows)
            spent[label] += terms.spent / len(images)
        parts = {label: (terms.prior, terms.reconstruction, terms.diffusion) for label, terms in found.items()}
        names = ("prior", "reconstruction", "diffusion", "total")
        return {label: dict(zip(names, (*nats, sum(nats[1:], nats[0])), strict=True)) for label, nats in parts.items()}

    def density(r: int, s: int, tell: Progress) -> dict[str, dict[str, Tensor]]:
        drawn: dict[str, list[dict[str, Tensor]]] = {label: [] for label in routes}
        for k in range(samples):
            point = dequantize(dequantization, images, bounds.gamma_min, levels, draws, keys, r * samples + k, samples)
            found = log_densities(
                routes,
                point.z,
                bounds,
                solver=solver,
                divergence=divergence,
                probes=probes,
                probe_noise=probe_noise,
                draws=draws,
                indices=keys,
                draw=((r * inner + s) * samples + k) * probes,
                condition=condition,
                progress=lambda fraction, k=k: tell((k + fraction) / samples),  # type: ignore[misc]
            )
            for label, log_p in found.each.items():
                tallies[label].add(log_p.tally.rows)
                spent[label] += found.spent[label]
                drawn[label].append({"prior": -log_p.prior, "divergence": -log_p.divergence, "dequantization": -point.correction})
        return {label: _importance(each) for label, each in drawn.items()}

    measure = bound if estimator == "vlb" else density
    collected: dict[str, dict[str, list[Tensor]]] = {label: {} for label in routes}
    full = torch.autocast(images.device.type, enabled=False)
    with full, full_float32(), progress_bar(progress, "bits/dim") as tell:
        for done, (r, s) in enumerate(itertools.product(range(outer), range(inner))):
            measured = measure(r, s, lambda fraction, done=done: tell((done + fraction) / (outer * inner)))  # type: ignore[misc]
            for label, terms in measured.items():
                for name, nats in terms.items():
                    collected[label].setdefault(name, []).append(nats * to_bits)
    told = protocol(
        bounds,
        estimator,
        dequantization,
        levels=levels,
        solver=solver,
        divergence=divergence,
        probes=probes,
        probe_noise=probe_noise,
        importance_samples=samples,
        times=times,
        steps=steps,
    )

    def estimate(label: str) -> Estimate:
        stacked = {name: torch.stack(values).reshape(outer, inner, -1) for name, values in collected[label].items()}
        values = stacked.pop("total")
        nfe, each = tallies[label].per_sample(len(images))
        return Estimate(
            **dataclasses.asdict(Term.of(values.mean((0, 1)))),
            terms={name: Term.of(part.mean((0, 1))) for name, part in stacked.items()},
            nfe=nfe,
            nfe_per_expert=each,
            spent=spent[label],
            parts=error_parts(values, "noise" if estimator == "vlb" else "dequantization", "probe") if repeats > 1 else None,
            repeated=values.mean(1) if repeats > 1 else None,
            protocol=told | {"repeats": repeats, "seed": seed},
        )

    return estimate("") if isinstance(expert, Expert) else {label: estimate(label) for label in routes}


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep TF32, whose rounding would show in a bits/dim, out of convolutions and products for a while."""
    cudnn: Any = torch.backends.cudnn
    settings: list[tuple[Any, str, Any]] = [(torch.backends.cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # PyTorch 2.9 on; the two ways of saying it must not be mixed
        settings = [(owner, "fp32_precision", "ieee") for owner in (torch.backends.cuda.matmul, cudnn.conv)]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _importance(drawn: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Terms of K importance samples in nats [B], with "total", minus the log-mean-exp of their log weights.

    With K > 1 each term is its mean over samples under the normalised weights, and "importance" what is left.
    """
    totals = torch.stack([term["prior"] + term["divergence"] + term["dequantization"] for term in drawn])
    if len(drawn) == 1:
        return {**drawn[0], "total": totals[0]}
    weights = (-totals).softmax(0)
    mean = {name: (weights * torch.stack([term[name] for term in drawn])).sum(0) for name in drawn[0]}
    total = math.log(len(drawn)) - (-totals).logsumexp(0)
    return {**mean, "importance": total - mean["prior"] - mean["divergence"] - mean["dequantization"], "total": total}


def protocol(
    bounds: GammaInterval,
    estimator: str,
    dequantization: str,
    *,
    levels: int | None,
    solver: ODE,
    divergence: str,
    probes: int,
    probe_noise: str,
    importance_samples: int,
    times: int,
    steps: int | None,
) -> dict[str, Any]:
    """What must be said beside the number; arguments as in `bits_per_dim`."""
    shared = {
        "estimator": estimator,
        "gamma_min": bounds.gamma_min,
        "gamma_max": bounds.gamma_max,
        "levels": None if dequantization == "none" else levels,
        "tf32": False,
    }
    if estimator == "vlb":
        return shared | {"times": times, "steps": steps, "time_sampling": "stratified per image"}
    hutchinson = divergence == "hutchinson"
    return shared | {
        "dequantization": dequantization,
        "importance_samples": importance_samples,
        "biased": hutchinson and importance_samples > 1,
        "divergence": divergence,
        "probes": probes if hutchinson else None,
        "probe_noise": probe_noise if hutchinson else None,
        "frame": "z, gamma",
        "method": solver.method,
        "rtol": solver.rtol if solver.coupled else None,
        "atol": solver.atol if solver.coupled else None,
        "steps": solver.steps,
        "step_control": "one error norm a batch" if solver.coupled else "fixed",
    }
