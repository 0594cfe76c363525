"""Small runs on the embedded digits, and what they are compared by."""

from pathlib import Path
from typing import Any

import torch

import snrouter.embedded
from snrouter import evaluation, spec
from snrouter.evaluation.shards import collect

SMALL = (
    "evaluate.0.times=2",
    "evaluate.0.images=10",
    "evaluate.1.samples=12",
    "solver={type: heun, steps: 3}",
    "batch_size=5",
    "sweep.switches=[{eta: 0.2}, {eta: 0.5}]",
)

CLASSIFIER = Path(snrouter.embedded.__file__).with_name("digits-classifier.safetensors")


def digits(*overrides: str) -> spec.Document:
    """Ten images, twelve samples, shards of five."""
    return spec.load("digits", [*SMALL, *overrides])


def values(results: evaluation.Results) -> list[tuple[Any, ...]]:
    """The numbers of a run."""
    return [(row["metric"], row["label"], row["value"], row["standard_error"]) for row in results.rows]


def made(document: spec.Document, out: Path, kind: str) -> dict[str, torch.Tensor]:
    """What the first job of that kind made, from the shards of a run."""
    job = next(job for job in evaluation.plan(evaluation.Worker([evaluation.own_route(document)])) if job.kind == kind)
    return collect(job, document.spec.batch_size, out)
