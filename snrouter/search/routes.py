"""The likelihood-optimal route for each number of seams, by dynamic programming.

Boundaries lie on a grid: the edges of a profile's cells and the positions that constraints name. With c_e(p) the mean loss of
expert e between boundaries p and p + 1, the least loss up to there of a route that ends in e after exactly m seams is

    V_m(e, p) = c_e(p) + min(V_m(e, p - 1), min over e' != e of V_{m-1}(e', p - 1)),

so that the best routes with 0, 1, ..., M seams cost P M K^2 additions, and no network call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from snrouter.errors import SpecError, SupportError, suggestion
from snrouter.gamma import GammaInterval
from snrouter.router.base import GammaPolicy
from snrouter.router.piecewise import Piecewise, Single, Stretch
from snrouter.router.threshold import Threshold
from snrouter.search.profile import Profile


@dataclass(frozen=True)
class Constraints:
    """What a route must keep.

    Args:
        experts: that may run; all of the profile's when left out.
        seams: at most so many switches.
        exactly: exactly `seams` switches.
        order: experts from least noise to most, an order that the route keeps, none twice; others do not run.
        above: gamma by expert: it runs everywhere above.
    """

    experts: tuple[str, ...] | None = None
    seams: int = 4
    exactly: bool = False
    order: tuple[str, ...] | None = None
    above: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.seams, int) or self.seams < 0:
            raise SpecError(f"seams: expected a whole number of at least 0, got {self.seams}")
        for key, named in (("experts", self.experts), ("order", self.order)):
            if isinstance(named, str):
                raise SpecError(f"{key}: expected several names, e.g. ({named!r},); got the text {named!r}")
            if named is not None and len(set(named)) < len(named):
                raise SpecError(f"{key}: expected each expert once, got {', '.join(named)}")
        for name, gamma in self.above.items():
            if not math.isfinite(gamma):
                raise SpecError(f"above: expected a finite gamma for {name!r}, got {gamma}")

    def names(self, known: Sequence[str]) -> tuple[str, ...]:
        """The experts that may run.

        Raises:
            SpecError: when one is named that is not known, or none is left.
        """
        for key, named in (("experts", self.experts), ("order", self.order), ("above", self.above)):
            for name in named or ():
                if name not in known:
                    raise SpecError(f"{key} names expert {name!r}, which was not profiled{suggestion(name, known)}")
        names = tuple(name for name in self.experts or known if self.order is None or name in self.order)
        if not names:
            raise SpecError("experts and order have no expert in common; name in order those that may run")
        return names


FREE = Constraints()
"""Any experts in any order."""


class Paths(NamedTuple):
    """The best routes by number of seams, several problems at once.

    Attributes:
        value: mean loss [F, M + 1], infinite where there is no such route.
        experts: which expert runs between boundaries [F, M + 1, P].
    """

    value: Tensor
    experts: Tensor


@dataclass(frozen=True)
class Costs:
    """What each expert adds to the bound of each image between neighbouring boundaries.

    Attributes:
        names: of K experts.
        boundaries: ascending [P + 1], the first and last being the interval's ends.
        losses: bits/dim [K, N, P].
        ends: what no expert has a part in, bits/dim [N].
        barred: where an expert may not run [K, P].
        follows: whether expert k (column) may run right above expert j (row) [K, K].
        constraints: that were asked for.
    """

    names: tuple[str, ...]
    boundaries: Tensor
    losses: Tensor
    ends: Tensor
    barred: Tensor
    follows: Tensor
    constraints: Constraints

    @classmethod
    def of(cls, profile: Profile, constraints: Constraints, bounds: GammaInterval | tuple[float, float] | None = None) -> Costs:
        """Losses of the profile's images under the constraints.

        An expert that was not asked somewhere in a cell of the profile may not run in any part of it.
        """
        bounds = profile.bounds(bounds)
        names = constraints.names(tuple(profile.errors))
        inner = [
            gamma for gamma in (*profile.edges.tolist(), *constraints.above.values()) if bounds.gamma_min < gamma < bounds.gamma_max
        ]
        boundaries = torch.tensor([bounds.gamma_min, *sorted(set(inner)), bounds.gamma_max], dtype=torch.float64)
        place = torch.bucketize(profile.gamma, boundaries)  # 0 and P + 1 lie outside the bounds
        losses = torch.zeros(len(names), len(profile), len(boundaries) + 1, dtype=torch.float64)
        for row, name in zip(losses, names, strict=True):
            row.scatter_add_(1, place, profile.losses(name))
        losses = losses[:, :, 1:-1]
        cell = torch.bucketize(boundaries[:-1], profile.edges, right=True) - 1
        barred = torch.stack([profile.errors[name].isnan().any(0) for name in names])[:, cell]
        for name, gamma in constraints.above.items():
            barred |= torch.tensor([other != name for other in names])[:, None] & (boundaries[:-1] >= gamma)
        rank = torch.tensor([(constraints.order or names).index(name) for name in names])
        follows = rank[:, None] < rank if constraints.order else rank[:, None] != rank
        ends = torch.stack([*profile.ends(bounds).values()]).sum(0)
        return cls(names, boundaries, losses.nan_to_num(0.0), ends, barred, follows, constraints)

    @property
    def seams(self) -> int:
        """M, at most so many."""
        return min(self.constraints.seams, len(self.boundaries) - 2)

    def best(self, weights: Tensor) -> Paths:
        """The routes of least loss.

        Args:
            weights: of the images in F problems [F, N].
        """
        mean = torch.einsum("fn,knp->fkp", weights, self.losses).masked_fill(self.barred, math.inf)
        problems, experts, cells = mean.shape
        parted = torch.where(self.follows, 0.0, math.inf).double()
        stay = torch.arange(experts).expand(problems, self.seams, experts)
        value = torch.full((problems, self.seams + 1, experts), math.inf, dtype=torch.float64)
        value[:, 0] = mean[:, :, 0]
        before = torch.arange(experts).repeat(cells, problems, self.seams + 1, 1)  # the expert one cell below
        for p in range(1, cells):
            switched, source = (value[:, :-1, :, None] + parted).min(2)
            better = switched < value[:, 1:]
            before[p, :, 1:] = torch.where(better, source, stay)
            value[:, 1:] = torch.where(better, switched, value[:, 1:])
            value = value + mean[:, None, :, p]
        least, expert = value.min(2)
        path = torch.empty(problems, self.seams + 1, cells, dtype=torch.long)
        used = torch.arange(self.seams + 1).expand(problems, -1)
        rows = torch.arange(problems)[:, None]
        for p in range(cells - 1, -1, -1):
            path[:, :, p] = expert
            below = before[p][rows, used, expert]
            used, expert = used - (below != expert).long(), below
        return Paths(least, path)

    def along(self, experts: Tensor, rows: Tensor) -> Tensor:
        """Bounds of some images under routes: experts between boundaries [..., P] to bits/dim [..., rows]."""
        cells = torch.arange(self.losses.shape[2])
        return self.losses[experts[..., None, :], rows[:, None], cells].sum(-1) + self.ends[rows]

    def counts(self, value: Tensor) -> list[int]:
        """The numbers of seams that are allowed and have a route, by the least losses [M + 1].

        Raises:
            SupportError: when there are none.
        """
        exactly, seams = self.constraints.exactly, self.constraints.seams
        counts = [m for m in range(seams if exactly else 0, self.seams + 1) if value[m] < math.inf]
        if not counts:
            raise SupportError(
                f"no route of {'exactly' if exactly else 'at most'} {seams} seams keeps the constraints; "
                f"within them experts may run at gamma in {', '.join(map(self._stretch, range(len(self.names))))}"
            )
        return counts

    def _stretch(self, k: int) -> str:
        """Where expert k may run."""
        cells = (~self.barred[k]).nonzero()[:, 0]
        if not len(cells):
            return f"{self.names[k]} nowhere"
        return f"{self.names[k]} [{self.boundaries[cells[0]]:.4g}, {self.boundaries[cells[-1] + 1]:.4g}]"

    def policy(self, experts: Tensor) -> GammaPolicy:
        """The route that runs these experts between boundaries [P]."""
        changes = (experts.diff() != 0).nonzero()[:, 0].tolist()
        switches = [float(self.boundaries[p + 1]) for p in changes]
        return route([self.names[int(experts[p])] for p in (*changes, -1)], switches)


def route(names: Sequence[str], switches: Sequence[float]) -> GammaPolicy:
    """Experts from least noise to most and the gammas between them, as the simplest policy that says it."""
    if not switches:
        return Single(names[0])
    if len(switches) == 1:
        return Threshold(names[0], names[1], switches[0])
    return Piecewise([Stretch(name, at) for name, at in zip(names, (*switches, None), strict=True)])


def best_routes(
    profile: Profile, constraints: Constraints = FREE, bounds: GammaInterval | tuple[float, float] | None = None
) -> dict[int, GammaPolicy]:
    """The likelihood-optimal route on the profile's images for each number of seams that is allowed.

    Args:
        profile: of the experts.
        constraints: that every route keeps.
        bounds: (gamma_min, gamma_max); all of the profile's interval when left out.

    Raises:
        SpecError: when a constraint names an expert that was not profiled, or the profile does not know these bounds.
        SupportError: when no route keeps the constraints within the experts' supports.
    """
    costs = Costs.of(profile, constraints, bounds)
    paths = costs.best(torch.full((1, len(profile)), 1 / len(profile), dtype=torch.float64))
    return {m: costs.policy(paths.experts[0, m]) for m in costs.counts(paths.value[0])}
