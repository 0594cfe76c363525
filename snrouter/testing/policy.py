"""What every policy promises."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from snrouter.errors import SpecError, SupportError
from snrouter.experts.base import Expert
from snrouter.router.base import Policy
from snrouter.router.routed_expert import merge
from snrouter.testing.oracles import EXACT, close, noisy, oracle, refuses, told

SHAPE = (1, 4, 4)
"""Of a state."""


class PolicyContract(ABC):
    """What every policy promises."""

    support: tuple[float, float] = (-14.0, 9.0)
    """Support of the stand-in experts; it holds every switch."""

    @abstractmethod
    def make(self) -> Policy:
        """A new policy."""

    @property
    def draws(self) -> bool:
        """Whether it draws for each sample, so that its weights jump at every gamma."""
        policy = self.make()
        return policy.for_samples(()) is not policy

    def experts(self) -> dict[str, Expert]:
        """A different Gaussian for each expert that the policy names."""
        return {name: oracle(0.3 + 0.2 * i, self.support) for i, name in enumerate(self.make().experts)}

    def condition(self, batch: int) -> Tensor | None:
        """One row an image of a batch of that size, for a policy that asks for it."""
        return None

    def weigh(
        self, policy: Policy, gamma: Sequence[float], indices: Sequence[int] | None = None, z: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weights [B] by name of expert, of these samples or all of the first; at a common state when none is given."""
        at = torch.tensor(gamma, dtype=torch.float64)
        z = noisy(SHAPE, torch.zeros(1).double()).expand(len(at), *SHAPE) if z is None else z
        drawn = policy.for_samples([0] * len(at) if indices is None else indices)
        condition = self.condition(1)
        rows = drawn.weights(at, z, None if condition is None else condition.expand(len(at), *condition.shape[1:]))
        assert rows.shape == (len(at), len(policy.experts)), f"expected weights [B, K], got {list(rows.shape)}"
        columns = dict(zip(policy.experts, rows.detach().double().cpu().T, strict=True))
        return {name: columns.get(name, torch.zeros(len(at)).double()) for name in self.make().experts}

    def edges(self) -> list[float]:
        """Seams between the ends of the support."""
        return [self.support[0], *self.make().seams, self.support[1]]

    def test_it_names_experts_and_is_told_by_its_arguments(self) -> None:
        """Names are distinct identifiers, one that is not there is refused, and `repr`, which enters fingerprints, is stable."""
        policy = self.make()
        assert policy.experts, "a policy uses at least one expert"
        assert len(set(policy.experts)) == len(policy.experts), f"an expert is named twice: {policy.experts}"
        assert all(name.isidentifier() for name in policy.experts), f"not all identifiers: {policy.experts}"
        refuses("a route that names an expert which is not there", SpecError, policy.check, {})
        told(self.make)

    def test_weights_sum_to_one(self) -> None:
        """At every gamma, seams included, and whoever shares the batch; none is below zero, and none zero that is not sparse."""
        lo, hi = self.support
        grid = [*torch.linspace(lo, hi, 200).tolist(), *self.make().seams]
        weights = self.weigh(self.make(), grid)
        total = torch.stack(list(weights.values())).sum(0)
        close(total, torch.ones_like(total), EXACT, "sum of the weights")
        least = float(torch.stack(list(weights.values())).min())
        assert least >= 0, f"a weight is {least:.2g}, below zero"
        assert least > 0 or self.make().sparse, "a weight is zero though `sparse` says that none is"
        for name, alone in self.weigh(self.make(), grid[7:8]).items():
            close(weights[name][7:8], alone, EXACT, f"weight of {name!r} alone and in a batch")

    def test_weights_jump_at_seams_and_nowhere_else(self) -> None:
        """Seams ascend; weights differ across each, hold from below at it, and jump nowhere else where they are continuous in z."""
        policy, edges = self.make(), self.edges()
        for below, above in itertools.pairwise(edges):
            assert below < above, f"seams must ascend inside {self.support}, got {policy.seams}"
        for seam in policy.seams:
            weights = torch.stack(list(self.weigh(policy, [seam - 1e-9, seam, seam + 1e-9]).values()))
            assert not torch.allclose(weights[:, 0], weights[:, 2]), f"weights do not jump at the seam gamma={seam:g}"
            close(weights[:, 1], weights[:, 0], 1e-6, f"weights at the seam gamma={seam:g} and just below it")
        for lo, hi in itertools.pairwise(edges) if policy.invertible else ():
            inside = torch.linspace(lo + 1e-6, hi - 1e-6, 500, dtype=torch.float64)
            jump, at = _largest_jump(inside, lambda part: torch.stack(list(self.weigh(policy, part.tolist()).values())))
            assert jump < 1e-3, f"weights jump by {jump:.2g} at gamma={at:g}, which is no seam"

    def test_weights_of_an_invertible_policy_do_not_jump_in_z(self) -> None:
        """Along lines between noisy states; one that jumps says why."""
        policy = self.make()
        assert bool(policy.obstacle) != policy.invertible, f"invertible is {policy.invertible}, obstacle {policy.obstacle!r}"
        if not policy.invertible:
            return
        for gamma in (-6.0, -1.0, 3.0):
            start, end = noisy(SHAPE, torch.full((2,), gamma, dtype=torch.float64))
            ways = torch.linspace(-2, 3, 500, dtype=torch.float64)

            def along(part: Tensor, start: Tensor = start, end: Tensor = end, gamma: float = gamma) -> Tensor:
                z = start + part.reshape(-1, *(1 for _ in SHAPE)) * (end - start)
                return torch.stack(list(self.weigh(policy, [gamma] * len(part), z=z).values()))

            jump, _ = _largest_jump(ways, along)
            assert jump < 1e-3, f"weights jump by {jump:.2g} in z at gamma={gamma:g}; it is not invertible"

    def test_weights_of_a_sample_are_its_own(self) -> None:
        """In any order and batch, by its index."""
        gamma = torch.linspace(*self.support, 12, dtype=torch.float64).tolist()
        indices, turned = [3, 1, 4, 1, 5, 9, 2, 6, 0, 8, 7, 3], slice(None, None, -1)
        weights = self.weigh(self.make(), gamma, indices)
        turned_weights = self.weigh(self.make(), gamma[turned], indices[turned])
        for name, alike in weights.items():
            close(turned_weights[name].flip(0), alike, EXACT, f"weight of {name!r} in another order")
        for row, (at, index) in enumerate(zip(gamma, indices, strict=True)):
            for name, alone in self.weigh(self.make(), [at], [index]).items():
                close(weights[name][row : row + 1], alone, EXACT, f"weight of {name!r} alone and in a batch")

    def test_a_restricted_policy_holds_on_the_piece_both_ends(self) -> None:
        """`restrict(lo, hi)` is the policy inside the piece, continued to both ends, without a seam between."""
        for lo, hi in itertools.pairwise(self.edges()):
            held = self.make().restrict(lo, hi)
            assert not [seam for seam in held.seams if lo < seam < hi], f"restricted to [{lo:g}, {hi:g}] it has seams {held.seams}"
            within, ends = [lo + 1e-9, (lo + hi) / 2, hi - 1e-9], [lo, (lo + hi) / 2, hi]
            wanted, got = self.weigh(self.make(), within), self.weigh(held, within if self.draws else ends)
            for name in wanted:
                close(got[name], wanted[name], 1e-6, f"weight of {name!r} restricted to [{lo:g}, {hi:g}]")

    def test_a_route_runs_on_all_of_its_support_and_no_further(self) -> None:
        """Merged with experts it can be asked where it says; one asked where it was not trained is a `SupportError`."""
        policy, experts = self.make(), self.experts()
        told_support = merge(experts, policy).support
        at = torch.linspace(*told_support, 50, dtype=torch.float64)
        z = noisy((1, 4, 4), at)
        merge(experts, policy).eps_hat(z, at, self.condition(len(at)))
        for name, weight in self.weigh(policy, at.tolist()).items():
            used = float(at[weight.abs().argmax()])
            untrained = experts | {name: oracle(0.5, (used + 1.0, used + 2.0))}
            what = f"{name!r} used at an untrained gamma={used:g}"
            asks = _ask if weight.any() else _require  # a mixture may leave an expert out here, and not elsewhere
            refuses(what, SupportError, asks, untrained, policy, z[:1], used, self.condition(1))

    def test_a_route_over_copies_of_one_expert_is_that_expert(self) -> None:
        """Weights that sum to one change nothing when all experts agree."""
        one = oracle(0.5, self.support)
        at = torch.linspace(*self.support, 50, dtype=torch.float64)
        z = noisy((1, 4, 4), at)
        route = merge(dict.fromkeys(self.make().experts, one), self.make())
        eps_hat = route.eps_hat(z, at, self.condition(len(at)))
        close(eps_hat, one.eps_hat(z, at), EXACT, "eps_hat of a route over copies of one expert")


def _largest_jump(line: Tensor, weigh: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The largest jump of weights [K, n] along a line, and where; bisected towards larger changes, which slopes do not survive."""
    left, right = line[:-1], line[1:]
    for _ in range(30):
        middle = (left + right) / 2
        at = [weigh(part) for part in (left, middle, right)]
        first = (at[1] - at[0]).abs().amax(0) >= (at[2] - at[1]).abs().amax(0)
        left, right = torch.where(first, left, middle), torch.where(first, middle, right)
    jump, where = (at[2] - at[0]).abs().amax(0).max(0)
    return float(jump), float(left[where])


def _ask(experts: Mapping[str, Expert], policy: Policy, z: Tensor, gamma: float, condition: Tensor | None) -> Tensor:
    return merge(experts, policy).eps_hat(z, gamma, condition)


def _require(experts: Mapping[str, Expert], policy: Policy, z: Tensor, gamma: float, condition: Tensor | None) -> None:
    merge(experts, policy).require(gamma, gamma)
