"""What the contracts share: closed-form stand-ins for networks, noisy states, and assertions that say what was promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.experts.base import Expert, Prediction, expand
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import alpha, sigma

EXACT = 1e-9
"""What counts as equal in float64, relative to the largest value."""


class Watched(Expert):
    """An expert that counts the rows it saw, and notes whether each came with its condition."""

    def __init__(self, expert: Expert) -> None:
        super().__init__(expert.support, expert.name)
        self.expert = expert
        self.rows = 0
        self.conditioned = True

    def predict(self, z: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Prediction:
        """The expert's."""
        self.rows += len(z)
        self.conditioned &= condition is not None and len(condition) == len(z)
        return self.expert.predict(z, gamma, condition)


def oracle(deviation: float, support: tuple[float, float]) -> Gaussian:
    """A Gaussian over [1, 4, 4] with correlated pixels of about that standard deviation."""
    mean = torch.linspace(-0.4, 0.4, 16, dtype=torch.float64).reshape(1, 4, 4)
    at = torch.arange(16, dtype=torch.float64)
    return Gaussian(mean, deviation**2 * torch.exp(-(at[:, None] - at).abs() / 3), support)


def noisy(shape: Sequence[int], gamma: Tensor) -> Tensor:
    """States z = alpha x + sigma eps of images uniform in [-1, 1], one at each gamma [B]; float64 [B, *shape]."""
    draws, rows = Draws(2), range(len(gamma))
    x, eps = 2 * draws.uniform("x", rows, shape) - 1, draws.normal("eps", rows, shape)
    return expand(alpha(gamma), x) * x + expand(sigma(gamma), eps) * eps


def close(got: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Assert equal shapes, and values equal to a tolerance relative to the largest (or to 1)."""
    assert got.shape == wanted.shape, f"{what}: expected shape {list(wanted.shape)}, got {list(got.shape)}"
    worst = float((got.double() - wanted.double()).abs().max()) / max(float(wanted.abs().max()), 1.0)
    assert worst <= tolerance, f"{what}: off by {worst:.3g}, allowed {tolerance:.3g}"


def refuses(what: str, error: type[Exception], action: Callable[..., object], *arguments: object, **named: object) -> None:
    """Assert that a call raises this error."""
    try:
        action(*arguments, **named)
    except error:
        return
    raise AssertionError(f"{what}: expected {error.__name__}, nothing was raised")


def told(make: Callable[[], object]) -> None:
    """Assert that the repr, which enters a run's fingerprint, is that of the arguments alone; a dataclass does this."""
    first, second = repr(make()), repr(make())
    assert first == second, f"repr differs between two made alike: {first}"
    assert " at 0x" not in first, f"repr tells an address rather than the arguments: {first}; make it a dataclass"
