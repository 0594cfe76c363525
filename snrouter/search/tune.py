"""Which route to use, and what to expect of it.

The images are split into halves: the route is chosen on one and scored on the other, so that its bits/dim is not flattered by its
having been chosen. Each further seam can only lower the bound on the images it was chosen on, so noise alone would make many. A
route is preferred to one with fewer seams only when it is better

- on the choosing half, by more than `FITTED` standard errors of the paired difference, and `FURTHER` for each seam that it has more
  than one further: the best of many places for a seam gains about three by chance; and
- by cross-validation within that half, each image under routes chosen without it, by more than `HELD_OUT`.

The first decides almost everything. It is calibrated on made-up experts that are equal, so that none should have a seam: two to
six of them over 64 cells, and up to eight seams. Of 2,100 such profiles with 200 images to choose on three got one; of those with
32 or 16 images at most one in a hundred, with 8 three. The second matters below some 20 images, where it takes a third off that
share. Alone it would not do: where experts are equal, the folds' routes without a seam flip between them, each time to the one
that the images left out like less. The price is that a gain of fewer standard errors is not taken; more images tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError, SupportError
from snrouter.gamma import GammaInterval
from snrouter.gamma import interval as as_interval
from snrouter.metrics.likelihood.estimate import Estimate, Term
from snrouter.router.base import GammaPolicy
from snrouter.search.profile import Profile
from snrouter.search.routes import FREE, Constraints, Costs

FOLDS = 10
"""Of the cross-validation, or as many as there are images."""

FITTED = 3.5
"""Standard errors by which a route with one more seam must be better on the images it was chosen on."""

FURTHER = 0.25
"""How many more it takes for each further seam."""

HELD_OUT = 1.0
"""Standard errors by which it must be better on images it was not chosen on."""


@dataclass(frozen=True)
class Seams:
    """Cross-validated bits/dim of the best route with so many seams.

    Attributes:
        seams: how many.
        policy: the best such route on the choosing half.
        value: over the images of the choosing half, each under a route chosen without it.
        excess: over the lowest of the table, image by image.
        chosen: whether the chosen route has so many; by the rule above, not by the table alone.
    """

    seams: int
    policy: GammaPolicy
    value: Term
    excess: Term
    chosen: bool


@dataclass(frozen=True)
class Ends:
    """The route chosen for one pair of ends of the interval.

    Attributes:
        bounds: the ends.
        policy: the route.
        value: bits/dim on the scoring half.
        difference: to the chosen ends, image by image.
        chosen: whether these are they.
    """

    bounds: GammaInterval
    policy: GammaPolicy
    value: Term
    difference: Term
    chosen: bool


@dataclass(frozen=True)
class Choice:
    """The chosen route, and what it was chosen from.

    Attributes:
        policy: the route.
        bounds: the ends of its interval.
        score: its variational bound on the half it was not chosen on.
        table: the best routes by number of seams, those above the chosen number included.
        ends: every pair of ends there was to choose from.
        chosen_on: rows of the profile, ascending.
        scored_on: the others.
    """

    policy: GammaPolicy
    bounds: GammaInterval
    score: Estimate
    table: tuple[Seams, ...]
    ends: tuple[Ends, ...]
    chosen_on: Tensor
    scored_on: Tensor


def best_route(
    profile: Profile,
    constraints: Constraints = FREE,
    *,
    gamma_min: Sequence[float] = (),
    gamma_max: Sequence[float] = (),
    seed: int = 0,
) -> Choice:
    """Choose the likelihood-optimal route on half of a profile's images, and score it on the other.

    Of several ends of the interval those are chosen whose routes have the lowest cross-validated bound, by however little.

    Args:
        profile: of the experts.
        constraints: that the route keeps.
        gamma_min: lower ends to choose from; the profile's own when left out.
        gamma_max: upper ends to choose from; the profile's own when left out.
        seed: of the halves, which depend on it and on the number of images alone.

    Raises:
        SpecError: for fewer than four images, an unknown expert, or ends the profile does not know.
        SupportError: when no route keeps the constraints within the experts' supports.
    """
    chosen_on, scored_on = halves(len(profile), seed)
    lower, upper = (
        [*map(float, gamma_min)] or [profile.interval.gamma_min],
        [*map(float, gamma_max)] or [profile.interval.gamma_max],
    )
    scored = profile.subset(scored_on)
    found, refused = dict[GammaInterval, Selection](), list[SupportError]()
    for pair in itertools.product(lower, upper):
        bounds = as_interval(pair)
        try:
            found[bounds] = select(Costs.of(profile, constraints, bounds), chosen_on)
        except SupportError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    best = min(found, key=lambda bounds: float(found[bounds].held_out[found[bounds].seams].mean()))
    selection = found[best]
    scores = {bounds: scored.vlb(selection.policy, bounds) for bounds, selection in found.items()}
    lowest = min(selection.held_out.values(), key=lambda values: float(values.mean()))
    return Choice(
        policy=selection.policy,
        bounds=best,
        score=scores[best],
        table=tuple(
            Seams(m, selection.routes[m], Term.of(values), Term.of(values - lowest), m == selection.seams)
            for m, values in selection.held_out.items()
        ),
        ends=tuple(
            Ends(bounds, found[bounds].policy, score, Term.of(score.values - scores[best].values), bounds == best)
            for bounds, score in scores.items()
        ),
        chosen_on=chosen_on,
        scored_on=scored_on,
    )


def optimism(
    profile: Profile,
    constraints: Constraints = FREE,
    *,
    splits: int = 20,
    bounds: GammaInterval | tuple[float, float] | None = None,
    seed: int = 0,
) -> Term:
    """How much lower a chosen route's bits/dim is on the images it was chosen on than on others, over random halves.

    Of each pair of halves either is chosen on and scored on in turn, so that differences between the images cancel.

    Returns:
        Mean over splits [splits]; its standard error is that of the random halves of these images.

    Raises:
        SpecError: for fewer than one split or four images, an unknown expert, or ends the profile does not know.
        SupportError: when no route keeps the constraints within the experts' supports.
    """
    if splits < 1:
        raise SpecError(f"splits: expected at least 1, got {splits}")
    costs, values = Costs.of(profile, constraints, bounds), []
    for split in range(splits):
        both = halves(len(profile), seed, split)
        first, second = (costs.along(select(costs, rows).path, torch.arange(len(profile))) for rows in both)
        difference = first - second
        values.append(0.5 * float(difference[both[1]].mean() - difference[both[0]].mean()))
    return Term.of(torch.tensor(values, dtype=torch.float64))


def halves(images: int, seed: int, split: int = 0) -> tuple[Tensor, Tensor]:
    """Random halves of so many rows, each ascending.

    Raises:
        SpecError: for fewer than four images.
    """
    if images < 4:
        raise SpecError(f"images: expected at least 4, two to choose on and two to score on; got {images}")
    order = Draws(seed).uniform("tune_halves", range(images), (), draw=split).argsort()
    return order[: images // 2].sort().values, order[images // 2 :].sort().values


class Selection(NamedTuple):
    """Of some images: how many seams, the best routes and cross-validated bits/dim [n] by number of seams.

    Attributes:
        seams: the chosen number.
        path: experts of the chosen route between boundaries [P].
        routes: the best by number of seams.
        held_out: bits/dim [n] by number of seams, each image under a route chosen without it.
    """

    seams: int
    path: Tensor
    routes: Mapping[int, GammaPolicy]
    held_out: Mapping[int, Tensor]

    @property
    def policy(self) -> GammaPolicy:
        """The chosen route."""
        return self.routes[self.seams]


def select(costs: Costs, rows: Tensor) -> Selection:
    """Choose the number of seams, and with it the route, on some of the images."""
    fold = torch.arange(len(rows)) % min(FOLDS, len(rows))
    weights = torch.zeros(int(fold.max()) + 2, len(costs.ends), dtype=torch.float64)  # without each fold, then with all
    weights[:, rows] = (fold != torch.arange(len(weights))[:, None]).double()
    paths = costs.best(weights / weights.sum(1, keepdim=True))
    counts, best = costs.counts(paths.value[-1]), paths.experts[-1]
    held_out = torch.empty(len(best), len(rows), dtype=torch.float64)
    for k, experts in enumerate(paths.experts[:-1]):
        held_out[:, fold == k] = costs.along(experts, rows[fold == k])
    fitted = costs.along(best, rows)
    seams = _fewest(counts, held_out, fitted)
    return Selection(seams, best[seams], {m: costs.policy(best[m]) for m in counts}, {m: held_out[m] for m in counts})


def _fewest(counts: Sequence[int], held_out: Tensor, fitted: Tensor) -> int:
    """The least number of seams that no larger one is better than, by values [M + 1, n]."""

    def better(m: int, fewer: int) -> bool:
        gained, again = Term.of(fitted[fewer] - fitted[m]), Term.of(held_out[fewer] - held_out[m])
        strict = FITTED + FURTHER * (m - fewer - 1)
        return gained.value > strict * gained.standard_error and again.value > HELD_OUT * again.standard_error

    return next(fewer for fewer in counts if not any(better(m, fewer) for m in counts if m > fewer))
