r"""The objective of a mixture: a bound in bits/dim, and what keeps a gate from leaving experts idle.

    L = L_NLL + lambda_load L_load + lambda_ent L_ent

L_NLL is the VLB's diffusion term (VDM arXiv 2107.00630, eq. 17) of the mixture eps_hat = sum_k w_k eps_hat_k on the run's interval,

    (gamma_max - gamma_min) / 2  E_gamma ||eps - eps_hat||^2 / (D ln 2),   gamma uniform, stratified over the batch.

With P_k the batch mean of the gate's weights and f_k the share of rows whose largest weight is k's, L_load is

    squared   K sum_k P_k^2 - 1     the squared coefficient of variation of P (Shazeer et al. 2017, arXiv 1701.06538, eq. 7)
    switch    K sum_k f_k P_k - 1   (Fedus et al. 2021, arXiv 2101.03961, eq. 4, less its value at balance)

both 0 at balance and K - 1 where one expert has all, and L_ent = -mean H(w), H in nats: rows are stratified over time steps, so
that it rewards entropy at each of them. Under top-k, L_load and L_ent read the weights before the others are left out, so that
experts which do not run are still pulled back. Of several processes each takes its own rows' P and f, and gradients are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snrouter import gamma as axis
from snrouter.experts.base import expand
from snrouter.gamma import GammaInterval
from snrouter.recipe import Gating
from snrouter.router.base import Mixture
from snrouter.router.gate import Gate
from snrouter.router.routed_expert import RoutedExpert
from snrouter.training.objectives import Objective, times


def load_balance(weights: Tensor, form: Literal["squared", "switch"]) -> Tensor:
    """How far weights [B, K] are from an even load: 0 at balance, K - 1 where one expert has all."""
    mean, experts = weights.mean(0), weights.shape[1]
    if form == "squared":
        return experts * mean.square().sum() - 1
    largest = torch.nn.functional.one_hot(weights.argmax(1), experts).to(mean).mean(0)
    return experts * (largest * mean).sum() - 1


def entropy(weights: Tensor) -> Tensor:
    """Mean entropy of the rows of weights [B, K], in nats."""
    return -(weights * weights.clamp_min(torch.finfo(weights.dtype).tiny).log()).sum(1).mean()


@dataclass(frozen=True, eq=False)
class Watched(Gate):
    """A gate that keeps the weights it gave last, for the terms of the loss that read them: `kept` holds these or nothing."""

    kept: list[Tensor] = field(default_factory=list, repr=False)

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The gate's."""
        self.kept[:] = [super().weights(gamma, z, condition)]
        return self.kept[0]


class Lots(Mixture):
    """One expert for each row, each as likely, drawn from the training's own generator.

    Args:
        names: of the experts.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    @property
    def experts(self) -> tuple[str, ...]:
        """All."""
        return self.names

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """One-hot rows."""
        lots = torch.randint(len(self.names), (len(gamma),))
        return torch.nn.functional.one_hot(lots, len(self.names)).to(torch.float64)


class Mixing(Objective):
    """The mixture's bound, with the terms of its gate.

    Args:
        network: what is trained and averaged: the gate, or the experts with it.
        route: the mixture, whose experts may be those of `network`, or frozen.
        watched: the gate of the route's policy; None where there is none.
        bounds: the run's interval.
        recipe: the factors.
        conditional: whether experts get the labels.

    Raises:
        SupportError: when an expert was not trained on all of the interval.
    """

    def __init__(
        self,
        network: nn.Module,
        route: RoutedExpert,
        watched: Watched | None,
        bounds: GammaInterval,
        recipe: Gating,
        conditional: bool,
    ) -> None:
        super().__init__(network)
        route.require(*bounds)
        self.sparse = route.policy.sparse
        self.unregistered = (route,)  # frozen experts are neither optimised nor in checkpoints
        self.watched = watched
        self.bounds = bounds
        self.recipe = recipe
        self.conditional = conditional
        self.parts: dict[str, Tensor] = {}
        network.train().requires_grad_(True)  # those read from files are for use alone

    def loss(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """L, of which the first term is in bits/dim."""
        route = self.unregistered[0].to(images.device)
        gamma = self.bounds.at(times(len(images)))
        eps = torch.randn_like(images)
        z = expand(axis.alpha(gamma), images) * images + expand(axis.sigma(gamma), images) * eps
        error = route.predict(z, gamma, labels if self.conditional else None).eps_hat - eps
        nll = self.bounds.length / (2 * math.log(2)) * error.square().mean()
        self.parts = {"nll": nll.detach()}
        if self.watched is None:
            return nll
        (weights,) = self.watched.kept
        load, spread = load_balance(weights, self.recipe.load_balance_form), entropy(weights)
        self.parts |= {"load": load.detach(), "entropy": spread.detach()}
        used = weights.detach().mean(0)
        self.parts |= {f"utilisation/{name}": used[k] for k, name in enumerate(self.watched.experts)}
        return nll + (self.recipe.load_balance * load - self.recipe.entropy * spread).to(nll)

    def told(self) -> dict[str, Any]:
        """The bound, the load's imbalance, the entropy, and the share of each expert."""
        return self.parts
