"""Worker: computes shards of jobs over routes; each process has one."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import PluginError, SpecError
from snrouter.evaluation.routes import Route
from snrouter.evaluation.shards import SHARED, Cells, Job, Kind, Task, tell_spent
from snrouter.evaluation.trace import Trace, Traced
from snrouter.experts.base import Expert
from snrouter.experts.checkpoints import Loaded
from snrouter.metrics.base import Context, DataMetric, Metric, RouteMetric, SampleMetric, Shared, network_calls
from snrouter.metrics.features.base import compact, found
from snrouter.plugins import entry_points as plugins
from snrouter.router.offload import Offloaded, Stage
from snrouter.router.routed_expert import RoutedExpert
from snrouter.search.profiling import measure_profile
from snrouter.solvers.base import Progress, Solution
from snrouter.solvers.fork import Forked
from snrouter.solvers.reconstruct import reconstruct
from snrouter.solvers.sample import sample_routes

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Of weights and states by the spec's precision; bfloat16 is for what networks compute while they draw."""


class Worker:
    """Computes shards; each process has one, and loads an expert when a shard first needs it.

    Args:
        routes: what may be asked.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self.spec = routes[0].document.spec
        self._experts: dict[str, Expert] = {}
        self._loaded: Loaded = {}
        self._stage = Stage()

    def __reduce__(self) -> tuple[type[Worker], tuple[Sequence[Route]]]:
        """Routes alone travel to other processes, which load their own images and experts."""
        return Worker, (self.routes,)

    @cached_property
    def metrics(self) -> list[Metric]:
        """Of `evaluate`, in order."""
        return self.routes[0].document.metrics()

    @cached_property
    def data(self) -> ImageData | None:
        """What is measured, where the spec gives it."""
        return self.routes[0].document.dataset("data")  # type: ignore[no-any-return]

    @cached_property
    def reference(self) -> ImageData | None:
        """What samples are compared with, where the spec gives it."""
        return self.routes[0].document.dataset("reference")  # type: ignore[no-any-return]

    @cached_property
    def slices(self) -> dict[str, Tensor]:
        """Which images of the data each of the spec's slices holds, bool [N]."""
        document, data = self.routes[0].document, self.data
        return {} if data is None else {name: document.members(name, data, self.reference) for name in self.spec.slices}

    @cached_property
    def identities(self) -> dict[str, dict[str, Any]]:
        """Of the experts of all routes, files by their hashes, and the reference by its own where an expert is made from it."""
        document, told = self.routes[0].document, dict[str, dict[str, Any]]()
        for name in self._names():
            told[name] = document.identity(plugins.experts, self.spec.experts[name], ("experts", name))
            if self.reference is not None and document.takes_reference(name):
                told[name]["reference"] = self.reference.content_hash()
        return told

    @cached_property
    def weights(self) -> dict[str, str | None]:
        """Hashes of what the experts of all routes are read from."""
        return {name: self.routes[0].document.weights_sha256(name) for name in self._names()}

    @property
    def dtype(self) -> torch.dtype:
        """Of networks and states."""
        return DTYPES[self.spec.precision]

    def precision(self, kind: Kind) -> str:
        """The spec's, but bfloat16 is for drawing alone: likelihoods keep float32."""
        return "float32" if kind in ("measure", "profile") and self.spec.precision == "bfloat16" else self.spec.precision

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

    def expert(self, route: Route, device: torch.device | str = "cpu") -> RoutedExpert:
        """The route over its experts, each loaded once, and on the device: all, or the one that runs."""
        policy, offloads = route.document.policy(), self.spec.residency == "offload"
        for name in policy.experts:
            if name not in self._experts:
                expert = route.document.expert(name, self._loaded).to(dtype=self.dtype)
                self._experts[name] = Offloaded(expert, self._stage) if offloads else expert
            if not offloads:
                self._experts[name].to(device)
        if policy.network is not None:  # small, so that it stays there
            policy.network.to(device=device, dtype=self.dtype)
        return RoutedExpert(self._experts, policy)

    def context(self, route: Route, device: torch.device | str = "cpu") -> Context:
        """What a metric sees of a route."""
        draw = partial(self._draw, route, device)
        shape = self.shape if self.spec.shape or self.data or self.reference else None
        return Context(route.bounds, route.document.solver(), self.data, self.reference, self.spec.seed, draw, shape, self.slices)

    @torch.no_grad()
    def compute(self, tasks: Sequence[Task], device: torch.device) -> list[dict[str, Tensor]]:
        """Per-index tensors [B, ...] of shards that are made together: of one kind and the same indices, on routes of one interval.

        Where routes share network calls, `spent` are those made for one and for none before it, and `after` says which that was.
        `seconds` divide the time of all in proportion to the calls that each takes alone.

        Raises:
            PluginError: when a metric does not measure a route that it is asked for.
        """
        job, indices = tasks[0].job, tasks[0].indices
        routes = [self.routes[task.job.route] for task in tasks]
        experts = {route.label: self.expert(route, device) for route in routes}
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision(job.kind) == "bfloat16"):
            if job.kind in SHARED:
                shared = (self._samples if job.kind == "samples" else self._measured)(job, routes[0], device, experts, indices)
                made = [shared.rows[label] for label in experts]
                tell_spent(tasks, made, [shared.spent[label] for label in experts])
            else:
                made = [self._alone(job, route, device, experts[route.label], indices) for route in routes]
        seconds = time.perf_counter() - started
        alone = [float(network_calls(rows).sum()) for rows in made]
        for rows, calls in zip(made, alone, strict=True):
            share = calls / sum(alone) if sum(alone) else 1 / len(made)
            rows["indices"] = torch.tensor(list(indices))
            rows["seconds"] = torch.full((len(indices),), seconds * share / len(indices))
        return made

    def extract(self, task: Task, measured: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
        """What a network finds in the samples of a shard, by the name that `found` gives it; kept in `measured` for the next."""
        metric = self.metrics[task.job.metric or 0]
        assert isinstance(metric, SampleMetric)
        extracts = metric.extracts()
        assert extracts is not None
        extractor, what = extracts
        return {f"{extractor.key}/{what}": compact(found(measured, extractor, what)), "indices": torch.tensor(list(task.indices))}

    def _names(self) -> list[str]:
        """Of the experts on some route."""
        return list(dict.fromkeys(name for route in self.routes for name in route.document.policy().experts))

    def _samples(
        self, job: Job, route: Route, device: torch.device, experts: Mapping[str, Expert], indices: Sequence[int]
    ) -> Shared:
        drawn = self._drawn(route, device, experts, indices)
        each = torch.ones(len(indices), dtype=torch.float64)
        rows = {label: _solved(solution) for label, solution in drawn.solutions.items()}
        return Shared(rows, {label: calls * each for label, calls in drawn.spent.items()})

    def _measured(
        self, job: Job, route: Route, device: torch.device, experts: Mapping[str, Expert], indices: Sequence[int]
    ) -> Shared:
        context, metric = self.context(route, device), self.metrics[job.metric or 0]
        assert isinstance(metric, DataMetric)
        images, condition = self._images(context, device, indices)
        shared = metric.measure_routes(context, experts, images, indices, condition)
        lacking = experts.keys() - (shared.rows.keys() & shared.spent.keys())
        if lacking:
            raise PluginError(f"metric {job.what!r}: measure_routes gave nothing of {', '.join(sorted(lacking))}; give every route")
        return shared

    def _alone(self, job: Job, route: Route, device: torch.device, expert: Expert, indices: Sequence[int]) -> dict[str, Tensor]:
        """Of the kinds that no two routes share."""
        context = self.context(route, device)
        if job.kind == "trace":
            trace = Trace(route.bounds)
            return _solved(self._draw(route, device, Traced(expert, trace), indices, trace.step)) | trace.rows()
        if job.kind == "reconstructions":
            return _solved(self._reconstruct(context, device, expert, indices))
        if job.cells is not None:
            return self._profile(job.cells, context, device, indices)
        metric = self.metrics[job.metric or 0]
        assert isinstance(metric, RouteMetric)
        return {name: rows[: len(indices)] for name, rows in metric.measure(context, expert).items()}

    def _draw(
        self,
        route: Route,
        device: torch.device | str,
        expert: Expert,
        indices: Sequence[int],
        progress: Progress | Literal[False] = False,
    ) -> Solution:
        return self._drawn(route, device, {route.label: expert}, indices, progress).solutions[route.label]

    def _drawn(
        self,
        route: Route,
        device: torch.device | str,
        experts: Mapping[str, Expert],
        indices: Sequence[int],
        progress: Progress | Literal[False] = False,
    ) -> Forked:
        return sample_routes(
            experts,
            len(indices),
            self.shape,
            route.bounds,
            route.document.solver(),
            self.spec.seed,
            indices=indices,
            condition=self._sample_labels(indices, device),
            final=self.spec.final,
            levels=self.levels,
            dtype=self.dtype,
            device=device,
            progress=progress,
        )

    def _reconstruct(self, context: Context, device: torch.device, expert: Expert, indices: Sequence[int]) -> Solution:
        images, condition = self._images(context, device, indices)
        return reconstruct(
            expert,
            images,
            context.bounds,
            context.solver,
            indices=indices,
            condition=condition,
            final=self.spec.final,
            levels=self.levels,
            seed=self.spec.seed,
        )

    def _profile(self, cells: Cells, context: Context, device: torch.device, indices: Sequence[int]) -> dict[str, Tensor]:
        """Of the experts of all routes; those that take turns on the device one after the other."""
        images, condition = self._images(context, device, indices)
        experts = {route.label: self.expert(route, device) for route in self.routes}
        groups = [{name: expert} for name, expert in experts.items()] if self.spec.residency == "offload" else [experts]
        rows: dict[str, Tensor] = {}
        for group in groups:
            rows |= measure_profile(
                group,
                images,
                torch.tensor(cells.edges, dtype=torch.float64),
                levels=cells.levels,
                gamma_min=cells.gamma_min,
                seed=self.spec.seed,
                repeat=cells.repeat,
                indices=indices,
                condition=condition,
            ).rows()
        return rows

    def _images(self, context: Context, device: torch.device, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Images of the data, and their labels where the spec conditions on them."""
        data, rows = context.need("data"), list(indices)
        condition = _labels(data)[rows].to(device) if self.spec.condition == "labels" else None
        return data.images(rows, self.dtype).to(device), condition

    def _sample_labels(self, indices: Sequence[int], device: torch.device | str) -> Tensor | None:
        if self.spec.condition == "none":
            return None
        labels = _labels(self.data)
        chosen = (Draws(self.spec.seed).uniform("label", indices, ()) * len(labels)).long()
        return labels[chosen].to(device)


def _solved(solution: Solution) -> dict[str, Tensor]:
    """Images, and the network calls each took."""
    assert solution.x is not None
    each = torch.ones(len(solution.x), dtype=torch.float64)
    return {"images": solution.x} | {f"nfe/{name}": calls * each for name, calls in solution.nfe_per_expert.items()}


def _labels(data: ImageData | None) -> Tensor:
    if data is None or data.labels is None:
        raise SpecError("condition: labels needs data with labels; give such a dataset, or set condition: none")
    return data.labels
