"""RoutedExpert: a route over experts is itself an expert."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from snrouter.errors import SpecError
from snrouter.experts.base import Expert, Piece, Prediction, expand
from snrouter.router.base import Policy
from snrouter.router.offload import Offloaded
from snrouter.router.piecewise import Single
from snrouter.router.shared_features import shared_features


class RoutedExpert(Expert):
    """Experts merged by a policy: eps_hat = sum_k w_k eps_hat_k on the shared axis.

    Only experts with a non-zero weight run; a batch with one gamma per image is partitioned by expert, so that it costs one
    pass over the batch. `condition` reaches every expert, and those that take none ignore it.

    Args:
        experts: by name; each may itself be a route.
        policy: names some of them.
        name: what errors call it.
        indices: which samples its batches hold, row by row, for a policy that draws for each; 0 ... B - 1 when left out.

    Raises:
        SpecError: when the policy names an expert that is not there.
        SupportError: when it uses one where it was not trained.
    """

    def __init__(
        self, experts: Mapping[str, Expert], policy: Policy, name: str = "route", indices: Sequence[int] | None = None
    ) -> None:
        if not isinstance(policy, Policy) or not isinstance(experts, Mapping):
            raise SpecError(f"expected experts by name, {{'low': ...}}, and a policy, got {experts!r:.60} and {policy!r:.60}")
        policy.check(experts)
        for key in policy.experts:
            if not isinstance(experts[key], Expert):
                raise SpecError(f"expert {key!r}: expected an Expert, got {type(experts[key]).__name__}; see snrouter.wrap")
        used = {key: experts[key] for key in policy.experts}
        extrapolate = any(expert.allow_extrapolation for expert in used.values())
        super().__init__(policy.support(used), name, extrapolate)
        for key in used:
            if "." in key or not key:
                raise SpecError(f"expert name {key!r}: expected a word without a dot, which stands between names of nested routes")
        self.experts = nn.ModuleDict({f"_{key}": expert for key, expert in used.items()})
        self.policy = policy
        self.gate = policy.network
        self.indices = indices

    def expert(self, name: str) -> Expert:
        """The expert of that name."""
        return self.experts[f"_{name}"]  # type: ignore[return-value]

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """One pass over the batch."""
        policy = self.policy.for_samples(self.indices)
        if isinstance(policy, Single):
            return self._ask(policy.expert, z, gamma, condition)
        weights = policy.weights(gamma, z, condition)
        active = weights.detach().cpu() != 0 if policy.sparse else torch.ones(weights.shape, dtype=torch.bool)
        columns = active.any(0).nonzero()[:, 0].tolist()
        if len(columns) == 1 and policy.sparse:  # one expert has all of every row's weight
            return self._ask(policy.experts[columns[0]], z, gamma, condition)
        self._check_gradients(z, [policy.experts[column] for column in columns])
        asked = {policy.experts[column]: self.expert(policy.experts[column]) for column in columns}
        features = shared_features(asked, active[:, columns], z, gamma, condition)
        eps, x, calls = torch.zeros_like(z), torch.zeros_like(z), dict[str, int]()
        for column in columns:
            name, whole = policy.experts[column], bool(active[:, column].all())
            rows = None if whole else active[:, column].nonzero()[:, 0]
            part = self._ask(name, z, gamma, condition, rows, features.get(name))
            share = weights[:, column] if rows is None else weights[rows.to(weights.device), column]
            share = expand(share, part.eps_hat)
            if rows is None:
                eps, x = eps + share * part.eps_hat, x + share * part.x_hat
            else:
                there = rows.to(z.device)
                eps.index_add_(0, there, share * part.eps_hat), x.index_add_(0, there, share * part.x_hat)
            for key, count in part.calls.items():
                calls[key] = calls.get(key, 0) + count
        return Prediction(eps, x, calls)

    def _check_gradients(self, z: Tensor, names: Sequence[str]) -> None:
        """Refuse gradients through experts that take turns on a device, whose weights are elsewhere when they are taken."""
        if torch.is_grad_enabled() and z.requires_grad and z.device.type != "cpu":
            turned = [name for name in names if isinstance(self.expert(name), Offloaded)]
            if len(turned) > 1:
                raise SpecError(
                    f"exact-ODE likelihood of a mixture needs {', '.join(turned)} on the {z.device.type} device at once, "
                    f"and they take turns there; set residency: keep, or estimator: vlb"
                )

    def _ask(
        self,
        name: str,
        z: Tensor,
        gamma: Tensor,
        condition: Tensor | None,
        rows: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Prediction:
        """What one expert says of the whole batch, or of some of its rows; from features of the batch where it shares them."""
        indices = self.indices
        if rows is not None:
            there = rows.to(z.device)
            gamma = gamma[:1].expand(len(rows)) if gamma.stride(0) == 0 else gamma[rows]  # one level stays one, which costs less
            z, condition = z[there], None if condition is None else condition[there]
            indices = rows.tolist() if indices is None else [indices[row] for row in rows.tolist()]
            features = None if features is None else features[there]
        expert = self.expert(name).for_samples(indices)
        if features is None:
            eps_hat, x_hat, calls = expert.predict(z, gamma, condition)
        else:
            eps_hat, x_hat, calls = expert.predict(z, gamma, condition, features)  # type: ignore[call-arg] # of shared_features
        return Prediction(eps_hat, x_hat, {f"{name}.{key}" if key else name: n for key, n in calls.items()})

    def for_samples(self, indices: Sequence[int] | None) -> Expert:
        """The same route, its lots those of these samples; itself where no policy draws any."""
        return RoutedExpert(self._named(), self.policy, self.name, indices) if self._draws else self

    @property
    def _draws(self) -> bool:
        """Whether its policy, or one of a route below it, draws for each sample."""
        inner = (self.expert(name) for name in self.policy.experts)
        return self.policy.for_samples(()) is not self.policy or any(expert.for_samples(()) is not expert for expert in inner)

    def _named(self) -> dict[str, Expert]:
        return {name: self.expert(name) for name in self.policy.experts}

    @property
    def seams(self) -> tuple[float, ...]:
        """Switches of the policy, and seams of the experts where they run."""
        inner = list(self.pieces(self.support.gamma_min, self.support.gamma_max))
        return tuple(piece.lo for piece in inner[1:])

    @property
    def invertible(self) -> bool:
        """Whether policy and experts all are."""
        experts = (self.expert(name) for name in self.policy.experts)
        return self.policy.invertible and all(expert.invertible for expert in experts)

    @property
    def obstacle(self) -> str:
        """The policy's by its type, or the first of an expert's."""
        if self.policy.obstacle:
            return f"that of the policy {type(self.policy).__name__} is not: {self.policy.obstacle}"
        return next((told for name in self.policy.experts if (told := self.expert(name).obstacle)), "")

    def require(self, lo: float, hi: float) -> None:
        """Check the policy, and every expert where it runs, so that an error names the expert and not the route."""
        self.policy.require(lo, hi)
        for start, end, policy in self._stretches(lo, hi):
            for name in policy.experts:
                self.expert(name).require(start, end)

    def _stretches(self, lo: float, hi: float) -> Iterator[tuple[float, float, Policy]]:
        """What holds between the policy's own seams."""
        edges = [lo, *(seam for seam in self.policy.seams if lo < seam < hi), hi]
        for start, end in itertools.pairwise(edges):
            yield start, end, self.policy.restrict(start, end)

    def pieces(self, lo: float, hi: float) -> Iterator[Piece]:
        """Smooth pieces, each with the route that holds on it, both ends included."""
        for start, end, policy in self._stretches(lo, hi):
            names = {name: self.expert(name) for name in policy.experts}
            inner = {seam for expert in names.values() for seam in expert.seams if start < seam < end}
            cuts = [start, *sorted(inner), end]
            for low, high in itertools.pairwise(cuts):
                held = {name: next(iter(expert.pieces(low, high))) for name, expert in names.items()}
                routed = RoutedExpert({name: piece.expert for name, piece in held.items()}, policy, self.name, self.indices)
                weighted = policy.expert if isinstance(policy, Single) else id(policy)  # a policy may have no ==, e.g. of tensors
                yield Piece(low, high, routed, (weighted, [piece.identity for piece in held.values()]))


def merge(experts: Mapping[str, Expert], policy: Policy, name: str = "route") -> RoutedExpert:
    """Merge experts by a policy; the result is an expert.

    Args:
        experts: by the names that the policy uses.
        policy: e.g. `Threshold(low="likelihood", high="quality", switch=-5.98)`; a switch is a gamma.
        name: what errors call it.

    Raises:
        SpecError: when the policy names an expert that is not there.
        SupportError: when it uses one where it was not trained.
    """
    return RoutedExpert(experts, policy, name)
