"""Policy: which experts run at a noise level, and with what weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from snrouter.errors import SpecError, SupportError, suggestion
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval


class Policy(ABC):
    """Weights over named experts at (gamma, and for gates z)."""

    @property
    @abstractmethod
    def experts(self) -> tuple[str, ...]:
        """Names of the experts it uses, in the order of the columns of `weights`."""

    @property
    @abstractmethod
    def seams(self) -> tuple[float, ...]:
        """Gammas at which the weights jump, ascending."""

    @abstractmethod
    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Weights [B, K] that sum to one, at gamma (float64 [B] on the CPU) and z [B, ...].

        At a seam the expert below it (less noise) is used (paper eq. 9). Weights that depend on gamma alone stay on the CPU.
        """

    @abstractmethod
    def restrict(self, lo: float, hi: float) -> Policy:
        """The policy that holds between two neighbouring seams, extended to both ends of [lo, hi]."""

    @abstractmethod
    def support(self, experts: Mapping[str, Expert]) -> GammaInterval:
        """The gammas at which the route may be asked.

        Raises:
            SupportError: when the route uses an expert where it was not trained, or has a gap.
        """

    @property
    def invertible(self) -> bool:
        """Whether the weights are continuous in z; only then has the route an invertible flow."""
        return True

    @property
    def obstacle(self) -> str:
        """Why it has no invertible flow, as the second half of a sentence; empty where it has one."""
        return "" if self.invertible else "its weights jump in z"

    @property
    def sparse(self) -> bool:
        """Whether some weights may be zero, so that an expert is worth leaving out."""
        return True

    @property
    def network(self) -> nn.Module | None:
        """What gives the weights, where it is trained; a route has it beside its experts."""
        return None

    @property
    def trained_on(self) -> GammaInterval | None:
        """The gammas that its weights were trained on; None where they may be asked at any."""
        return None

    def require(self, lo: float, hi: float) -> None:
        """Check that the weights may be asked on [lo, hi].

        Raises:
            SupportError: where they were not trained.
        """
        own = self.trained_on
        if own is not None and not (own.covers(lo) and own.covers(hi)):
            asked = f"gamma={lo:g}" if lo == hi else f"gamma in [{lo:g}, {hi:g}]"
            raise SupportError(f"gate was asked at {asked}, and was trained on {own}; narrow the interval, or train it on this one")

    def for_samples(self, indices: Sequence[int] | None) -> Policy:
        """The policy for a batch of these samples, row by row; itself, unless it draws for each sample."""
        return self

    def check(self, names: Mapping[str, Expert]) -> None:
        """Check that every expert it names exists.

        Raises:
            SpecError: naming the unknown expert.
        """
        for name in self.experts:
            if name not in names:
                known = ", ".join(names)
                raise SpecError(f"route names expert {name!r}, which is not there{suggestion(name, names)}; known: {known}")


class GammaPolicy(Policy):
    """A policy of gamma alone: one expert on each piece of the axis."""

    @property
    @abstractmethod
    def route(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Experts from least noise to most, and the gammas between neighbours (one fewer), ascending."""

    @property
    def experts(self) -> tuple[str, ...]:
        """Names in order of first use."""
        return tuple(dict.fromkeys(self.route[0]))

    @property
    def seams(self) -> tuple[float, ...]:
        """Switches between different experts."""
        names, switches = self.route
        return tuple(at for at, low, high in zip(switches, names, names[1:], strict=False) if low != high)

    def weights(self, gamma: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """One-hot rows; gamma at a switch belongs to the expert below it."""
        names, switches = self.route
        column = torch.tensor([self.experts.index(name) for name in names])
        piece = torch.bucketize(gamma.contiguous(), torch.tensor(switches, dtype=torch.float64))
        return torch.nn.functional.one_hot(column[piece], len(self.experts)).to(torch.float64)

    def expert_between(self, lo: float, hi: float) -> str:
        """The one expert that runs strictly between two neighbouring seams."""
        names, switches = self.route
        return names[sum(switch <= (lo + hi) / 2 for switch in switches)]

    def support(self, experts: Mapping[str, Expert]) -> GammaInterval:
        """From the lowest gamma of the first expert to the highest of the last, every switch lying in both neighbours' support."""
        names, switches = self.route
        for at, low, high in zip(switches, names, names[1:], strict=False):
            for name in (low, high):
                expert = experts[name]
                if not expert.support.covers(at) and not expert.allow_extrapolation:
                    common = experts[low].support.intersect(experts[high].support)
                    raise SupportError(
                        f"switch between {low!r} and {high!r} at gamma={at:g} is outside the support {expert.support} of "
                        f"{name!r}; move it into their common support {common}"
                    )
        return GammaInterval(experts[names[0]].support.gamma_min, experts[names[-1]].support.gamma_max)


class Mixture(Policy):
    """A policy under which any of its experts may run at any gamma."""

    @property
    def seams(self) -> tuple[float, ...]:
        """None: weights are continuous in gamma, or jump with the state."""
        return ()

    def restrict(self, lo: float, hi: float) -> Policy:
        """Itself."""
        return self

    def support(self, experts: Mapping[str, Expert]) -> GammaInterval:
        """Where every expert may be asked; experts that extrapolate may be asked where the others may."""
        bound = [expert.support for expert in experts.values() if not expert.allow_extrapolation]
        supports = bound or [expert.support for expert in experts.values()]
        lo, hi = max(own.gamma_min for own in supports), min(own.gamma_max for own in supports)
        if lo >= hi:
            told = ", ".join(f"{name!r} {expert.support}" for name, expert in experts.items())
            raise SupportError(f"a mixture asks every expert at every gamma, and these have no support in common: {told}")
        return GammaInterval(lo, hi)
