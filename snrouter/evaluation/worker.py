"""Worker: computes shards of jobs over routes; each process has one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.evaluation.routes import Route
from snrouter.evaluation.shards import Job, Task, environment_identity, fingerprint
from snrouter.experts.base import Expert
from snrouter.metrics.base import Context, DataMetric, Metric, SampleMetric
from snrouter.plugins import entry_points as plugins
from snrouter.router.routed_expert import RoutedExpert
from snrouter.solvers.sample import sample

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Worker:
    """Computes shards; each process has one, and loads an expert when a shard first needs it.

    Args:
        routes: what may be asked.
        limit: at most this many indices a job.
    """

    def __init__(self, routes: Sequence[Route], limit: int | None = None) -> None:
        self.routes = routes
        self.limit = limit
        self.spec = routes[0].document.spec
        self.metrics: list[Metric] = routes[0].document.metrics()
        self.data: ImageData | None = routes[0].document.dataset("data")
        self.reference: ImageData | None = routes[0].document.dataset("reference")
        self._experts: dict[str, Expert] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Experts do not travel to other processes, which load their own."""
        return self.__dict__ | {"_experts": {}}

    def expert(self, route: Route, device: torch.device | str = "cpu") -> RoutedExpert:
        """The route over its experts, each loaded once."""
        policy = route.document.policy()
        for name in policy.experts:
            if name not in self._experts:
                self._experts[name] = route.document.expert(name)
            self._experts[name].to(device=device, dtype=_DTYPES[self.spec.precision])
        return RoutedExpert(self._experts, policy)

    def context(self, route: Route) -> Context:
        """What a metric sees of a route."""
        return Context(route.bounds, route.document.solver(), self.data, self.reference, self.spec.seed)

    def jobs(self) -> list[Job]:
        """Every job of every route: samples once, as many as the metric that wants most, then each data metric."""
        jobs = []
        for number, route in enumerate(self.routes):
            counts = [self._count(route, i) for i in range(len(self.metrics))]
            kinds = list(zip(self.metrics, counts, strict=True))
            wanted = [count for metric, count in kinds if isinstance(metric, SampleMetric)]
            if wanted:
                jobs.append(self.job("samples", number, None, self._limited(max(wanted))))
            for i, (metric, count) in enumerate(kinds):
                if isinstance(metric, DataMetric):
                    jobs.append(self.job("measure", number, i, self._limited(count)))
        return jobs

    def job(self, kind: Literal["samples", "measure"], number: int, metric: int | None, count: int) -> Job:
        """A job with its fingerprint."""
        route = self.routes[number]
        document, spec = route.document, self.spec
        depends: dict[str, Any] = {
            "kind": kind,
            "experts": {
                name: document.identity(plugins.experts, spec.experts[name], ("experts", name))
                for name in document.policy().experts
            },
            "route": [repr(document.policy()), route.document.spec.route.name],
            "bounds": list(route.bounds),
            "solver": repr(document.solver()),
            "condition": spec.condition,
            "packages": document.packages(),
            **environment_identity(spec.seed, spec.batch_size, spec.precision),
        }
        if kind == "samples":
            depends |= {"final": spec.final, "levels": self.levels, "shape": list(self.shape)}
        elif metric is not None:
            depends["metric"] = document.identity(plugins.metrics, spec.evaluate[metric], ("evaluate", metric))
            depends["reference"] = self.reference.content_hash() if self.reference is not None else None
        if self.data is not None and (kind == "measure" or spec.condition == "labels"):
            depends["data"] = self.data.content_hash()
        return Job(kind, number, metric, count, fingerprint(depends))

    def fingerprint(self, jobs: Sequence[Job]) -> str:
        """Fingerprint of everything that the results of these jobs depend on."""
        document = self.routes[0].document
        metrics = [document.identity(plugins.metrics, c, ("evaluate", i)) for i, c in enumerate(self.spec.evaluate)]
        reference = self.reference.content_hash() if self.reference else None
        return fingerprint({"jobs": [[job.key, job.count] for job in jobs], "metrics": metrics, "reference": reference})

    @property
    def levels(self) -> int:
        """Levels of the data, or of the reference, or 256."""
        source = self.data or self.reference
        return (source.levels if source else None) or 256

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample.

        Raises:
            SpecError: when neither `shape` nor data say it.
        """
        source = self.data or self.reference
        if self.spec.shape is not None:
            return self.spec.shape
        if source is None:
            raise SpecError("sampling needs the shape of an image; add data, or e.g. shape: [3, 32, 32]")
        return source.shape

    @torch.no_grad()
    def compute(self, task: Task, device: torch.device) -> dict[str, Tensor]:
        """Per-index tensors [B, ...] of one shard."""
        route = self.routes[task.job.route]
        context = self.context(route)
        expert = self.expert(route, device)
        dtype = _DTYPES[self.spec.precision]
        started = time.perf_counter()
        if task.job.kind == "samples":
            solution = sample(
                expert,
                len(task.indices),
                self.shape,
                route.bounds,
                context.solver,
                self.spec.seed,
                indices=task.indices,
                condition=self._sample_labels(task.indices, device),
                final=self.spec.final,
                levels=self.levels,
                dtype=dtype,
                device=device,
            )
            assert solution.x is not None
            measured = {"images": solution.x}
            measured |= {
                f"nfe/{name}": torch.full((len(task.indices),), calls, dtype=torch.float64)
                for name, calls in solution.nfe_per_expert.items()
            }
        else:
            metric = self.metrics[task.job.metric or 0]
            assert isinstance(metric, DataMetric)
            data = context.need("data")
            rows = list(task.indices)
            condition = None
            if self.spec.condition == "labels":
                condition = _labels(data)[rows].to(device)
            images = data.images(rows, dtype).to(device)
            measured = metric.measure(context, expert, images, task.indices, condition)
        measured["indices"] = torch.tensor(list(task.indices))
        measured["seconds"] = torch.full((len(task.indices),), (time.perf_counter() - started) / len(task.indices))
        return measured

    def _count(self, route: Route, metric: int) -> int:
        """How many indices a metric asks for; a fault in it is told by its place in the spec."""
        return int(route.document.at(("evaluate", metric), lambda: self.metrics[metric].count(self.context(route))))

    def _limited(self, count: int) -> int:
        return count if self.limit is None else min(count, self.limit)

    def _sample_labels(self, indices: range, device: torch.device) -> Tensor | None:
        if self.spec.condition == "none":
            return None
        labels = _labels(self.data)
        chosen = (Draws(self.spec.seed).uniform("label", indices, ()) * len(labels)).long()
        return labels[chosen].to(device)


def _labels(data: ImageData | None) -> Tensor:
    if data is None or data.labels is None:
        raise SpecError("condition: labels needs data with labels; give such a dataset, or set condition: none")
    return data.labels
