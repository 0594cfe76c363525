"""Features of samples: found beside them, shard by shard, kept, and never found again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import CLASSIFIER, digits, made, values
from torch import Tensor, nn

from snrouter import evaluation, spec
from snrouter.evaluation.shards import Task, shards
from snrouter.metrics.features.base import Extractor, What
from snrouter.metrics.features.classifier import ClassifierFeatures
from snrouter.metrics.features.module import ModuleFeatures
from snrouter.metrics.frechet import Frechet


def of(*metrics: str, checkpoint: Path = CLASSIFIER) -> spec.Document:
    return digits(f"evaluate=[{', '.join(f'{{{metric}, checkpoint: {checkpoint}}}' for metric in metrics)}]")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples a network was given each time; two are a trial, and very many the reference."""
    seen: list[int] = []
    original = Extractor.outputs

    def watch(self: Extractor, images: Tensor, what: What = "features") -> dict[str, Tensor]:
        if 2 < len(images) < 100:
            seen.append(len(images))
        return original(self, images, what)

    monkeypatch.setattr(Extractor, "outputs", watch)
    return seen


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Shards of samples that are drawn."""
    seen: list[Task] = []
    original = evaluation.Worker.compute

    def count(self: evaluation.Worker, tasks: Sequence[Task], device: torch.device) -> list[dict[str, Tensor]]:
        seen.extend(tasks)
        return original(self, tasks, device)

    monkeypatch.setattr(evaluation.Worker, "compute", count)
    return seen


FID, KID, SCORE = ("metric: fid, samples: 13", "metric: kid, samples: 13", "metric: inception_score, samples: 13, splits: 2")


def test_a_network_sees_each_sample_once(tmp_path: Path, passes: list[int], drawn: list[Task]) -> None:
    first = evaluation.run(of(FID), tmp_path, progress=False)
    assert (passes, len(drawn)) == ([5, 5, 3], 3)
    passes.clear(), drawn.clear()
    assert values(evaluation.run(of(FID), tmp_path, progress=False)) == values(first)
    both = evaluation.run(of(KID, FID), tmp_path, progress=False)
    assert values(both)[1] == values(first)[0]
    assert (passes, drawn) == ([], [])  # nor did another metric of the same features need it
    evaluation.run(of(FID, SCORE), tmp_path, progress=False)
    assert (passes, drawn) == ([5, 5, 3], [])  # its logits
    evaluation.run(of(SCORE, FID), tmp_path / "at once", progress=False)
    assert passes == 2 * [5, 5, 3]  # with the features, where both are wanted


def test_another_network_sees_the_same_samples(tmp_path: Path, passes: list[int], drawn: list[Task]) -> None:
    other = tmp_path / "other.safetensors"
    save_file({name: 1.1 * tensor for name, tensor in load_file(CLASSIFIER).items()}, other)
    card = json.loads(CLASSIFIER.with_suffix(".json").read_text())
    other.with_suffix(".json").write_text(json.dumps({key: card[key] for key in card if key != "sha256"}))
    first = evaluation.run(of(FID), tmp_path, progress=False)
    passes.clear(), drawn.clear()
    second = evaluation.run(of(FID, checkpoint=other), tmp_path, progress=False)
    assert (passes, drawn) == ([5, 5, 3], [])
    assert first.fingerprint != second.fingerprint
    assert first.rows[0]["value"] != second.rows[0]["value"]


def test_a_shard_of_features_that_is_lost_is_made_again_alone(tmp_path: Path, passes: list[int], drawn: list[Task]) -> None:
    first = evaluation.run(of(FID), tmp_path, progress=False)
    tasks = shards(evaluation.plan(evaluation.Worker([evaluation.own_route(of(FID))])), 5, tmp_path)
    passes.clear(), drawn.clear()
    tasks[2].then[0].path.unlink()
    assert values(evaluation.run(of(FID), tmp_path, progress=False)) == values(first)
    assert (passes, drawn) == ([3], [])


def test_only_as_many_as_are_asked_for(tmp_path: Path, passes: list[int]) -> None:
    document = digits(
        f"evaluate=[{{metric: fid, samples: 3, checkpoint: {CLASSIFIER}}}, {{metric: kid, samples: 7, checkpoint: {CLASSIFIER}}}, "
        "{metric: nearest_neighbour, samples: 13}]"
    )
    (job,) = evaluation.plan(evaluation.Worker([evaluation.own_route(document)]))
    assert [(later.kind, later.what, later.count) for later in job.then] == [("features", "features", 10)]  # whole shards
    assert [[part.indices for part in task.then] for task in shards([job], 5, tmp_path)] == [[range(5)], [range(5, 10)], []]
    evaluation.run(document, tmp_path, progress=False)
    assert passes == [5, 5]


def test_what_is_kept_is_what_the_network_says_of_each_shard(tmp_path: Path) -> None:
    evaluation.run(of(FID), tmp_path, progress=False)
    (job,) = evaluation.plan(evaluation.Worker([evaluation.own_route(of(FID))]))
    images, network = made(of(FID), tmp_path, "samples")["images"], ClassifierFeatures(CLASSIFIER)
    for task in shards(job.then, 5, tmp_path):
        kept = load_file(task.path)
        assert torch.equal(kept[f"{network.key}/features"], network.outputs(images[list(task.indices)])["features"])
        assert kept["indices"].tolist() == list(task.indices)


class Means(nn.Module):
    """Two features, in the precision of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2] / 3


@pytest.mark.parametrize(("key", "kept"), [("means", torch.float32), (None, None)])
def test_a_network_of_ones_own(tmp_path: Path, key: str | None, kept: torch.dtype | None) -> None:
    """Kept where it has a key, in float32 where that loses nothing."""
    worker = evaluation.Worker([evaluation.own_route(of(FID))])
    worker.metrics = [Frechet(features=ModuleFeatures(Means(), key=key), samples=4)]
    (job,) = evaluation.plan(worker)
    assert len(job.then) == (kept is not None)
    for later in job.then:
        measured = {"images": torch.rand(4, 1, 8, 8)}
        (task,) = shards([later], 5, tmp_path)
        found = worker.extract(task, measured)["module means/features"]
        assert found.dtype == kept
        assert torch.equal(found, Means()(measured["images"]))
