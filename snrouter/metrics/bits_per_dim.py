"""The `bpd` metric: bits/dim of the spec's data, by either estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import Gamma
from snrouter.metrics.base import Context, DataMetric, Shared, Summary
from snrouter.metrics.likelihood import Estimate, Term, bits_per_dim
from snrouter.metrics.likelihood.bits_per_dim import protocol
from snrouter.metrics.likelihood.dequantization import Dequantization
from snrouter.metrics.likelihood.ode import Divergence, ProbeNoise
from snrouter.solvers.ode import ODE


def _without_type(value: Any) -> Any:
    """`{type: ode, rtol: ...}` as everywhere else in a spec, or without its type, there being no choice."""
    if isinstance(value, Mapping) and "type" in value:
        if value["type"] != "ode":
            raise ValueError(f"the exact likelihood integrates the flow: expected type ode, got {value['type']!r}")
        return {key: part for key, part in value.items() if key != "type"}
    return value


@dataclass(frozen=True)
class BitsPerDim(DataMetric):
    """Bits/dim, also of each of the spec's slices; lower is better. Arguments are those of `snrouter.bits_per_dim`.

    Args:
        estimator: "ode" or "vlb".
        dequantization: "truncated_normal", "uniform" or "none".
        images: how many of the data's images, the first ones; all when left out.
        divergence: "hutchinson" or "exact".
        probes: Hutchinson probes an image.
        probe_noise: "rademacher" or "gaussian".
        importance_samples: K.
        gamma_0: start of the ODE's integral, when it is not gamma_min.
        times: VLB times an image.
        steps: T of the VLB's finite-step loss; continuous when left out.
        repeats: repetitions of the VLB; the row tells the standard deviation over them of the mean over images.
        repeat_over: "noise", every repetition measures the same images with times and noise of its own; or "images", repetition r
            measures the r-th of as many consecutive blocks of the images, e.g. ten blocks of 512 with `images: 5120`.
        solver: of the ODE, e.g. `{rtol: 1.0e-6}`; the spec's solver when that is an ODE, else `ODE()`.
    """

    title = "bits/dim"
    better = "lower"

    estimator: Literal["ode", "vlb"] = "ode"
    dequantization: Dequantization = "truncated_normal"
    images: int | None = None
    divergence: Divergence = "hutchinson"
    probes: int = 1
    probe_noise: ProbeNoise = "rademacher"
    importance_samples: int = 1
    gamma_0: Gamma | None = None
    times: int = 128
    steps: int | None = None
    repeats: int = 1
    repeat_over: Literal["noise", "images"] = "noise"
    solver: Annotated[ODE | None, BeforeValidator(_without_type)] = None

    def __post_init__(self) -> None:
        for name in ("probes", "importance_samples", "times", "steps", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"{name}: expected at least 1, got {value}")
        if self.repeats > 1 and self.estimator == "ode":
            raise SpecError(f"repeats: {self.repeats} are repetitions of the vlb; for the ode leave it out, or set estimator: vlb")

    def count(self, context: Context) -> int:
        """The data's images, or the first `images` of them."""
        available = len(context.need("data"))
        if self.images is not None and not 1 <= self.images <= available:
            raise SpecError(f"images: expected 1 to {available}, the size of the data; got {self.images}")
        count = self.images or available
        if self.repeat_over == "images" and count % self.repeats:
            raise SpecError(f"repeats: {count} images do not make {self.repeats} equal blocks; set images to a multiple of it")
        return count

    def measure(
        self, context: Context, expert: Expert, images: Tensor, indices: Sequence[int], condition: Tensor | None
    ) -> dict[str, Tensor]:
        """`values` and `term/...` in bits/dim, and network calls."""
        return self.measure_routes(context, {"": expert}, images, indices, condition).rows[""]

    def measure_routes(
        self,
        context: Context,
        routes: Mapping[str, Expert],
        images: Tensor,
        indices: Sequence[int],
        condition: Tensor | None,
    ) -> Shared:
        """As `measure`; network calls that routes have in common are made once."""
        estimates = bits_per_dim(
            routes,
            images,
            context.bounds,
            self.estimator,
            self.dequantization,
            context.seed,
            levels=context.need("data").levels or 256,
            solver=self._solver(context),
            divergence=self.divergence,
            probes=self.probes,
            probe_noise=self.probe_noise,
            importance_samples=self.importance_samples,
            gamma_0=self.gamma_0,
            times=self.times,
            steps=self.steps,
            repeats=self.repeats if self.repeat_over == "noise" else 1,
            indices=indices,
            condition=condition,
        )
        each = torch.ones(len(images), dtype=torch.float64)
        spent = {label: estimate.spent * each for label, estimate in estimates.items()}
        return Shared({label: _rows(estimate) for label, estimate in estimates.items()}, spent)

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """Mean over images."""
        total = Term.of(measured["values"])
        terms = {name.removeprefix("term/"): Term.of(v) for name, v in measured.items() if name.startswith("term/")}
        columns: dict[str, Any] = {"estimator": self.estimator}
        if self.estimator == "ode" or self.dequantization == "none":
            columns["dequantization"] = self.dequantization
        if self.estimator == "ode":
            columns["biased"] = self.importance_samples > 1 and self.divergence == "hutchinson"
        if self.repeats > 1:
            columns |= {"repeats": self.repeats, "repeat_standard_deviation": self._spread(measured)}
        if context.slices:
            columns["slices"] = {name: _within(members, total.values) for name, members in context.slices.items()}
        return Summary(
            value=total.value,
            standard_error=total.standard_error,
            influence=total.values - total.value,
            columns=columns,
            protocol=self._protocol(context),
            terms={name: {"value": t.value, "standard_error": t.standard_error} for name, t in terms.items()},
        )

    def _spread(self, measured: Mapping[str, Tensor]) -> float:
        """Standard deviation over repetitions (R - 1) of the mean over images; of blocks cut short by a limit, those there are."""
        if self.repeat_over == "noise":
            means = measured["repeated"].mean(0)
        else:
            means = torch.stack([block.mean() for block in measured["values"].tensor_split(self.repeats) if len(block)])
        return float(means.std()) if len(means) > 1 else math.nan

    def _solver(self, context: Context) -> ODE:
        return self.solver or (context.solver if isinstance(context.solver, ODE) else ODE())

    def _protocol(self, context: Context) -> dict[str, Any]:
        bounds = context.bounds
        return protocol(
            bounds if self.gamma_0 is None else bounds._replace(gamma_min=self.gamma_0),
            self.estimator,
            self.dequantization,
            levels=context.need("data").levels,
            solver=self._solver(context),
            divergence=self.divergence,
            probes=self.probes,
            probe_noise=self.probe_noise,
            importance_samples=self.importance_samples,
            times=self.times,
            steps=self.steps,
        ) | ({"repeat_over": self.repeat_over} if self.repeats > 1 else {})


def _within(members: Tensor, values: Tensor) -> dict[str, float]:
    """Mean of the first images' values over those in a slice of the data; NaN where none of them is, as under a limit."""
    inside = values[members[: len(values)].to(values.device)]
    if not len(inside):
        return {"value": math.nan, "standard_error": math.nan, "n": 0}
    term = Term.of(inside)
    return {"value": term.value, "standard_error": term.standard_error, "n": len(inside)}


def _rows(estimate: Estimate) -> dict[str, Tensor]:
    """What a shard holds of an estimate."""
    rows = {"values": estimate.values}
    rows |= {f"term/{name}": term.values for name, term in estimate.terms.items()}
    if estimate.repeated is not None:
        rows["repeated"] = estimate.repeated.T
    for name, calls in estimate.nfe_per_expert.items():
        rows[f"nfe/{name}"] = torch.full((len(estimate.values),), calls, dtype=torch.float64)
    return rows
