"""Clocks: how a network's own time is read off the shared axis.

A schedule is a monotone map between an expert's time t and gamma; its t is the noise level that a network is called with. Units of
the axis are schedules too. An expert's clock is always mapped *from* gamma.

Sources: VDM arXiv 2107.00630 (linear), score SDE arXiv 2011.13456 (vp, sub_vp), iDDPM arXiv 2102.09672 (cosine),
rectified flow arXiv 2209.03003 (flow), DDPM arXiv 2006.11239 (discrete).
"""

from __future__ import annotations

import inspect
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from snrouter import gamma as axis
from snrouter.errors import SpecError, suggestion
from snrouter.gamma import GammaInterval
from snrouter.scheduler_configs import MOST_STEPS, Scheduler

Clock = Callable[[Tensor], Tensor]


class Schedule(ABC):
    """A monotone map t <-> gamma. Tensors in float64 in, the same out."""

    @property
    def support(self) -> GammaInterval:
        """The gammas that it has a time for."""
        return GammaInterval(-math.inf, math.inf)

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """Gamma at time t."""

    @abstractmethod
    def t(self, gamma: Tensor) -> Tensor:
        """Time at gamma; the inverse of `gamma`."""


class LinearSchedule(Schedule):
    """VDM's gamma = gamma_min + (gamma_max - gamma_min) t, t in [0, 1]; fixed or learned, it is two numbers."""

    def __init__(self, gamma_min: float, gamma_max: float) -> None:
        self.interval = axis.interval((gamma_min, gamma_max))

    @property
    def support(self) -> GammaInterval:
        """The interval of t in [0, 1]."""
        return self.interval

    def gamma(self, t: Tensor) -> Tensor:
        """Gamma at t in [0, 1]."""
        return self.interval.at(t)

    def t(self, gamma: Tensor) -> Tensor:
        """Fraction of the interval."""
        return (gamma - self.interval.gamma_min) / self.interval.length


class VPSchedule(Schedule):
    """Score SDE's VP: log alpha^2 = -(beta_min t + (beta_max - beta_min) t^2 / 2), t in (0, 1]."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min = beta_min
        self.slope = beta_max - beta_min

    @property
    def support(self) -> GammaInterval:
        """Up to t = 1."""
        return GammaInterval(-math.inf, float(self.gamma(torch.tensor(1.0, dtype=torch.float64))))

    def _exponent(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * self.slope * t**2

    def _time(self, exponent: Tensor) -> Tensor:
        root = (self.beta_min**2 + 2 * self.slope * exponent).sqrt()
        return 2 * exponent / (self.beta_min + root)

    def gamma(self, t: Tensor) -> Tensor:
        """log(exp(B) - 1) with B = -log alpha^2."""
        return self._exponent(t).expm1().log()

    def t(self, gamma: Tensor) -> Tensor:
        """Positive root of B(t) = softplus(gamma)."""
        return self._time(torch.nn.functional.softplus(gamma, threshold=50.0))


class SubVPSchedule(VPSchedule):
    """Score SDE's sub-VP: alpha as VP's, sigma = 1 - alpha^2, hence edm_sigma = 2 sinh(B / 2)."""

    def gamma(self, t: Tensor) -> Tensor:
        """2 log(2 sinh(B / 2))."""
        return 2 * (2 * (self._exponent(t) / 2).sinh()).log()

    def t(self, gamma: Tensor) -> Tensor:
        """Root of B(t) = 2 asinh(edm_sigma / 2)."""
        return self._time(2 * (axis.edm_sigma(gamma) / 2).asinh())


class CosineSchedule(Schedule):
    """iDDPM's cosine, alpha = cos(pi/2 (t + s)/(1 + s)), t in [0, 1); s = 0.008 there, 0 in later work."""

    def __init__(self, s: float = 0.0) -> None:
        self.s = s

    @property
    def support(self) -> GammaInterval:
        """From t = 0 on, which has noise when s > 0."""
        return GammaInterval(2 * math.log(math.tan(math.pi / 2 * self.s / (1 + self.s))) if self.s else -math.inf, math.inf)

    def gamma(self, t: Tensor) -> Tensor:
        """2 log tan(pi/2 (t + s)/(1 + s))."""
        return 2 * (math.pi / 2 * (t + self.s) / (1 + self.s)).tan().log()

    def t(self, gamma: Tensor) -> Tensor:
        """(1 + s) 2/pi atan(edm_sigma) - s."""
        return (1 + self.s) * 2 / math.pi * axis.edm_sigma(gamma).atan() - self.s


class FlowSchedule(Schedule):
    """Rectified flow: x_t = (1 - t) x + t eps, t in (0, 1), hence edm_sigma = t / (1 - t)."""

    def gamma(self, t: Tensor) -> Tensor:
        """2 logit(t)."""
        return 2 * torch.logit(t)

    def t(self, gamma: Tensor) -> Tensor:
        """sigmoid(gamma / 2)."""
        return (gamma / 2).sigmoid()


class _FlowSteps(FlowSchedule):
    """Rectified flow with t a step in (0, steps)."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def gamma(self, t: Tensor) -> Tensor:
        return super().gamma(t / self.steps)

    def t(self, gamma: Tensor) -> Tensor:
        return self.steps * super().t(gamma)


class DiscreteSchedule(Schedule):
    """A table of alphas_cumprod over steps 0, 1, ...; between them, gamma is linear in the fractional step.

    Args:
        alphas_cumprod: strictly decreasing values in (0, 1), DDPM's cumulative products.
    """

    def __init__(self, alphas_cumprod: Sequence[float] | Tensor) -> None:
        try:
            table = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise SpecError(f"alphas_cumprod: expected a list of numbers ({error})") from None
        if table.ndim != 1 or len(table) < 2 or not bool(((table > 0) & (table < 1)).all()):
            raise SpecError("alphas_cumprod: expected a list of two or more numbers strictly between 0 and 1")
        if not bool((table.diff() < 0).all()):
            raise SpecError("alphas_cumprod: expected strictly decreasing values (step 0 is the least noisy)")
        self.gammas = axis.from_alpha_bar(table)

    @property
    def support(self) -> GammaInterval:
        """The gammas of the first and the last step."""
        return GammaInterval(float(self.gammas[0]), float(self.gammas[-1]))

    def gamma(self, t: Tensor) -> Tensor:
        """Gamma at a fractional step."""
        step = t.to(torch.float64).clamp(0, len(self.gammas) - 1)
        left = step.floor().long().clamp(max=len(self.gammas) - 2)
        weight = step - left
        return (1 - weight) * self.gammas[left] + weight * self.gammas[left + 1]

    def t(self, gamma: Tensor) -> Tensor:
        """Fractional step at gamma, held at the first and last step outside the table."""
        value = gamma.to(torch.float64).clamp(self.gammas[0], self.gammas[-1])
        right = torch.searchsorted(self.gammas, value.contiguous()).clamp(1, len(self.gammas) - 1)
        left = right - 1
        return left + (value - self.gammas[left]) / (self.gammas[right] - self.gammas[left])


def scheduler_schedule(scheduler: Scheduler) -> Schedule:
    """The clock of a diffusers scheduler, whose t is the timestep.

    For flow matching, timestep = T sigma / (alpha + sigma); else `DiscreteSchedule` of its alphas_cumprod.
    """
    if scheduler.alphas_cumprod is not None:
        return DiscreteSchedule(scheduler.alphas_cumprod)
    return _FlowSteps(scheduler.steps)


def iddpm_alphas_cumprod(c_1: float = 0.001, c_2: float = 0.008, steps: int = 1000) -> Tensor:
    """The cumulative products [steps] of iDDPM's cosine schedule, float64, with the noise that a step may add limited.

    With f(j) = sin^2(pi/2 j / (steps (1 + c_2))), step n multiplies by max(f(j) / f(j + 1), c_1) at j = steps - 1 - n: the form of
    EDM (arXiv 2206.00364, table 1), with its C_1, C_2 and M.

    Args:
        c_1: the smallest factor of a step, 1 less the largest beta.
        c_2: the cosine's offset s.
        steps: of the table.

    Raises:
        SpecError: for more steps than `MOST_STEPS`.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise SpecError(f"iDDPM's table: expected 2 to {MOST_STEPS} steps, got {reprlib.repr(steps)}")
    level = (math.pi / 2 / (steps * (1 + c_2)) * torch.arange(steps + 1, dtype=torch.float64)).sin() ** 2
    return (level[:-1] / level[1:]).clamp(min=c_1).flip(0).cumprod(0)


class UnitSchedule(Schedule):
    """A unit of the axis as a clock.

    Args:
        to_unit: gamma -> unit.
        from_unit: its inverse.
    """

    def __init__(self, to_unit: Clock, from_unit: Clock) -> None:
        self.to_unit = to_unit
        self.from_unit = from_unit

    def gamma(self, t: Tensor) -> Tensor:
        """Gamma of a value in the unit."""
        return self.from_unit(t)

    def t(self, gamma: Tensor) -> Tensor:
        """Gamma in the unit."""
        return self.to_unit(gamma)


def _same(value: Tensor) -> Tensor:
    return value


def _c_noise(gamma: Tensor) -> Tensor:
    return gamma / 8


def _from_c_noise(t: Tensor) -> Tensor:
    return 8 * t


SCHEDULES: dict[str, Callable[..., Schedule]] = {  # of functions with names, so that experts can be sent to another process
    "gamma": lambda: UnitSchedule(_same, _same),
    "log_snr": lambda: UnitSchedule(axis.log_snr, axis.from_log_snr),
    "half_log_snr": lambda: UnitSchedule(axis.half_log_snr, axis.from_half_log_snr),
    "edm_sigma": lambda: UnitSchedule(axis.edm_sigma, axis.from_edm_sigma),
    "edm_c_noise": lambda: UnitSchedule(_c_noise, _from_c_noise),
    "linear": LinearSchedule,
    "vp": VPSchedule,
    "sub_vp": SubVPSchedule,
    "cosine": CosineSchedule,
    "flow": FlowSchedule,
    "discrete": DiscreteSchedule,
}
"""Clocks by the name a spec or `wrap(clock=...)` gives them; "edm_c_noise" is EDM's log(edm_sigma)/4."""


def schedule(name: str, /, **parameters: float | Sequence[float] | Tensor) -> Schedule:
    """The schedule of that name in `SCHEDULES`, whose t at gamma is the noise level that a network is called with.

    Args:
        name: e.g. "gamma", "edm_sigma", "cosine" or "discrete".
        parameters: of the schedule, e.g. `alphas_cumprod=...` or `beta_min=0.1`.

    Raises:
        SpecError: when the name is unknown or the parameters are not the schedule's.
    """
    if name not in SCHEDULES:
        raise SpecError(f"unknown clock {name!r}{suggestion(name, SCHEDULES)}; known: {', '.join(SCHEDULES)}")
    expected = inspect.signature(SCHEDULES[name]).parameters
    known = f"known: {', '.join(expected)}" if expected else "it has none"
    for key, value in parameters.items():
        if key not in expected:
            raise SpecError(f"clock {name!r}: unknown parameter {key!r}{suggestion(key, expected)}; {known}")
        if expected[key].annotation == "float" and not (isinstance(value, (int, float)) and abs(value) < math.inf):
            raise SpecError(f"clock {name!r}: {key}: expected a finite number, got {reprlib.repr(value)}")
    missing = [key for key, parameter in expected.items() if parameter.default is parameter.empty and key not in parameters]
    if missing:
        raise SpecError(f"clock {name!r}: {' and '.join(missing)} missing; {known}")
    return SCHEDULES[name](**parameters)
