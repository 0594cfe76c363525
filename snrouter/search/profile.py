"""Profile: every expert's denoising error along gamma, on common images and common noise.

The variational bound is an integral over gamma of the error of whichever expert runs there (VDM arXiv 2107.00630, eq. 15; paper
arXiv 2511.19434, eq. 9), so one pass that asks every expert gives the bound of every route. The interval is cut into J cells;
image i has one gamma in each, gamma_ij = edge_j + u_i (edge_{j+1} - edge_j), and its bound on [gamma_min, gamma_max] is

    sum_j 1/2 (edge_{j+1} - edge_j) |eps - eps_hat|^2_ij [gamma_min < gamma_ij <= gamma_max] + reconstruction + prior,

unbiased for any cells, with the error of the expert that the route has at gamma_ij. Cells of equal width are the times of the
bound itself; see `snrouter.search.cells` for narrower ones where errors are noisier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snrouter.errors import SpecError, SupportError
from snrouter.gamma import GammaInterval, edm_sigma
from snrouter.gamma import interval as as_interval
from snrouter.metrics.likelihood.estimate import Estimate, Term
from snrouter.router.base import GammaPolicy
from snrouter.router.threshold import Threshold


@dataclass(frozen=True)
class Profile:
    """Denoising errors of every expert on N images at J gammas each, float64 on the CPU.

    Attributes:
        edges: of the cells, ascending [J + 1].
        gamma: where each image was asked, one in each cell [N, J].
        errors: |eps - eps_hat|^2 by expert [N, J]; NaN outside its support.
        square_norm: |x|^2 [N].
        reconstruction: by gamma_min, nats [N].
        calls: network calls by expert [N]; none of an expert without a network, nor the pilot's.
        dimensions: D, of an image.
    """

    edges: Tensor
    gamma: Tensor
    errors: Mapping[str, Tensor]
    square_norm: Tensor
    reconstruction: Mapping[float, Tensor]
    calls: Mapping[str, Tensor]
    dimensions: int

    def __len__(self) -> int:
        return len(self.gamma)

    @property
    def interval(self) -> GammaInterval:
        """What the cells cover."""
        return GammaInterval(float(self.edges[0]), float(self.edges[-1]))

    @property
    def times(self) -> int:
        """J, the gammas of an image."""
        return self.gamma.shape[1]

    @property
    def spent(self) -> Tensor:
        """Network calls of all experts [N]."""
        return torch.stack([*self.calls.values()]).sum(0)

    def bits(self, nats: Tensor) -> Tensor:
        """Bits/dim."""
        return nats / (self.dimensions * math.log(2))

    def losses(self, name: str) -> Tensor:
        """What an expert adds to the bound at each gamma, bits/dim [N, J]."""
        return self.bits(0.5 * self.edges.diff() * self._errors(name))

    def bounds(self, given: GammaInterval | tuple[float, float] | None) -> GammaInterval:
        """The ends that are meant: the profile's own when left out.

        Raises:
            SpecError: when they leave the profile, or it has no reconstruction at gamma_min.
        """
        bounds = self.interval if given is None else as_interval(given)
        covered = self.interval.gamma_min <= bounds.gamma_min and bounds.gamma_max <= self.interval.gamma_max
        if not covered or bounds.gamma_min not in self.reconstruction:
            known = ", ".join(f"{gamma:g}" for gamma in self.reconstruction)
            raise SpecError(
                f"bounds {bounds}: the profile covers {self.interval} and knows the reconstruction at gamma_min {known}; "
                f"profile again with these ends as candidates"
            )
        return bounds

    def ends(self, bounds: GammaInterval | tuple[float, float] | None = None) -> dict[str, Tensor]:
        """The terms of the bound that no expert has a part in, bits/dim [N] each: prior and reconstruction.

        Raises:
            SpecError: when the bounds leave the profile, or it has no reconstruction at gamma_min.
        """
        bounds = self.bounds(bounds)
        prior = 0.5 * self.square_norm / edm_sigma(bounds.gamma_max) ** 2
        return {"prior": self.bits(prior), "reconstruction": self.bits(self.reconstruction[bounds.gamma_min])}

    def vlb(self, policy: GammaPolicy, bounds: GammaInterval | tuple[float, float] | None = None) -> Estimate:
        """The variational bound of a route in bits/dim, without asking any expert again.

        Args:
            policy: a route by gamma over the profile's experts; its switches may lie anywhere.
            bounds: (gamma_min, gamma_max); all of the profile's interval when left out.

        Raises:
            SpecError: when it is no route by gamma, names an expert that is not there, or the profile does not know these bounds.
            SupportError: when an expert would run outside its support.
        """
        if not isinstance(policy, GammaPolicy):
            raise SpecError(f"policy: expected one by gamma, e.g. Threshold(low, high, switch); got {type(policy).__name__}")
        bounds = self.bounds(bounds)
        terms = self.ends(bounds)
        names, switches = policy.route
        piece = torch.bucketize(self.gamma, torch.tensor(switches, dtype=torch.float64))
        inside = self._inside(bounds)
        diffusion, calls = torch.zeros(len(self), dtype=torch.float64), dict[str, float]()
        for name in policy.experts:
            here = inside & torch.isin(piece, torch.tensor([i for i, other in enumerate(names) if other == name]))
            losses = torch.where(here, self.losses(name), 0.0)
            if bool(losses.isnan().any()):
                at = self.gamma[losses.isnan()]
                raise SupportError(
                    f"route runs expert {name!r} where it was not profiled, gamma in [{at.min():.4g}, {at.max():.4g}]; "
                    f"move the switch into its support"
                )
            diffusion = diffusion + losses.sum(1)
            if bool(here.any()) and bool(self.calls[name].any()):
                asked = ~self.errors[name].isnan()
                calls[name] = int(here.sum()) / int(asked.sum()) * float(self.calls[name].sum()) / len(self)
        terms["diffusion"] = diffusion
        total = Term.of(sum(terms.values(), torch.zeros_like(diffusion)))
        return Estimate(
            total.value,
            total.standard_error,
            total.values,
            terms={name: Term.of(values) for name, values in terms.items()},
            nfe=sum(calls.values()),
            nfe_per_expert=calls,
            protocol={"estimator": "vlb", "gamma_min": bounds.gamma_min, "gamma_max": bounds.gamma_max, "times": self.times},
        )

    def thresholds(
        self, low: str, high: str, switches: Sequence[float], bounds: GammaInterval | tuple[float, float] | None = None
    ) -> Tensor:
        """The bound of the route that uses `low` up to a switch and `high` above it, for each switch: bits/dim [S, N].

        Raises:
            SpecError: when an expert is not there, or the profile does not know these bounds.
            SupportError: when an expert would run outside its support.
        """
        ends, inside = sum(self.ends(bounds).values()), self._inside(self.bounds(bounds))
        none = torch.zeros(len(self), 1, dtype=torch.float64)
        below, above = (torch.where(inside, self.losses(name), 0.0) for name in (low, high))
        below = torch.cat([none, below.cumsum(1)], 1)  # of the first j gammas [N, J + 1], and of the others
        above = torch.cat([above.flip(1).cumsum(1).flip(1), none], 1)
        at = torch.tensor(switches, dtype=torch.float64).repeat(len(self), 1)
        first = torch.searchsorted(self.gamma.contiguous(), at, right=True)
        values = (below.gather(1, first) + above.gather(1, first)).T + ends
        for switch, row in zip(switches, values, strict=True):
            if bool(row.isnan().any()):
                self.vlb(Threshold(low, high, switch), bounds)  # refuses, and says where
        return values

    def curve(self, name: str) -> tuple[Tensor, Tensor]:
        """An expert's mean squared error per dimension in each cell, and its standard error, [J] each; NaN where nobody asked."""
        error = self._errors(name) / self.dimensions
        asked = (~error.isnan()).sum(0)
        mean = error.nanmean(0)
        spread = ((error - mean).square().nansum(0) / (asked - 1)).sqrt()
        return mean, spread / asked.sqrt()

    def subset(self, rows: Tensor | Sequence[int]) -> Profile:
        """The profile on some of its images."""
        kept = torch.as_tensor(rows)
        return replace(
            self,
            gamma=self.gamma[kept],
            errors={name: error[kept] for name, error in self.errors.items()},
            square_norm=self.square_norm[kept],
            reconstruction={gamma: nats[kept] for gamma, nats in self.reconstruction.items()},
            calls={name: calls[kept] for name, calls in self.calls.items()},
        )

    def rows(self) -> dict[str, Tensor]:
        """What there is of each image, by name, [N, ...] each."""
        return {
            "gamma": self.gamma,
            "square_norm": self.square_norm,
            **{f"error/{name}": error for name, error in self.errors.items()},
            **{f"nfe/{name}": calls for name, calls in self.calls.items()},
            **{f"reconstruction/{gamma!r}": nats for gamma, nats in self.reconstruction.items()},
        }

    @classmethod
    def from_rows(cls, rows: Mapping[str, Tensor], edges: Tensor, dimensions: int) -> Profile:
        """The inverse of `rows`."""

        def named(kind: str) -> dict[str, Tensor]:
            return {name.removeprefix(kind): value for name, value in rows.items() if name.startswith(kind)}

        ends = {float(gamma): nats for gamma, nats in named("reconstruction/").items()}
        return cls(edges, rows["gamma"], named("error/"), rows["square_norm"], ends, named("nfe/"), dimensions)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a file."""
        return {**self.rows(), "edges": self.edges, "dimensions": torch.tensor(self.dimensions)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Profile:
        """The inverse of `tensors`."""
        return cls.from_rows(tensors, tensors["edges"], int(tensors["dimensions"]))

    def _inside(self, bounds: GammaInterval) -> Tensor:
        """Which gammas count [N, J]."""
        return (self.gamma > bounds.gamma_min) & (self.gamma <= bounds.gamma_max)

    def _errors(self, name: str) -> Tensor:
        if name not in self.errors:
            raise SpecError(f"expert {name!r} is not in the profile; known: {', '.join(self.errors)}")
        return self.errors[name]
