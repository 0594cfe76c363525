"""The contract suite: what an extension of each kind promises, as tests that its author runs.

Subclass the contract of your kind, say how to make one, and let pytest collect the class:

    class TestWiener(ExpertContract):
        def make(self) -> Expert:
            return wiener(exponent=2.0)

The attributes at the head of a contract are declarations to override, e.g. `stochastic = True` for a solver that draws noise.
Closed-form Gaussians stand in for networks, so that a suite takes a second. Nothing here imports pytest.
"""

from snrouter.testing.dataset import DatasetContract
from snrouter.testing.expert import ExpertContract
from snrouter.testing.metric import MetricContract
from snrouter.testing.policy import PolicyContract
from snrouter.testing.solver import SolverContract

__all__ = ["DatasetContract", "ExpertContract", "MetricContract", "PolicyContract", "SolverContract"]
