"""The five kinds of extension and their entry-point groups."""

from snrouter.plugins.registry import Registry

experts = Registry("expert", "snrouter.experts", "snrouter.experts.base:Expert")
policies = Registry("policy", "snrouter.policies", "snrouter.router.base:Policy")
solvers = Registry("solver", "snrouter.solvers", "snrouter.solvers.base:Solver")
metrics = Registry("metric", "snrouter.metrics", "snrouter.metrics.base:Metric")
datasets = Registry("dataset", "snrouter.datasets", "snrouter.data.base:ImageData")

REGISTRIES = {"experts": experts, "policies": policies, "solvers": solvers, "metrics": metrics, "datasets": datasets}
