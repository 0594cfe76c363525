"""A study that is killed goes on: what was done stays as it is, and the table is that of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from small_studies import SMALL, small

from snrouter.study import study

TEXT = SMALL.split("train:")[0] + (
    "study:\n  seeds: [0, 1, 2]\n  models: {own: {}, early: {set: {route.switch: {eta: 0.6}}}, late: {set: {route.switch: {eta: 0.1}}}}\n"
)


def numbers(content: dict) -> list[dict]:
    return [measure["by_model"] for measure in content["measures"]]


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    small(tmp_path, text=TEXT)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "snrouter", "study", str(tmp_path / "small.yaml"), "--out", str(out), "--devices", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("cells/*/*/cell.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)  # the first process alone; those that it started must end by themselves
    output, _ = process.communicate(timeout=60)  # until nobody holds its output any more
    done = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/cell.json")}
    assert done, output.decode()
    assert len(done) < 9, "it was killed too late to show anything"
    content = study(small(tmp_path, text=TEXT), out, progress=False)
    assert all(path.stat().st_mtime_ns == time_then for path, time_then in done.items())
    assert all(cell["status"] == "done" for model in content["models"] for cell in model["cells"])
    assert numbers(content) == numbers(study(small(tmp_path, text=TEXT), tmp_path / "again", progress=False))
