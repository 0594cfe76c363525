"""Shards: never computed twice, whole or absent, and started over when asked."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_runs import CLASSIFIER, digits, values

from snrouter import evaluation
from snrouter.errors import DamagedError, NonFiniteError, OutputError
from snrouter.evaluation.shards import Task, load_shard, save_shard, shards


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Every task that is computed."""
    seen: list[Task] = []
    compute, extract = evaluation.Worker.compute, evaluation.Worker.extract

    def counted(self: evaluation.Worker, tasks: Sequence[Task], device: torch.device) -> list[dict[str, torch.Tensor]]:
        seen.extend(tasks)
        return compute(self, tasks, device)

    def found(self: evaluation.Worker, task: Task, measured: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(task)
        return extract(self, task, measured)

    monkeypatch.setattr(evaluation.Worker, "compute", counted)
    monkeypatch.setattr(evaluation.Worker, "extract", found)
    return seen


EVERY_KIND = (
    "evaluate=[{metric: bpd, estimator: vlb, times: 1, images: 6}, {metric: psnr, images: 6}, "
    f"{{metric: fid, samples: 6, checkpoint: {CLASSIFIER}}}, {{metric: cost, batch: 2, repetitions: 2, warmup: 1}}]"
)


def test_shards_on_disk_are_not_computed_again(tmp_path: Path, computed: list[Task]) -> None:
    first = evaluation.run(digits(), tmp_path, progress=False)
    computed.clear()
    assert values(evaluation.run(digits(), tmp_path, progress=False)) == values(first)
    assert computed == []
    for lost in {path.parent: path for path in (tmp_path / "shards").rglob("*.safetensors")}.values():  # one a job
        lost.unlink()
        computed.clear()
        repaired = evaluation.run(digits(), tmp_path, progress=False)
        assert [task.path for task in computed] == [lost]
        assert values(repaired) == values(first)
    computed.clear()
    evaluation.run(digits("seed=1"), tmp_path, progress=False)
    assert len(computed) > 1  # another seed shares no shard


def test_jobs_of_every_kind_go_on_and_start_over_when_asked(tmp_path: Path, computed: list[Task]) -> None:
    document = digits(EVERY_KIND)
    first = evaluation.run(document, tmp_path, trace=True, progress=False)
    counts = {"measure": 2, "reconstructions": 2, "samples": 2, "features": 2, "trace": 1, "route": 1}
    assert {kind: [task.job.kind for task in computed].count(kind) for kind in counts} == counts
    assert computed[-1].job.kind == "route"  # when all else is done
    done = list(computed)
    computed.clear()
    assert values(evaluation.run(document, tmp_path, trace=True, progress=False)) == values(first)  # times, too, are kept
    assert computed == []
    evaluation.run(digits("seed=1"), tmp_path, progress=False)
    others = set((tmp_path / "shards").rglob("*.safetensors")) - {task.path for task in done}
    more = done[0].path.with_name("00000006-00000008.safetensors")
    more.write_bytes(b"of a run on more images")
    before = {path: path.stat().st_mtime_ns for path in others}
    computed.clear()
    again = evaluation.run(document, tmp_path, fresh=True, trace=True, progress=False)
    assert [task.path for task in computed] == [task.path for task in done]
    assert not more.exists()
    assert {path: path.stat().st_mtime_ns for path in others} == before
    assert values(again)[:3] == values(first)[:3]
    assert values(again)[3] != values(first)[3]  # measured again


@pytest.mark.parametrize("written", [0, 2])
def test_a_full_disk_stops_with_one_line_and_nothing_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    original, room = Path.write_bytes, [written + 1]  # the first finds out whether the folder can be written

    def full(self: Path, content: bytes) -> int:
        if room[0] == 0:
            original(self, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return original(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot be written \(.*No space left on device\); free space") as failure:
        evaluation.run(digits(), tmp_path, progress=False)
    assert "\n" not in str(failure.value)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(kept) == written
    rerun = evaluation.run(digits(), tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert values(rerun) == values(evaluation.run(digits(), tmp_path / "undisturbed", progress=False))


def test_an_unwritable_folder_is_found_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        evaluation.run(digits(), tmp_path / "file" / "out", progress=False)


def test_nan_names_the_expert_and_gamma_and_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = evaluation.Worker.compute

    def poisoned(self: evaluation.Worker, tasks: Sequence[Task], device: torch.device) -> list[dict[str, torch.Tensor]]:
        (task,) = tasks
        if task.indices.start == 5 and task.job.kind == "samples":
            self._experts["quality"].network.register_forward_hook(lambda *_: torch.full((5, 1, 8, 8), torch.nan))  # type: ignore[union-attr]
        return original(self, tasks, device)

    monkeypatch.setattr(evaluation.Worker, "compute", poisoned)
    with pytest.raises(NonFiniteError, match=r"expert 'quality' returned NaN or infinity at gamma=5 for 5 of 5 images"):
        evaluation.run(digits(), tmp_path, progress=False)
    monkeypatch.undo()
    kept = list((tmp_path / "shards").rglob("*.safetensors"))
    assert len(kept) == 4  # both of the likelihood, one of samples, and what is found in these
    assert values(evaluation.run(digits(), tmp_path, progress=False)) == values(
        evaluation.run(digits(), tmp_path / "b", progress=False)
    )


def flip(path: Path, place: int) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("left", [0, 50, -1])
def test_shards_that_were_cut_short_are_made_again(tmp_path: Path, computed: list[Task], left: int) -> None:
    first = evaluation.run(digits(), tmp_path, progress=False)
    cut = sorted((tmp_path / "shards").rglob("*.safetensors"))[::2]
    for path in cut:
        path.write_bytes(path.read_bytes()[:left])
    computed.clear()
    assert values(evaluation.run(digits(), tmp_path, progress=False)) == values(first)
    assert sorted(task.path for task in computed) == cut


def test_shards_whose_content_changed_are_named_and_made_again(tmp_path: Path, computed: list[Task]) -> None:
    first = evaluation.run(digits(), tmp_path, progress=False)
    changed = sorted((tmp_path / "shards").rglob("*.safetensors"))[::2]  # of several jobs
    for path in changed:
        flip(path, -9)
    computed.clear()
    with pytest.warns(UserWarning, match="damaged shards, which are made again: ") as warned:
        again = evaluation.run(digits(), tmp_path, progress=False)
    assert values(again) == values(first)
    assert sorted(task.path for task in computed) == changed
    (told,) = warned
    assert all(str(path) in str(told.message) for path in changed)


def test_features_are_never_found_in_damaged_samples(tmp_path: Path) -> None:
    first = evaluation.run(digits(), tmp_path, progress=False)
    job = next(job for job in evaluation.plan(evaluation.Worker([evaluation.own_route(digits())])) if job.then)
    (task, _, _) = shards([job], 5, tmp_path)
    (later,) = task.then
    flip(task.path, -9)
    later.path.unlink()
    assert values(evaluation.run(digits(), tmp_path, progress=False)) == values(first)


def test_every_bit_of_a_shard_counts(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    save_shard(path, {"values": torch.tensor([1.5]), "indices": torch.tensor([0])})
    kept = path.read_bytes()
    for place in range(len(kept)):
        flip(path, place)
        with pytest.raises(DamagedError, match="a damaged shard"):
            load_shard(path)
        path.write_bytes(kept)
    assert load_shard(path)["values"].tolist() == [1.5]


def test_a_good_shard_that_cannot_be_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation.run(digits(), tmp_path, progress=False)
    there = list((tmp_path / "shards").rglob("*.safetensors"))

    def refuse(self: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OutputError, match=r"a shard that cannot be read \(.*Too many open files\)") as failure:
        evaluation.run(digits(), tmp_path, progress=False)
    assert not isinstance(failure.value, DamagedError)
    assert all(path.exists() for path in there)
