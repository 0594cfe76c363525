"""Processes: killed ones, those of torchrun, the terminal's signals, precision and loggers."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL, digits, made, values

from snrouter import evaluation
from snrouter.errors import PluginError, SnrouterError
from snrouter.evaluation import Launch
from snrouter.evaluation.logs import numbers
from snrouter.evaluation.progress import Told
from snrouter.evaluation.shards import Task, shards
from snrouter.files import remove_leftovers


def when(seen: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something from another thread as soon as something is seen."""

    def watch() -> None:
        while not seen():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_processes_of_torchrun_give_the_bits_of_one(tmp_path: Path) -> None:
    alone = evaluation.draw(digits(), 10, tmp_path / "alone", progress=False)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "snrouter"]
    sets = [f"--set={override}" for override in SMALL]
    command = [*torchrun, "sample", "digits", "-n", "10", "--devices", "2", "--json", "--out", tmp_path / "both", *sets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["n"] == 10  # one object: the other process says nothing
    assert torch.equal(load_file(tmp_path / "both/samples.safetensors")["eta=0.2"], alone)


def test_a_killed_process_ends_the_run_in_a_line_and_the_next_goes_on(tmp_path: Path) -> None:
    document, out = digits("solver.steps=25", "evaluate.1.samples=40"), tmp_path / "killed"
    when(lambda: any(out.rglob("0*.safetensors")), lambda: os.kill(multiprocessing.active_children()[-1].pid or 0, signal.SIGKILL))
    with pytest.raises(SnrouterError) as death:
        evaluation.run(document, out, launch=Launch(2), progress=False)
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("0*.safetensors")}
    assert re.fullmatch(
        rf"process [01] of 2 was ended by SIGKILL; {len(kept)} of 18 shards are on disk, run the same command again to go on",
        str(death.value),
    )
    assert 0 < len(kept) < 18
    left = next(iter(kept)).with_name(".00000000-00000005.safetensors.4194304")  # of a writer that was killed
    left.touch()
    again = evaluation.run(document, out, progress=False)
    assert values(again) == values(evaluation.run(document, tmp_path / "undisturbed", progress=False))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not left.exists()


def test_an_interrupt_of_the_command_alone_ends_its_processes(tmp_path: Path) -> None:
    started: list[multiprocessing.process.BaseProcess] = []

    def both() -> bool:
        started[:] = multiprocessing.active_children()
        return len(started) == 2

    before = signal.getsignal(signal.SIGINT)
    when(both, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        evaluation.run(digits(), tmp_path, launch=Launch(2), progress=False)
    for process in started:
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGINT) is before


def test_what_fails_before_any_process_starts_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.Worker, "__reduce__", lambda self: (lambda: None, ()))
    with pytest.raises(Exception, match="pickle") as failure:
        evaluation.run(digits(), tmp_path, launch=Launch(2), progress=False)
    assert not isinstance(failure.value, SnrouterError)


def test_a_worker_travels_as_its_routes(tmp_path: Path) -> None:
    """Tensors would travel through shared memory, of which containers have little."""
    worker = evaluation.Worker([evaluation.own_route(digits())])
    assert worker.data is not None
    assert worker.reference is not None
    travelled = pickle.loads(pickle.dumps(worker))
    assert not {"data", "reference", "metrics"} & vars(travelled).keys()
    assert travelled.data.content_hash() == worker.data.content_hash()


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    names = [".results.json.12", ".samples.safetensors.7", ".config", ".notes.txt.1", "results.json", ".results.json.old", ".1.2"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[2:])


def test_a_run_can_be_terminated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own handler would let a prediction go on for hours."""
    seen: list[Any] = []
    original = evaluation.Worker.compute

    def look(self: evaluation.Worker, tasks: Sequence[Task], device: torch.device) -> list[dict[str, torch.Tensor]]:
        seen.append(signal.getsignal(signal.SIGTERM))
        return original(self, tasks, device)

    monkeypatch.setattr(evaluation.Worker, "compute", look)
    evaluation.run(digits("evaluate=[{metric: bpd, estimator: vlb, times: 2, images: 2}]"), tmp_path, progress=False)
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_bfloat16_is_for_drawing_alone(tmp_path: Path) -> None:
    full = evaluation.run(digits(), tmp_path / "full", progress=False)
    short = evaluation.run(digits("precision=bfloat16"), tmp_path / "short", progress=False)
    assert [row["protocol"]["precision"] for row in short.rows] == ["float32", "bfloat16"]
    assert short.rows[0]["value"] == full.rows[0]["value"]
    first = made(digits(), tmp_path / "full", "samples")["images"]
    second = made(digits("precision=bfloat16"), tmp_path / "short", "samples")["images"]
    assert second.dtype == torch.float32
    assert 0 < float((first - second).abs().mean()) < 0.05


def test_a_logger_gets_the_numbers_and_the_progress(tmp_path: Path) -> None:
    evaluation.run(digits("logger=csv"), tmp_path, progress=False)
    shard = next(path for path in tmp_path.rglob("0*.safetensors") if "indices" in load_file(path))
    shard.unlink()
    results = evaluation.run(digits("logger=csv"), tmp_path, progress=False)
    for version in "version_0", "version_1":  # a log is never replaced
        with (tmp_path / f"logs/results/{version}/metrics.csv").open() as file:
            (logged,) = csv.DictReader(file)
        fid = next(row for row in results.rows if row["metric"] == "fid")
        assert float(logged["eta=0.2/fid"]) == fid["value"]
        assert float(logged["eta=0.2/fid/standard_error"]) == fid["standard_error"]
        assert "likelihood" in (tmp_path / f"logs/results/{version}/hparams.yaml").read_text()
        with (tmp_path / f"logs/progress/{version}/metrics.csv").open() as file:
            assert [int(line["images"]) for line in csv.DictReader(file)][-1] == 22


def test_progress_counts_what_is_on_disk(tmp_path: Path) -> None:
    worker = evaluation.Worker([evaluation.own_route(digits())])
    tasks = shards(evaluation.plan(worker), 5, tmp_path)
    with Told([tasks[1:]], ["q"], bar=False, before=len(tasks[0].indices)) as told:
        assert told.count()["images"] == 5
        for path in tasks[1].paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        tasks[2].path.parent.mkdir(parents=True, exist_ok=True)
        assert told.count()["images"] == 10


def test_rows_that_would_share_a_name_say_their_variant() -> None:
    def row(**columns: Any) -> dict[str, Any]:
        return {"metric": "bpd", "title": "bits/dim", **columns, "label": "q", "expert": "q", "value": 1.0, "standard_error": 0.1}

    rows = [row(estimator="vlb"), row(estimator="ode", biased=True), row(estimator="vlb"), row(estimator="vlb") | {"label": "r"}]
    named = [name for name in numbers(rows) if not name.endswith("/standard_error")]
    assert named == ["q/bpd/vlb", "q/bpd/ode/biased", "q/bpd/vlb-2", "r/bpd"]


def test_a_logger_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr("snrouter.loggers.TensorBoardLogger", absent)
    with pytest.raises(
        PluginError, match=r"^logger: the package tensorboard is not installed; run pip install 'snrouter\[tensorboard\]'$"
    ):
        evaluation.run(digits("logger=tensorboard"), tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))
