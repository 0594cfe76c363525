"""The five kinds of extension and their entry-point groups."""

from snrouter.plugins.registry import Registry

experts = Registry("expert", "snrouter.experts")
policies = Registry("policy", "snrouter.policies")
solvers = Registry("solver", "snrouter.solvers")
metrics = Registry("metric", "snrouter.metrics")
datasets = Registry("dataset", "snrouter.datasets")

REGISTRIES = {"experts": experts, "policies": policies, "solvers": solvers, "metrics": metrics, "datasets": datasets}
