"""Evaluation: a spec's metrics, computed in shards on any number of devices by Lightning, and written as results.

A run is a list of jobs (draw samples, or measure a metric on data), each cut into shards of `batch_size` consecutive indices, the
same for any number of processes; rank r takes shards[r::world]. A shard is written atomically under its job's fingerprint and is
not computed again. Draws are keyed by (seed, index), so results are the same bit for bit on one process or several.
On a CPU every process runs one thread, so that results do not depend on how many share the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from snrouter.data.base import ImageData
from snrouter.draws import Draws
from snrouter.errors import OutputError, SnrouterError, SpecError
from snrouter.experts.base import Expert
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context, DataMetric, Metric, SampleMetric
from snrouter.metrics.likelihood.estimate import standard_error
from snrouter.plugins import entry_points as plugins
from snrouter.quiet import quiet_lightning, silence_lightning
from snrouter.router.routed_expert import RoutedExpert
from snrouter.search.frontier import best, frontier
from snrouter.solvers.base import smooth_pieces
from snrouter.solvers.sample import sample
from snrouter.spec import Document

FORMAT = 1
"""Version of results.json."""

SHOWN = 16
"""Samples a route that are kept in samples.safetensors for the report."""

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Route:
    """One route to evaluate: its spec, what a person calls it, and where it runs.

    Attributes:
        label: e.g. "eta=0.2" or "quality".
        document: the spec with this route.
        bounds: the interval it runs on: the spec's, or a lone expert's own support.
        columns: columns of its result rows.
    """

    label: str
    document: Document
    bounds: GammaInterval
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """Something to compute for every index of one route.

    Attributes:
        kind: draw samples, or measure the metric at `metric` of the spec's `evaluate`.
        route: number of the route.
        metric: position in `evaluate`; None for samples.
        count: number of indices, 0 ... count - 1.
        key: fingerprint of everything that its result depends on.
    """

    kind: Literal["samples", "measure"]
    route: int
    metric: int | None
    count: int
    key: str

    def shards(self, size: int) -> list[range]:
        """Blocks of consecutive indices."""
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]


@dataclass(frozen=True)
class Task:
    """One shard of one job."""

    job: Job
    indices: range
    path: Path


@dataclass
class Results:
    """What a run gives.

    Attributes:
        rows: one a route and metric.
        document: the spec.
        fingerprint: of the whole run.
        partial: whether a limit cut it short.
        extras: of a sweep: `frontier` (rows no other beats) and `best`.
        samples: images by route label, [n, C, H, W] in [-1, 1].
        folder: where it was written.
    """

    rows: list[dict[str, Any]]
    document: Document
    fingerprint: str
    partial: bool
    extras: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)

    def as_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "spec": self.document.dump(),
            "partial": self.partial,
            "results": self.rows,
            **self.extras,
        }


# --- public ----------------------------------------------------------------------------------------------------------


def run(document: Document, out: Path, *, devices: int | str = 1, limit: int | None = None, progress: bool = True) -> Results:
    """Evaluate the spec's route with every metric of `evaluate`.

    Args:
        document: the spec.
        out: folder for results, samples and shards; shards already there are used.
        devices: number of processes or accelerators, or "auto": one a core on a CPU, as many as there are shards.
        limit: use at most this many images and samples, and stamp the results partial.
        progress: show a progress bar on standard error.

    Raises:
        SpecError: when the spec is wrong or asks for nothing.
        OutputError: when the folder cannot be written.
        SnrouterError: when an expert or solver fails; shards already written stay.
    """
    return _evaluate(document, [own_route(document)], out, devices, limit, progress)


def sweep(document: Document, out: Path, *, devices: int | str = 1, limit: int | None = None, progress: bool = True) -> Results:
    """Evaluate the spec's threshold route at every switch of `sweep`, and each of its experts alone on its own support.

    All routes see the same images, times and noise, so that their differences are paired. Arguments and errors as `run`.
    """
    route = document.spec.route
    if route.name != "threshold":
        raise SpecError(f"sweep needs route {{type: threshold, ...}}, got {route.name!r}; write the two experts as low and high")
    routes = []
    for switch in document.switches():
        eta = document.bounds.eta(switch)
        changed = document.with_route({**route.model_dump(), "switch": switch})
        columns = {"route": "threshold", "eta": round(eta, 10), "gamma_switch": switch}
        routes.append(Route(f"eta={eta:.3g}", changed, document.bounds, columns))
    if document.spec.sweep is not None and document.spec.sweep.singles:
        for name in dict.fromkeys((route.arguments["low"], route.arguments["high"])):
            support = document.expert(name).support
            columns = {"route": "single", "expert": name, "interval": "own support"}
            routes.append(Route(name, document.with_route({"type": "single", "expert": name}), support, columns))
    return _evaluate(document, routes, out, devices, limit, progress)


def draw(document: Document, n: int, out: Path, *, devices: int | str = 1, progress: bool = True) -> Tensor:
    """Draw n images [n, C, H, W] with the spec's route into samples.safetensors; arguments and errors as `run`."""
    if n < 1:
        raise SpecError(f"n: expected at least 1 sample, got {n}")
    route = own_route(document)
    worker = Worker([route])
    smooth_pieces(route_expert(route), route.bounds, "sample")
    job = worker.job("samples", 0, None, n)
    _prepare(out)
    _compute(worker, [job], out, devices, progress)
    images = _collect(job, document.spec.batch_size, out)["images"]
    save_shard(out / "samples.safetensors", {route.label: images})
    return images


# --- jobs ------------------------------------------------------------------------------------------------------------


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

    def context(self, route: Route) -> Context:
        """What a metric sees of a route."""
        return Context(route.bounds, route.document.solver(), self.data, self.reference, self.spec.seed)

    def jobs(self) -> list[Job]:
        """Every job of every route: samples once, as many as the metric that wants most, then each data metric."""
        jobs = []
        for number, route in enumerate(self.routes):
            context = self.context(route)
            wanted = [metric.count(context) for metric in self.metrics if isinstance(metric, SampleMetric)]
            if wanted:
                jobs.append(self.job("samples", number, None, self._limited(max(wanted))))
            for i, metric in enumerate(self.metrics):
                if isinstance(metric, DataMetric):
                    jobs.append(self.job("measure", number, i, self._limited(metric.count(context))))
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
            **environment_identity(spec.seed, spec.batch_size, spec.precision),
        }
        if kind == "samples":
            depends |= {"final": spec.final, "levels": self.levels, "shape": list(self.shape)}
        elif metric is not None:
            depends["metric"] = document.identity(plugins.metrics, spec.evaluate[metric], ("evaluate", metric))
        if self.data is not None and (kind == "measure" or spec.condition == "labels"):
            depends["data"] = self.data.content_hash()
        return Job(kind, number, metric, count, fingerprint(depends))

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
        expert = self._route_expert(route, device)
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

    def _limited(self, count: int) -> int:
        return count if self.limit is None else min(count, self.limit)

    def _route_expert(self, route: Route, device: torch.device) -> Expert:
        policy = route.document.policy()
        for name in policy.experts:
            if name not in self._experts:
                self._experts[name] = route.document.expert(name).to(device=device, dtype=_DTYPES[self.spec.precision])
        return RoutedExpert(self._experts, policy)

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


def own_route(document: Document) -> Route:
    """The spec's route, on the spec's interval."""
    component, policy = document.spec.route, document.policy()
    columns: dict[str, Any] = {"route": component.name}
    label = component.name
    if len(policy.seams) == 1:
        columns |= {"eta": round(document.bounds.eta(policy.seams[0]), 10), "gamma_switch": policy.seams[0]}
        label = f"eta={columns['eta']:.3g}"
    elif not policy.seams:
        columns["expert"] = label = ", ".join(policy.experts)
    else:
        columns["gamma_switches"] = list(policy.seams)
    return Route(label, document, document.bounds, columns)


# --- processes -------------------------------------------------------------------------------------------------------


class _Shards(LightningModule):
    """Lightning's view of the work: a prediction a shard, written by the process that made it."""

    def __init__(self, worker: Worker, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.worker = worker
        self.tasks = tasks
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer shards than processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        silence_lightning()  # a spawned process begins here
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def predict_dataloader(self) -> DataLoader[int]:
        mine = list(range(self.trainer.global_rank, len(self.tasks), self.trainer.world_size))
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, number: int, index: int) -> int:
        task = self.tasks[number]
        with _one_thread(self.device):
            try:
                measured = self.worker.compute(task, self.device)
            except Exception as error:
                # across processes only a file carries an error's type
                _write(task.path.parent.parent / "error.json", json.dumps([type(error).__name__, str(error)]).encode())
                raise
        save_shard(task.path, measured)
        return number


class _Bar(Callback):
    """Progress over the shards of every process, told by the first."""

    def __init__(self, tasks: Sequence[Task], labels: Sequence[str]) -> None:
        self.tasks = tasks
        self.labels = labels
        self.bar: Any = None

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description:28}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("evaluating", total=len(self.tasks))

    def on_predict_batch_start(self, trainer: Trainer, module: LightningModule, number: int, *_: Any) -> None:
        if self.bar is not None:
            job = self.tasks[number].job
            what = "samples" if job.kind == "samples" else "likelihood"
            self.bar.update(self.task, description=f"{self.labels[job.route]}: {what}")

    def on_predict_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=sum(task.path.exists() for task in self.tasks))

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.on_predict_end(trainer, module)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compute(worker: Worker, jobs: Sequence[Job], out: Path, devices: int | str, progress: bool) -> None:
    """Compute every shard that is not on disk."""
    size = worker.spec.batch_size
    tasks = [Task(job, shard, shard_path(out, job, shard)) for job in jobs for shard in job.shards(size)]
    missing = [task for task in tasks if not task.path.exists()]
    if not missing:
        return
    error_file = out / "shards" / "error.json"
    error_file.unlink(missing_ok=True)
    on_cpu = not torch.cuda.is_available()
    if devices == "auto":
        devices = min((os.cpu_count() or 1) if on_cpu else torch.cuda.device_count(), len(missing))
    count = int(devices)
    if count < 1:
        raise SpecError(f"devices: expected at least 1 or auto, got {devices}")
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu" if on_cpu else "gpu",
            devices=count,
            strategy="auto" if count == 1 else "ddp_spawn",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,  # likelihoods differentiate the network
            callbacks=[_Bar(missing, [route.label for route in worker.routes])] if progress else [],
        )
        try:
            trainer.predict(_Shards(worker, missing), return_predictions=False)
        except Exception:
            if count > 1 and error_file.exists():
                _raise_from(error_file)
            raise


def _raise_from(error_file: Path) -> None:
    import snrouter.errors

    name, message = json.loads(error_file.read_text())
    error_file.unlink()
    ours = getattr(snrouter.errors, name, None)
    raise ours(message) if ours else SnrouterError(f"{name}: {' '.join(message.split())} (in a process that computes shards)")


# --- files -----------------------------------------------------------------------------------------------------------


def fingerprint(content: Any) -> str:
    """Short SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def environment_identity(seed: int, batch_size: int, precision: str) -> dict[str, Any]:
    """What results depend on beside the spec's components."""
    return {
        "seed": seed,
        "batch_size": batch_size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu {platform.machine()}",
        "snrouter": version("snrouter"),
        "torch": torch.__version__,
    }


def shard_path(out: Path, job: Job, shard: range) -> Path:
    """Where a shard lies."""
    return out / "shards" / job.key / f"{shard.start:08d}-{shard.stop:08d}.safetensors"


def save_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard atomically.

    Raises:
        OutputError: when it cannot be written.
    """
    from safetensors.torch import save

    _write(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}))


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free space or choose another folder, then run again") from None


def _prepare(out: Path) -> None:
    """Make the run's folder, and find out now whether it can be written."""
    probe = out / ".writable"
    _write(probe, b"")
    probe.unlink(missing_ok=True)


def _collect(job: Job, size: int, out: Path) -> dict[str, Tensor]:
    """All shards of a job in index order, every index exactly once."""
    from safetensors.torch import load_file

    parts = [load_file(shard_path(out, job, shard)) for shard in job.shards(size)]
    names = {name: next(part[name] for part in parts if name in part) for part in parts for name in part}
    joined = {
        name: torch.cat([part.get(name, torch.zeros(len(part["indices"]), *like.shape[1:], dtype=like.dtype)) for part in parts])
        for name, like in names.items()
    }
    if joined["indices"].tolist() != list(range(job.count)):
        raise SnrouterError(f"shards under {shard_path(out, job, range(0)).parent} do not hold each index once; delete that folder")
    return joined


# --- results ---------------------------------------------------------------------------------------------------------


def _evaluate(
    document: Document, routes: Sequence[Route], out: Path, devices: int | str, limit: int | None, progress: bool
) -> Results:
    if not document.spec.evaluate:
        raise SpecError("nothing to evaluate; add e.g. evaluate: [{metric: bpd, estimator: vlb}]")
    if limit is not None and limit < 1:
        raise SpecError(f"limit: expected at least 1, got {limit}")
    worker = Worker(routes, limit)
    for route in routes:  # refuse an impossible route before anything is computed
        smooth_pieces(route_expert(route), route.bounds, "sample")
    jobs = worker.jobs()
    _prepare(out)
    _compute(worker, jobs, out, devices, progress)
    rows, influences, samples = _summarise(worker, jobs, out)
    results = Results(rows, document, fingerprint([job.key for job in jobs]), limit is not None, samples=samples, folder=out)
    if len(routes) > 1:
        _compare(results, influences)
    write_results(results)
    return results


def route_expert(route: Route) -> RoutedExpert:
    """Load the experts of a route and merge them."""
    policy = route.document.policy()
    return RoutedExpert({name: route.document.expert(name) for name in policy.experts}, policy)


def _summarise(
    worker: Worker, jobs: Sequence[Job], out: Path
) -> tuple[list[dict[str, Any]], list[Tensor | None], dict[str, Tensor]]:
    rows: list[dict[str, Any]] = []
    influences: list[Tensor | None] = []
    samples: dict[str, Tensor] = {}
    size = worker.spec.batch_size
    for job in jobs:
        route = worker.routes[job.route]
        context = worker.context(route)
        measured = _collect(job, size, out)
        if job.kind == "samples":
            samples[route.label] = measured["images"]
            wanted: list[int] = [i for i, metric in enumerate(worker.metrics) if isinstance(metric, SampleMetric)]
        else:
            wanted = [job.metric or 0]
        nfe = {name.removeprefix("nfe/"): float(v.mean()) for name, v in measured.items() if name.startswith("nfe/")}
        for i in wanted:
            summary = worker.metrics[i].summarise(context, measured)
            shared = {
                "solver": repr(context.solver) if job.kind == "samples" else None,
                "final": worker.spec.final if job.kind == "samples" else None,
                "gamma_min": route.bounds.gamma_min,
                "gamma_max": route.bounds.gamma_max,
                "data": worker.data.name if worker.data and job.kind == "measure" else None,
                "data_sha256": worker.data.content_hash() if worker.data and job.kind == "measure" else None,
                **environment_identity(worker.spec.seed, size, worker.spec.precision),
            }
            rows.append(
                {
                    "metric": worker.spec.evaluate[i].name,
                    **summary.columns,
                    "label": route.label,
                    **route.columns,
                    "value": summary.value,
                    "standard_error": summary.standard_error,
                    "n": len(summary.influence) if summary.influence is not None else job.count,
                    "nfe": sum(nfe.values()),
                    "nfe_per_expert": nfe,
                    "seconds": float(measured["seconds"].sum()),
                    **({"terms": summary.terms} if summary.terms else {}),
                    "protocol": {k: v for k, v in (shared | dict(summary.protocol)).items() if v is not None},
                }
            )
            influences.append(summary.influence)
    return rows, influences, samples


def _compare(results: Results, influences: Sequence[Tensor | None]) -> None:
    """Add to each row its paired differences to the single experts; then the frontier and the best route."""
    spec = results.document.spec
    columns = [i for i, metric in enumerate(spec.evaluate)]
    per_route = len(columns)
    rows = results.rows
    for i, row in enumerate(rows):
        own = influences[i]
        for j, other in enumerate(rows):
            theirs = influences[j]
            same = i % per_route == j % per_route and other["route"] == "single" and i != j
            if same and own is not None and theirs is not None:
                row.setdefault("paired", {})[other["label"]] = {
                    "difference": row["value"] - other["value"],
                    "standard_error": standard_error(own - theirs),
                }
    results.extras |= _trade_off(rows, spec.sweep.quality_tolerance if spec.sweep else 0.0)


def _trade_off(rows: Sequence[Mapping[str, Any]], tolerance: float) -> dict[str, Any]:
    labels = list(dict.fromkeys(row["label"] for row in rows))
    first = {name: {row["label"]: row for row in reversed(rows) if row["metric"] == name} for name in ("bpd", "fid")}
    if not all(first.values()):
        return {}
    points = [(first["bpd"][label]["value"], first["fid"][label]["value"]) for label in labels]
    singles = [point for label, point in zip(labels, points, strict=True) if first["bpd"][label]["route"] == "single"]
    limit = min((quality for _, quality in singles), default=min(quality for _, quality in points)) + tolerance

    def named(i: int) -> dict[str, Any]:
        return {"label": labels[i], "bpd": points[i][0], "fid": points[i][1]}

    chosen = best(points, limit)
    front = [named(i) for i in frontier(points)]
    return {"frontier": front} | ({} if chosen is None else {"best": named(chosen) | {"fid_limit": limit}})


def write_results(results: Results) -> None:
    """Write results.json, the resolved spec, the environment and the first samples of each route into the run's folder."""
    import yaml
    from safetensors.torch import save

    out = results.folder
    if results.samples:
        _write(out / "samples.safetensors", save({label: images[:SHOWN].contiguous() for label, images in results.samples.items()}))
    _write(out / "results.json", json.dumps(plain(results.as_dict()), indent=2).encode())
    _write(out / "spec.yaml", yaml.safe_dump(results.document.dump(), sort_keys=False).encode())
    packages = {name: version(name) for name in ("snrouter", "torch", "lightning", "torchdiffeq", "scipy", "numpy")}
    environment = {"python": platform.python_version(), "platform": platform.platform(), "packages": packages}
    _write(out / "environment.json", json.dumps(environment, indent=2).encode())


def plain(value: Any) -> Any:
    """JSON has no NaN: a number that is none becomes null."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not torch.isfinite(torch.tensor(value)) else value
