"""What every solver promises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from snrouter.draws import Draws
from snrouter.errors import SpecError, SupportError
from snrouter.experts.base import Expert
from snrouter.experts.gaussian import Gaussian
from snrouter.gamma import GammaInterval, alpha, sigma
from snrouter.router.routed_expert import RoutedExpert, merge
from snrouter.router.threshold import Threshold
from snrouter.solvers.base import Solution, Solver
from snrouter.solvers.fork import solve_routes
from snrouter.testing.oracles import EXACT, Watched, close, oracle, refuses, told


class SolverContract(ABC):
    """What every solver promises; on Gaussians the probability flow is a closed form."""

    steps: int = 32
    """Steps at which `tolerance` is met."""

    tolerance: float = 1e-2
    """Largest error of the flow over its largest value (of a stochastic solver's standard deviation, relative)."""

    order: float | None = 1.0
    """The error falls like steps ** -order; None where the solver chooses its steps or draws noise."""

    stochastic: bool = False
    """Whether it draws noise."""

    encodes: bool = True
    """Whether it also runs from data to noise."""

    coupled: bool = False
    """Whether a sample's result depends on its batch mates, within the tolerance."""

    bounds = GammaInterval(-7.0, 5.0)
    seam = -1.234

    @abstractmethod
    def make(self, steps: int) -> Solver:
        """A new solver with that many steps, or with controls that meet `tolerance`."""

    def start(self, batch: int = 6) -> Tensor:
        """Noise at gamma_max, float64."""
        return sigma(self.bounds.gamma_max) * Draws(3).normal("start", range(batch), (1, 4, 4))

    def route(self) -> RoutedExpert:
        """Two Gaussians that disagree, switched at a gamma that is no node of a grid."""
        experts = {"low": oracle(0.2, (-14.0, 9.0)), "high": oracle(0.6, (-14.0, 9.0))}
        return merge(experts, Threshold(low="low", high="high", switch=self.seam))

    def error(self, steps: int, routed: bool) -> float:
        """Error of the flow, on one expert or across a seam."""
        z, route = self.start(), self.route()
        low, high = route.expert("low"), route.expert("high")
        assert isinstance(low, Gaussian)
        assert isinstance(high, Gaussian)
        at_seam = high.flow(z, self.bounds.gamma_max, self.seam)
        exact = (low if routed else high).flow(at_seam, self.seam, self.bounds.gamma_min)
        got = self.make(steps).solve(route if routed else high, z, self.bounds).z
        return float((got - exact).abs().max() / exact.abs().max())

    def test_it_follows_the_flow_also_across_a_seam(self) -> None:
        """A deterministic solver meets `tolerance` and shows `order` on one expert and on a route of two."""
        if self.stochastic:
            return
        for routed, where in ((False, "on one expert"), (True, "across a seam")):
            error = self.error(self.steps, routed)
            assert error <= self.tolerance, f"the flow {where} is missed by {error:.3g} of its size"
            if self.order is not None:
                gained = math.log2(error / self.error(2 * self.steps, routed))
                assert gained > self.order - 0.25, f"order {gained:.2f} {where}, declared {self.order:g}"

    def test_it_keeps_the_marginal(self) -> None:
        """From the noisy marginal at gamma_max it arrives at the one at gamma_min, also when it draws noise."""
        deviation, shape = 0.5, (1, 16, 16)
        expert = Gaussian(torch.zeros(shape), deviation**2 * torch.eye(256), (-14.0, 9.0))
        lo, hi = ((alpha(gamma) ** 2 * deviation**2 + sigma(gamma) ** 2) ** 0.5 for gamma in self.bounds)
        z = hi * Draws(3).normal("start", range(128), shape)
        ratio = float(self.solve(expert, z).z.std()) / lo
        noise = 5 / math.sqrt(2 * z.numel())
        assert abs(ratio - 1) <= self.tolerance + noise, f"the standard deviation is {ratio:.4f} of the marginal's"

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        """Noise is keyed by (seed, index): subsets and orders change nothing, another seed changes only stochastic solvers."""
        solver, z, tolerance = self.make(self.steps), self.start(), self.tolerance if self.coupled else EXACT
        whole = solver.solve(self.route(), z, self.bounds, indices=range(10, 16)).z
        for rows in ([4], [5, 2, 0]):
            part = solver.solve(self.route(), z[rows], self.bounds, indices=[10 + row for row in rows]).z
            close(part, whole[rows], tolerance, f"samples {rows} alone and in a batch")
        again = solver.solve(self.route(), z, self.bounds, indices=range(10, 16)).z
        assert torch.equal(again, whole), "the same seed and indices gave another result"
        for seed, first in ((1, 10), (0, 20)):
            other = solver.solve(self.route(), z, self.bounds, indices=range(first, first + 6), seed=seed).z
            asked = f"asked with seed {seed} and indices from {first} after seed 0 and indices from 10"
            assert torch.equal(other, whole) != self.stochastic, f"{asked}: a stochastic solver changes, another does not"

    def test_network_calls_are_counted(self) -> None:
        """`nfe` is rows the expert saw over the batch, the sum of `nfe_per_expert`, which names a route's experts."""
        watched = Watched(self.route().expert("high"))
        nfe = self.solve(watched).nfe
        assert math.isclose(nfe, watched.rows / 6), f"nfe is {nfe:g}, the expert saw {watched.rows / 6:g} a sample"
        routed = self.solve(self.route())
        assert set(routed.nfe_per_expert) == {"low", "high"}, f"expected the route's experts, got {set(routed.nfe_per_expert)}"
        assert math.isclose(routed.nfe, sum(routed.nfe_per_expert.values())), f"{routed.nfe:g} is not the sum of nfe_per_expert"

    def test_routes_solved_together_are_what_each_is_alone(self) -> None:
        """Bit for bit, whatever they share; their calls together are at most those of each alone."""
        routes = {"both": self.route()}
        experts = {name: routes["both"].expert(name) for name in ("low", "high")}
        for at in (self.seam - 2, self.seam, self.seam + 2):
            routes[f"{at}"] = merge(experts, Threshold(low="low", high="high", switch=at))
        forked = solve_routes(self.make(self.steps), routes, self.start(), self.bounds)
        alone = {label: self.solve(route) for label, route in routes.items()}
        for label, solution in forked.solutions.items():
            assert torch.equal(solution.z, alone[label].z), f"the route {label!r} gave another result among others"
            assert solution.nfe_per_expert == alone[label].nfe_per_expert, f"the route {label!r} counts other calls among others"
        assert sum(forked.spent.values()) <= sum(solution.nfe for solution in alone.values()), (
            "routes cost more together than alone"
        )

    def test_condition_and_progress_are_passed_on(self) -> None:
        """The condition reaches every call, row by row; progress rises to one."""
        watched, heard = Watched(self.route().expert("high")), list[float]()
        self.solve(watched, condition=torch.arange(6), progress=heard.append)
        assert watched.conditioned, "a call came without its rows of the condition"
        assert heard, "progress was never told"
        assert heard == sorted(heard), f"progress fell: {heard}"
        assert math.isclose(heard[-1], 1.0, abs_tol=1e-6), f"progress ended at {heard[-1]:g}"

    def test_encoding_is_undone_by_sampling(self) -> None:
        """From gamma_min up and down again, or a `SpecError` where it does not encode; the solver's `encodes` says which."""
        z = 0.3 * self.start()
        says = self.make(self.steps).encodes
        assert says == self.encodes, f"the solver's `encodes` is {says}, declared {self.encodes}"
        if self.encodes:
            encoded = self.solve(self.route(), z, direction="encode").z
            close(self.solve(self.route(), encoded).z, z, 2 * self.tolerance, "encoded, then sampled")
        else:
            refuses("asked to encode", SpecError, self.solve, self.route(), z, direction="encode")

    def test_what_it_is_given_is_kept(self) -> None:
        """Precision stays, z is not written to, an interval beyond the support is refused, `repr` tells its arguments."""
        z = self.start().float()
        before, end = z.clone(), self.solve(self.route(), z).z
        assert torch.equal(z, before), "z was changed in place"
        assert (end.dtype, end.shape) == (z.dtype, z.shape), f"got {end.dtype} {list(end.shape)} for float32 {list(z.shape)}"
        refuses("an interval beyond the expert's support", SupportError, self.solve, oracle(0.5, (-3.0, 9.0)))
        told(lambda: self.make(self.steps))

    def solve(self, expert: Expert, z: Tensor | None = None, **arguments: Any) -> Solution:
        """One solve over `bounds` from z, or from `start`."""
        return self.make(self.steps).solve(expert, self.start() if z is None else z, self.bounds, **arguments)
