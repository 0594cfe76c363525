"""The `gating` metric: which experts a route weights where along the axis, how surely, and how evenly their load is shared.

At noisy states z of the data, at times stratified per image (those of the variational bound), the route gives weights w over its K
experts. By stretch of gamma, their means are the utilisation, and the mean of -sum_k w_k log w_k is the entropy, in nats: 0 where
one expert has all the weight, log K where all have the same. P_k, the mean over all states, is the load of expert k.

Its number is the coefficient of variation of the load, the standard deviation over experts over the mean, sqrt(K sum_k P_k^2 - 1):
0 where all have the same load, sqrt(K - 1) where one has all of it. With n images the number of an even load is of the order of
sqrt((K - 1) / n), not 0.

Source: Shazeer et al. 2017, "Outrageously large neural networks", whose balance loss is its square.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.experts.base import Expert
from snrouter.experts.wrapper import ExpertWrapper
from snrouter.metrics.base import Context, DataMetric, Summary
from snrouter.metrics.likelihood.denoising import noisy_state, stratified
from snrouter.router.routed_expert import RoutedExpert

_WEIGHT = "weight/"


@dataclass(frozen=True)
class Gating(DataMetric):
    """How unevenly a route loads its experts, with their utilisation and the weights' entropy along gamma; no expert runs.

    Args:
        times: J, noise levels an image, one in each of as many equal stretches of gamma.
        images: how many of the data's images, the first ones; all when left out.
    """

    title = "variation of load"

    times: int = 16
    images: int | None = None

    def __post_init__(self) -> None:
        if self.times < 1:
            raise SpecError(f"times: expected at least 1, got {self.times}")

    def count(self, context: Context) -> int:
        """The data's images, or the first `images` of them."""
        available = len(context.need("data"))
        if self.images is not None and not 1 <= self.images <= available:
            raise SpecError(f"images: expected 1 to {available}, the size of the data; got {self.images}")
        return self.images or available

    @torch.no_grad()
    def measure(
        self, context: Context, expert: Expert, images: Tensor, indices: Sequence[int], condition: Tensor | None
    ) -> dict[str, Tensor]:
        """`weight/<number>/<expert>`, float64 [B, J], numbered in the order of the route; shards do not keep another."""
        draws = Draws(context.seed)
        gamma = context.bounds.at(stratified(self.times, draws, indices))
        rows = {name: torch.zeros(gamma.shape, dtype=torch.float64) for name in _leaves(expert)}
        for j in range(self.times):
            z, _ = noisy_state(images, gamma, j, draws, indices)
            for name, share in shares(expert, z, gamma[:, j], indices, condition).items():
                rows[name][:, j] = share
        return {f"{_WEIGHT}{number}/{name}": weights for number, (name, weights) in enumerate(rows.items())}

    def summarise(self, context: Context, measured: MutableMapping[str, Tensor]) -> Summary:
        """The coefficient of variation of the load."""
        found = sorted((name.split("/", 2)[1:] for name in measured if name.startswith(_WEIGHT)), key=lambda told: int(told[0]))
        by_expert = {name: measured[f"{_WEIGHT}{number}/{name}"] for number, name in found}
        weights = torch.stack(list(by_expert.values()), 2)  # [n, J, K]
        used, entropy = weights.mean(0), -torch.xlogy(weights, weights).sum(2).mean(0)
        value, influence = variation(weights.mean(1))
        edges = context.bounds.at(torch.arange(self.times + 1, dtype=torch.float64) / self.times)
        return Summary(
            value=value,
            standard_error=float(influence.std()) / math.sqrt(len(influence)) if len(influence) > 1 else math.nan,
            influence=influence,
            columns={
                "utilisation": dict(zip(by_expert, used.T.tolist(), strict=True)),
                "gammas": edges.tolist(),
                "entropy": entropy.tolist(),
                "load": dict(zip(by_expert, used.mean(0).tolist(), strict=True)),
            },
            protocol={"times": self.times},
        )


def variation(loads: Tensor) -> tuple[float, Tensor]:
    """Coefficient of variation of the mean of loads [n, K] whose rows sum to one, and its influence by row [n] (delta method)."""
    experts, mean = loads.shape[1], loads.mean(0)
    value = math.sqrt(max(experts * float(mean.square().sum()) - 1, 0.0))
    if value == 0:
        return 0.0, torch.zeros(len(loads), dtype=loads.dtype)  # one expert, or an even load, about which it has no slope
    return value, (loads - mean) @ mean * (experts / value)


def shares(
    expert: Expert, z: Tensor, gamma: Tensor, indices: Sequence[int], condition: Tensor | None = None
) -> Mapping[str, Tensor]:
    """The weight of each expert that a route leads to, by name, float64 [B] on the CPU; they sum to one.

    Args:
        expert: a route, whose experts may be routes themselves, called "outer.inner"; any other has all the weight.
        z: noisy states [B, ...].
        gamma: float64 [B] on the CPU.
        indices: which samples the rows are.
        condition: passed to the policies.
    """
    inner = _unwrapped(expert)
    if not isinstance(inner, RoutedExpert):
        return {inner.name: torch.ones(len(z), dtype=torch.float64)}
    policy = inner.policy.for_samples(indices)
    if policy.network is not None:
        z = z.to(next(policy.network.parameters(), z).device)  # where a route that waits off the accelerator has its gate
    weights = policy.weights(gamma, z, condition).double().cpu()
    found = {}
    for column, name in enumerate(policy.experts):
        below, share = inner.expert(name), weights[:, column]
        if not isinstance(_unwrapped(below), RoutedExpert):
            found[name] = share
            continue
        parts = {leaf: torch.zeros_like(share) for leaf in _leaves(below)}
        rows = share.nonzero()[:, 0]
        there = rows.to(z.device)
        if len(rows):  # a policy is asked of its own rows alone: by class, it may not know the others
            chosen = None if condition is None else condition[rows.to(condition.device)]
            for leaf, part in shares(below, z[there], gamma[rows], [indices[row] for row in rows.tolist()], chosen).items():
                parts[leaf][rows] = share[rows] * part
        found |= {f"{name}.{leaf}": part for leaf, part in parts.items()}
    return found


def _unwrapped(expert: Expert) -> Expert:
    while isinstance(expert, ExpertWrapper):
        expert = expert.expert
    return expert


def _leaves(expert: Expert) -> list[str]:
    """Names of the experts that a route leads to, as `shares` has them."""
    inner = _unwrapped(expert)
    if not isinstance(inner, RoutedExpert):
        return [inner.name]
    found = list[str]()
    for name in inner.policy.experts:
        below = inner.expert(name)
        routed = isinstance(_unwrapped(below), RoutedExpert)
        found += [f"{name}.{leaf}" for leaf in _leaves(below)] if routed else [name]
    return found
