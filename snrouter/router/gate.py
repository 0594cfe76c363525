"""Gates: a trained network weights the experts by the noisy state; all of them, or the k with the largest weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from snrouter.errors import CheckpointError, NonFiniteError, SpecError
from snrouter.experts.checkpoints import load_network, sha256
from snrouter.experts.networks.gate import GateNetwork
from snrouter.gamma import GammaInterval, interval
from snrouter.router.base import Mixture, Policy


@dataclass(frozen=True, eq=False)
class Gate(Mixture):
    """Weights are the softmax of a network of (z, gamma).

    Args:
        trained: called as `trained(z, gamma)`, z [B, ...] in the VP frame and gamma [B], in its own dtype; gives logits [B, K].
        names: of the experts, in the order of the logits.
        identity: tells gates apart in fingerprints, e.g. the hash of the weights.
        trained_on: the gammas it may be asked at; any when left out.
    """

    trained: nn.Module = field(repr=False)
    names: Sequence[str]
    identity: str = ""
    trained_on: GammaInterval | None = None

    @property
    def experts(self) -> tuple[str, ...]:
        """All."""
        return tuple(self.names)

    @property
    def network(self) -> nn.Module:
        """The gate's."""
        return self.trained

    @property
    def sparse(self) -> bool:
        """No: no weight is zero, as a rule."""
        return False

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Softmax [B, K], float64, where z is.

        Raises:
            SupportError: where it was not trained.
            SpecError: when the network cannot take these images, or gives another number of logits.
            NonFiniteError: when a logit is NaN or infinite.
        """
        self.require(*map(float, gamma.detach().aminmax()))
        like = next(self.trained.parameters(), z)
        try:
            logits = self.trained(z.to(like.dtype), gamma.to(like))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise SpecError(f"gate cannot take images of shape {list(z.shape[1:])} ({reason}); was it trained on these?") from error
        if logits.shape != (len(z), len(self.names)):
            expected = [len(z), len(self.names)]
            raise SpecError(f"gate: expected logits {expected}, one an expert, got {list(logits.shape)}; name its experts rightly")
        if not math.isfinite(float(logits.detach().sum())) and not bool(logits.isfinite().all()):
            bad = ~logits.detach().isfinite().all(1).cpu()
            raise NonFiniteError(
                f"gate returned NaN or infinity at gamma={float(gamma[bad][0]):g} for {int(bad.sum())} of {len(logits)} images; "
                f"check its weights, or run it in float32"
            )
        weights: Tensor = logits.double().softmax(1)
        return weights


@dataclass(frozen=True, eq=False)
class TopK(Mixture):
    """The k largest weights of another policy, renormalised; the other experts do not run.

    Args:
        policy: what gives the weights.
        k: how many of its experts run for each sample and noise level; all of them is the policy itself.
    """

    policy: Mixture
    k: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.k <= len(self.policy.experts):
            raise SpecError(f"k: expected 1 to {len(self.policy.experts)}, the number of experts; got {self.k}")

    @property
    def experts(self) -> tuple[str, ...]:
        """The policy's."""
        return self.policy.experts

    @property
    def network(self) -> nn.Module | None:
        """The policy's."""
        return self.policy.network

    @property
    def _all(self) -> bool:
        return self.k == len(self.policy.experts)

    @property
    def sparse(self) -> bool:
        """Where it leaves any expert out."""
        return self.policy.sparse or not self._all

    @property
    def invertible(self) -> bool:
        """Only where no expert is left out: elsewhere weights jump where two of them cross."""
        return self.policy.invertible and self._all

    @property
    def obstacle(self) -> str:
        """The experts that run change with z."""
        return "" if self.invertible else self.policy.obstacle or f"its {self.k} largest weights jump where two weights cross in z"

    @property
    def trained_on(self) -> GammaInterval | None:
        """The policy's."""
        return self.policy.trained_on

    def for_samples(self, indices: Sequence[int] | None) -> Policy:
        """The largest of the policy's weights for them."""
        policy = self.policy.for_samples(indices)
        return self if policy is self.policy else TopK(policy, self.k)  # type: ignore[arg-type]

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The k largest in each row over their sum, zero elsewhere."""
        weights = self.policy.weights(gamma, z, condition)
        if self._all:
            return weights
        kept, columns = weights.sort(dim=1, descending=True, stable=True)  # of equal ones the first, whoever shares the batch
        kept, columns = kept[:, : self.k], columns[:, : self.k]
        return torch.zeros_like(weights).scatter(1, columns, kept / kept.sum(1, keepdim=True))


def gate(checkpoint: Path, *, top_k: int | None = None, experts: tuple[str, ...] | None = None) -> Mixture:
    """A trained gate from its checkpoint.

    Args:
        checkpoint: a .safetensors file with its card, as `snrouter train` writes them.
        top_k: only so many experts run for each sample and noise level, those with the largest weights; all when left out.
        experts: what the spec calls the experts, in the order of the card's; the card's own names when left out.

    Raises:
        CheckpointError: when the checkpoint is missing, damaged or no gate.
        SpecError: when the experts are not as many as the gate's, or top_k is more than they are.
    """
    network, card, _ = load_network(checkpoint)
    names = card.get("gate", {}).get("experts") if isinstance(card.get("gate"), dict) else None
    if not isinstance(network, GateNetwork) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"checkpoint {checkpoint}: its card is of no gate; expected one that `snrouter train` wrote")
    if experts is not None and len(experts) != len(names):
        raise SpecError(f"experts: this gate has {len(names)} ({', '.join(names)}); got {len(experts)}")
    trained_on = interval((network.gamma_min, network.gamma_max))
    found = Gate(network, experts or tuple(names), card.get("sha256") or sha256(checkpoint), trained_on)
    return found if top_k is None else TopK(found, top_k)


def top_k(checkpoint: Path, k: int = 2, *, experts: tuple[str, ...] | None = None) -> Mixture:
    """A trained gate of which only the k experts with the largest weights run; the same as `gate` with `top_k`.

    Args:
        checkpoint: a .safetensors file with its card, as `snrouter train` writes them.
        k: how many experts run for each sample and noise level.
        experts: what the spec calls the experts, in the order of the card's; the card's own names when left out.
    """
    return gate(checkpoint, top_k=k, experts=experts)
