"""Mixtures: several experts weighted at every noise level, eps_hat = sum_k w_k eps_hat_k, by fixed weights, by lot or by label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.router.base import Mixture, Policy


@dataclass(frozen=True)
class Fixed(Mixture):
    """Constant weights.

    Args:
        shares: the weight of each expert; they sum to one.
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        given = list(self.shares.values())
        if not given or not all(math.isfinite(share) and share >= 0 for share in given) or abs(sum(given) - 1) > 1e-6:
            raise SpecError(f"shares: expected weights of at least 0 that sum to 1, e.g. {{a: 0.25, b: 0.75}}; got {self.shares}")

    @property
    def experts(self) -> tuple[str, ...]:
        """Those whose weight is not zero."""
        return tuple(name for name, share in self.shares.items() if share)

    @property
    def sparse(self) -> bool:
        """No: all run."""
        return False

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The same rows everywhere."""
        return torch.tensor([self.shares[name] for name in self.experts], dtype=torch.float64).expand(len(gamma), -1)


@dataclass(frozen=True)
class Random(Mixture):
    """One expert for each sample and noise level, each as likely: the baseline of what a gate learns.

    The lot is keyed by (seed, sample index, gamma), so that it does not depend on the batch.

    Args:
        among: names of the experts; all of the spec's when left out.
        seed: of the lots.
    """

    among: Sequence[str]
    seed: int = 0
    indices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.among or len({*self.among}) < len(self.among):
            raise SpecError(f"among: expected one or more experts, each once, e.g. [a, b]; got {list(self.among)}")

    @property
    def experts(self) -> tuple[str, ...]:
        """All."""
        return tuple(self.among)

    @property
    def invertible(self) -> bool:
        """No: the drift jumps with the lot."""
        return len(self.among) == 1

    @property
    def obstacle(self) -> str:
        """The lots."""
        return "" if self.invertible else "an expert is drawn anew at every noise level, so that the drift jumps"

    def for_samples(self, indices: Sequence[int] | None) -> Policy:
        """With their lots; without it rows are samples 0 ... B - 1."""
        return replace(self, indices=indices)

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """One-hot rows."""
        indices = range(len(gamma)) if self.indices is None else self.indices
        level = gamma.contiguous().view(torch.int64).tolist()  # the bits of each gamma
        lots = Draws(self.seed).uniform("random_gate", indices, (), draw=[bits % 2**64 for bits in level])
        chosen = (lots * len(self.among)).long()
        return torch.nn.functional.one_hot(chosen, len(self.among)).to(torch.float64)


@dataclass(frozen=True)
class ByClass(Mixture):
    """The condition, a class label, chooses the expert.

    Args:
        labels: the labels of each expert, e.g. {round: [0, 6, 8], straight: [1, 4, 7]}.
    """

    labels: Mapping[str, Sequence[int]]

    def __post_init__(self) -> None:
        every = [label for own in self.labels.values() for label in own]
        if not all(self.labels.values()) or not every or len({*every}) < len(every) or min(every) < 0:
            raise SpecError(
                f"labels: expected some for each expert, each once, e.g. {{a: [0, 1], b: [2]}}; got {dict(self.labels)}"
            )

    @property
    def experts(self) -> tuple[str, ...]:
        """All."""
        return tuple(self.labels)

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """One-hot rows.

        Raises:
            SpecError: without a condition, for one that is no label, or for a label that no expert has.
        """
        if condition is None or condition.ndim != 1:
            got = "none" if condition is None else f"a condition {list(condition.shape)}"
            raise SpecError(f"a route by class needs a label an image, got {got}; set condition: labels, or pass condition")
        owner = {label: column for column, own in enumerate(self.labels.values()) for label in own}
        given = condition.tolist()
        unknown = sorted({label for label in given if label not in owner})
        if unknown:
            raise SpecError(f"labels: no expert has label {unknown[0]}; add it to one of {', '.join(self.labels)}")
        columns = torch.tensor([owner[label] for label in given])
        return torch.nn.functional.one_hot(columns, len(self.labels)).to(torch.float64)


def random(
    among: tuple[str, ...] | None = None, seed: int | None = None, *, available: Sequence[str] = (), run_seed: int = 0
) -> Random:
    """One expert for each sample and noise level, by lot; see `Random`.

    Args:
        among: names of the experts; all of the spec's when left out.
        seed: of the lots; the spec's when left out.
        available: the spec's experts, which the spec fills in.
        run_seed: the spec's seed, likewise.
    """
    return Random(tuple(available) if among is None else among, run_seed if seed is None else seed)
