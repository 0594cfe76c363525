"""Tasks of a study: a training, a search for the best route, or a cell's evaluation; each leaves a receipt when it is done."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from snrouter.evaluation import Launch, Worker, own_route, plain, run, tune
from snrouter.evaluation.processes import one_thread
from snrouter.files import write
from snrouter.metrics.base import Metric, PairMetric, RouteMetric
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.quiet import quiet_lightning
from snrouter.report import write_report
from snrouter.spec import Document
from snrouter.training import train_recipe

RESULTS = "results.json"
"""What a run leaves in its folder."""


@dataclass(frozen=True)
class Task(ABC):
    """Something to be done once, by one process.

    Attributes:
        what: a few words for a progress bar and for errors.
        document: the spec it is done with.
        folder: where it leaves what it makes.
        key: fingerprint of all that it depends on.
    """

    what: str
    document: Document
    folder: Path
    key: str

    @property
    def receipt(self) -> Path:
        """Written when it is done."""
        return self.folder / "done.json"

    @abstractmethod
    def work(self) -> dict[str, Any]:
        """Do it; returns what the receipt is to say, as plain data."""

    def carry_out(self) -> None:
        """Do it on the device that there is, with one thread on a CPU, and write the receipt."""
        started = time.perf_counter()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with one_thread(device), quiet_lightning():
            made = self.work()
        told = {"key": self.key, "seconds": time.perf_counter() - started, "made": made}
        write(self.receipt, json.dumps(plain(told), indent=2).encode())

    def made(self) -> dict[str, Any] | None:
        """The receipt, with `seconds` and what `work` returned as `made`; None where it is not done, or was done otherwise."""
        try:
            told = json.loads(self.receipt.read_text())
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) and told.get("key") == self.key else None


@dataclass(frozen=True)
class Train(Task):
    """Training of one recipe.

    Attributes:
        recipe: its name.
        shared: folder of what several recipes train alike.
    """

    recipe: str
    shared: Path

    def made(self) -> dict[str, Any] | None:
        """That of checkpoints that are gone does not count."""
        told = super().made()
        parts = [*told["made"]["experts"].values(), told["made"]["route"] or {}] if told else []
        files = [Path(part["checkpoint"]) for part in parts if "checkpoint" in part]
        return told if all(file.exists() for file in files if file.is_absolute()) else None

    def work(self) -> dict[str, Any]:
        """The experts and the route that were trained, and in how many steps."""
        found = train_recipe(
            self.document, self.recipe, self.folder, seed=self.document.spec.seed, shared=self.shared, progress=False
        )
        return {"experts": found.experts, "route": found.route, "steps": found.steps}


@dataclass(frozen=True)
class Find(Task):
    """Search for the best route.

    Attributes:
        limit: at most this many images and samples.
    """

    limit: int | None

    def work(self) -> dict[str, Any]:
        """The route that was found, its interval, and the network calls it took."""
        started = time.perf_counter()
        results = tune(self.document, self.folder, launch=Launch(), limit=self.limit, progress=False)
        assert results is not None  # there is one process
        told = results.extras["tune"]
        found = yaml.safe_load((self.folder / told["chosen"]["spec"]).read_text())
        profile = {"rows": told["network_calls"]["profile"], "images": sum(told["images"].values())}
        profile["seconds"] = time.perf_counter() - started
        return {"route": found["route"], "interval": found["interval"], "steps": {"profile": profile}}


@dataclass(frozen=True)
class Evaluate(Task):
    """Evaluation of one cell: an ordinary run.

    Attributes:
        limit: at most this many images and samples.
        alone: also by the metrics of the route itself, which need the machine for themselves.
    """

    limit: int | None
    alone: bool

    @property
    def receipt(self) -> Path:
        """One each with and without route metrics."""
        return self.folder / ("alone.json" if self.alone else "cell.json")

    def made(self) -> dict[str, Any] | None:
        """That of a run that is gone does not count."""
        return super().made() if (self.folder / RESULTS).exists() else None

    def carry_out(self) -> None:
        """Receipts of what this run takes the place of are gone before it begins, so that none is left beside other results."""
        for name in ("alone.json",) if self.alone else ("alone.json", "cell.json"):
            (self.folder / name).unlink(missing_ok=True)
        super().carry_out()

    def work(self) -> dict[str, Any]:
        """Metrics that were left out, and why."""
        route = own_route(self.document)
        obstacle = Worker([route]).expert(route).obstacle
        metrics = self.document.metrics()
        kept, left_out = [], {}
        for metric, written in zip(metrics, self.document.dump()["evaluate"], strict=True):
            if obstacle and needs_flow(metric):
                left_out[written["metric"]] = obstacle
            elif self.alone or not isinstance(metric, RouteMetric):
                kept.append(written)
        run(self.document.with_parts(evaluate=kept), self.folder, limit=self.limit, progress=False)
        write_report([self.folder])
        return {"left_out": left_out}


def needs_flow(metric: Metric) -> bool:
    """Whether it follows the flow from an image to noise, which only a route with an invertible one has."""
    reconstructs = isinstance(metric, PairMetric) and metric.pairs == "reconstruction"
    return reconstructs or (isinstance(metric, BitsPerDim) and metric.estimator == "ode")
