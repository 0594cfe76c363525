"""Expert: anything that reads noise and image off a noisy state on the shared axis.

A network, a closed-form oracle and a route over other experts are all Experts, so that every solver and every metric
works on each of them unchanged.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from snrouter.errors import SpecError, SupportError
from snrouter.gamma import GammaInterval


class Prediction(NamedTuple):
    """What an expert says of a batch: `eps_hat` and `x_hat` [B, ...], and `calls`, network rows spent by expert name.

    The two obey alpha x_hat + sigma eps_hat = z. An expert on no route is called ""; one without a network may spend none.
    """

    eps_hat: Tensor
    x_hat: Tensor
    calls: Mapping[str, int]


class Piece(NamedTuple):
    """A stretch [lo, hi] of the axis on which one expert's drift is smooth; it owns both ends.

    Experts of pieces with equal `identity` predict alike, though they be different objects; `key` tells it where `expert` does not.
    """

    lo: float
    hi: float
    expert: Expert
    key: object = None

    @property
    def identity(self) -> object:
        """What routes that share a piece have in common."""
        return self.expert if self.key is None else self.key


class Expert(nn.Module, ABC):
    """A denoiser on the axis.

    Args:
        support: the gammas it may be asked at.
        name: what errors call it.
        allow_extrapolation: warn, rather than refuse, beyond the support.
    """

    def __init__(self, support: GammaInterval, name: str, allow_extrapolation: bool = False) -> None:
        super().__init__()
        self.support = support
        self.name = name
        self.allow_extrapolation = allow_extrapolation
        self._warned = False

    @abstractmethod
    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """Predict noise and image; solvers call this.

        Args:
            z: noisy states in the VP frame, [B, ...].
            gamma: float64 [B] on the CPU (`batch_gamma` makes it).
            condition: class labels or another condition, [B, ...], or None.

        Raises:
            SupportError: beyond the support, unless extrapolation is allowed.
            NonFiniteError: when the output holds NaN or infinity.
        """

    def forward(self, z: Tensor, gamma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """`predict` with gamma as a number or a tensor of one or B values."""
        return self.predict(z, batch_gamma(gamma, len(z)), condition)

    def eps_hat(self, z: Tensor, gamma: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicted noise [B, ...] at z [B, ...] in the VP frame, gamma a number or [B]."""
        return self(z, gamma, condition).eps_hat  # type: ignore[no-any-return]

    def x_hat(self, z: Tensor, gamma: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicted image [B, ...] at z [B, ...] in the VP frame, gamma a number or [B]."""
        return self(z, gamma, condition).x_hat  # type: ignore[no-any-return]

    @property
    def seams(self) -> tuple[float, ...]:
        """Gammas at which the drift jumps, ascending."""
        return ()

    @property
    def invertible(self) -> bool:
        """Whether the flow is: a drift that is continuous in z. Exact-ODE likelihood asks for it."""
        return True

    @property
    def obstacle(self) -> str:
        """Whose flow is not invertible, and why; empty where it is."""
        return "" if self.invertible else f"that of {self.name!r} is not"

    def for_samples(self, indices: Sequence[int] | None) -> Expert:
        """The expert for batches of these samples, row by row; itself, unless it draws for each sample."""
        return self

    def pieces(self, lo: float, hi: float) -> Iterator[Piece]:
        """The smooth pieces of [lo, hi], ascending."""
        yield Piece(lo, hi, self)

    def require(self, lo: float, hi: float) -> None:
        """Check that [lo, hi] may be asked.

        Raises:
            SupportError: beyond the support by more than `SUPPORT_TOLERANCE`, unless extrapolation is allowed, which warns once.
        """
        if self.support.covers(lo) and self.support.covers(hi):
            return
        asked = f"gamma={lo:g}" if lo == hi else f"gamma in [{lo:g}, {hi:g}]"
        excess = max(self.support.gamma_min - lo, hi - self.support.gamma_max)
        if not self.allow_extrapolation:
            raise SupportError(
                f"expert {self.name!r} was asked at {asked}, {excess:.3g} beyond its support {self.support}; "
                f"narrow the interval, move the switch, or set allow_extrapolation: true for this expert"
            )
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"expert {self.name!r} runs up to {excess:.2g} in gamma beyond its support {self.support} (allow_extrapolation is set)",
            stacklevel=3,
        )


def batch_gamma(gamma: float | Tensor, batch: int) -> Tensor:
    """Gamma as float64 [batch] on the CPU, where checks and routing on it cost no device synchronisation."""
    value = torch.as_tensor(gamma, dtype=torch.float64, device="cpu").reshape(-1)
    if len(value) not in (1, batch):
        raise SpecError(f"gamma: expected one number or {batch}, one per image; got {len(value)}")
    return value.expand(batch)


def one_value(gamma: Tensor) -> float | Tensor:
    """Gamma [B] as one float where `batch_gamma` spread one value over the batch: arithmetic on floats costs far less."""
    return float(gamma[0]) if gamma.stride(0) == 0 else gamma


@overload
def expand(value: float, like: Tensor) -> float: ...
@overload
def expand(value: Tensor, like: Tensor) -> Tensor: ...
def expand(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A per-image value [B] shaped [B, 1, ...], with the dtype and device of `like` [B, ...]; a float as it is."""
    return value if isinstance(value, float) else value.to(like).reshape(-1, *(1 for _ in like.shape[1:]))
