"""Likelihood in bits/dim: dequantization, the variational bound and the exact ODE."""

from snrouter.metrics.likelihood.bits_per_dim import bits_per_dim
from snrouter.metrics.likelihood.estimate import Estimate, Term

__all__ = ["Estimate", "Term", "bits_per_dim"]
