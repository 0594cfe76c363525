"""Processes: killed ones, those of torchrun, the terminal's signals, precision and loggers."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, digits, made, values

from snrouter import evaluation, spec
from snrouter.errors import PluginError
from snrouter.evaluation.logs import numbers
from snrouter.evaluation.shards import Task
from snrouter.files import remove_leftovers


def sets(*overrides: str) -> list[str]:
    return [f"--set={override}" for override in (*SMALL, *overrides)]


def same_images(document: spec.Document, left: Path, right: Path) -> bool:
    return torch.equal(made(document, left, "samples")["images"], made(document, right, "samples")["images"])


def test_processes_of_torchrun_give_the_bits_of_one(tmp_path: Path) -> None:
    alone = evaluation.run(digits(), tmp_path / "alone", progress=False)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "snrouter"]
    command = [*torchrun, "run", "digits", "--devices", "2", "--json", "--out", tmp_path / "both", *sets()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)["results"]  # one object: the other process says nothing
    assert [(row["metric"], row["label"], row["value"], row["standard_error"]) for row in rows] == values(alone)
    assert same_images(digits(), tmp_path / "alone", tmp_path / "both")


def test_a_killed_process_ends_the_run_in_a_line_and_the_next_goes_on(tmp_path: Path) -> None:
    slow = ("solver.steps=25", "evaluate.1.samples=40")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "snrouter", "run", "digits", "--devices", "2", "--out", out, *sets(*slow)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any(out.rglob("0*.safetensors")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(ranks[1], signal.SIGKILL)
    said, error = run.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("0*.safetensors")}
    assert (run.returncode, said) == (1, "")
    line = (
        f"error: process 1 of 2 was ended by SIGKILL; {len(kept)} of 10 shards are on disk, run the same command again to go on\n"
    )
    assert error == line
    assert 0 < len(kept) < 10
    left = next(iter(kept)).with_name(".00000000-00000005.safetensors.4194304")  # of a writer that was killed
    left.touch()
    again = evaluation.run(digits(*slow), out, progress=False)
    assert values(again) == values(evaluation.run(digits(*slow), tmp_path / "undisturbed", progress=False))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not left.exists()


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

    def look(self: evaluation.Worker, task: Task, device: torch.device) -> dict[str, torch.Tensor]:
        seen.append(signal.getsignal(signal.SIGTERM))
        return original(self, task, device)

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
    results = evaluation.run(digits("logger=csv"), tmp_path, progress=False)
    with (tmp_path / "logs/results/metrics.csv").open() as file:
        (logged,) = csv.DictReader(file)
    fid = next(row for row in results.rows if row["metric"] == "fid")
    assert float(logged["eta=0.2/fid"]) == fid["value"]
    assert float(logged["eta=0.2/fid/standard_error"]) == fid["standard_error"]
    assert "likelihood" in (tmp_path / "logs/results/hparams.yaml").read_text()
    with (tmp_path / "logs/progress/metrics.csv").open() as file:
        assert [int(line["images"]) for line in csv.DictReader(file)] == [5, 10, 15, 20, 22]


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
