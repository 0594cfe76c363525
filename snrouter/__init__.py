"""Merge pretrained diffusion models by routing between them along one shared noise axis, sample, and measure.

Names load on first use, so that importing the package imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snrouter.errors import SnrouterError as SnrouterError
    from snrouter.experts.base import Expert as Expert
    from snrouter.experts.discrete import Discrete as Discrete
    from snrouter.experts.generic import wrap as wrap
    from snrouter.experts.load import load_expert as load_expert
    from snrouter.gamma import GammaInterval as GammaInterval
    from snrouter.gamma import position as position
    from snrouter.metrics.likelihood import Estimate as Estimate
    from snrouter.metrics.likelihood import bits_per_dim as bits_per_dim
    from snrouter.metrics.measure import measure as measure
    from snrouter.router.base import Policy as Policy
    from snrouter.router.gate import Gate as Gate
    from snrouter.router.gate import TopK as TopK
    from snrouter.router.mixture import ByClass as ByClass
    from snrouter.router.mixture import Fixed as Fixed
    from snrouter.router.mixture import Random as Random
    from snrouter.router.piecewise import Piecewise as Piecewise
    from snrouter.router.piecewise import Single as Single
    from snrouter.router.piecewise import Stretch as Stretch
    from snrouter.router.routed_expert import RoutedExpert as RoutedExpert
    from snrouter.router.routed_expert import merge as merge
    from snrouter.router.threshold import Threshold as Threshold
    from snrouter.search.profile import Profile as Profile
    from snrouter.search.profiling import profile as profile
    from snrouter.search.routes import Constraints as Constraints
    from snrouter.search.tune import best_route as best_route
    from snrouter.solvers.ancestral import Ancestral as Ancestral
    from snrouter.solvers.base import Solution as Solution
    from snrouter.solvers.base import Solver as Solver
    from snrouter.solvers.ddim import DDIM as DDIM
    from snrouter.solvers.heun import Euler as Euler
    from snrouter.solvers.heun import Heun as Heun
    from snrouter.solvers.ode import ODE as ODE
    from snrouter.solvers.reconstruct import reconstruct as reconstruct
    from snrouter.solvers.sample import sample as sample

_HOMES = {
    "Ancestral": "snrouter.solvers.ancestral",
    "ByClass": "snrouter.router.mixture",
    "Constraints": "snrouter.search.routes",
    "DDIM": "snrouter.solvers.ddim",
    "Discrete": "snrouter.experts.discrete",
    "Estimate": "snrouter.metrics.likelihood",
    "Euler": "snrouter.solvers.heun",
    "Expert": "snrouter.experts.base",
    "Fixed": "snrouter.router.mixture",
    "GammaInterval": "snrouter.gamma",
    "Gate": "snrouter.router.gate",
    "Heun": "snrouter.solvers.heun",
    "ODE": "snrouter.solvers.ode",
    "Piecewise": "snrouter.router.piecewise",
    "Policy": "snrouter.router.base",
    "Profile": "snrouter.search.profile",
    "Random": "snrouter.router.mixture",
    "RoutedExpert": "snrouter.router.routed_expert",
    "Single": "snrouter.router.piecewise",
    "SnrouterError": "snrouter.errors",
    "Solution": "snrouter.solvers.base",
    "Solver": "snrouter.solvers.base",
    "Stretch": "snrouter.router.piecewise",
    "Threshold": "snrouter.router.threshold",
    "TopK": "snrouter.router.gate",
    "best_route": "snrouter.search.tune",
    "bits_per_dim": "snrouter.metrics.likelihood",
    "load_expert": "snrouter.experts.load",
    "measure": "snrouter.metrics.measure",
    "merge": "snrouter.router.routed_expert",
    "position": "snrouter.gamma",
    "profile": "snrouter.search.profiling",
    "reconstruct": "snrouter.solvers.reconstruct",
    "sample": "snrouter.solvers.sample",
    "wrap": "snrouter.experts.generic",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'snrouter' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
