"""kill -9 in the middle of runs: does the same command, run again, end with the numbers of a run that nobody disturbed?

    python benchmarks/kills.py [--times 5] [--devices 2] [--seed 0]

A run on spawned CPU processes is killed at a random moment, by the death of one process that computes, of all of them, or of the
parent, and started again. Asserted of each: no process is left; the first two end with exit code 1 and one line; shards that were
finished are not written again; what each process had finished was a prefix of its list, so that at most one shard a process was
begun in vain; every index is there exactly once; results.json is the undisturbed run's but for seconds; nothing is left lying.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from snrouter import evaluation, spec
from snrouter.evaluation.shards import shards

SPEC = """
extends: digits
batch_size: 4
solver: {type: heun, steps: 60}
"""
OVERRIDES = ["evaluate.0.times=32", "evaluate.0.images=80", "evaluate.1.samples=80"]
VICTIMS = ("one", "all", "parent")


def start(spec_file: Path, out: Path, devices: int) -> subprocess.Popen[str]:
    sets = [f"--set={override}" for override in OVERRIDES]
    command = [sys.executable, "-m", "snrouter", "run", str(spec_file), "--devices", str(devices), "--out", str(out), *sets]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ranks(parent: int) -> list[int]:
    """Processes that compute: spawned children, in the order of their start."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(session: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(part) for key, part in value.items() if key != "seconds"}
    return [without_seconds(part) for part in value] if isinstance(value, list) else value


def lists(spec_file: Path, out: Path, devices: int) -> list[list[Path]]:
    """The shards of each process in the order in which it computes them."""
    document = spec.load(spec_file, OVERRIDES)
    worker = evaluation.Worker([evaluation.own_route(document)])
    tasks = shards(evaluation.plan(worker), document.spec.batch_size, out)
    tasks.sort(key=lambda task: task.job.kind)
    return [[path for task in tasks[rank::devices] for path in task.paths] for rank in range(devices)]


def kill(victim: str, run: subprocess.Popen[str], moment: float, chance: random.Random) -> bool:
    """Kill when the moment has come; whether there still was somebody to kill."""
    time.sleep(moment)
    if run.poll() is not None:
        return False
    pids = [run.pid] if victim == "parent" else ranks(run.pid)
    for pid in [chance.choice(pids)] if victim == "one" and pids else pids:
        os.kill(pid, signal.SIGKILL)
    return bool(pids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    chance = random.Random(wanted.seed)
    folder = Path(tempfile.mkdtemp())
    spec_file = folder / "spec.yaml"
    spec_file.write_text(SPEC)
    began = time.monotonic()
    undisturbed = start(spec_file, folder / "undisturbed", wanted.devices)
    first_shard = None
    while undisturbed.poll() is None:
        time.sleep(0.05)
        if first_shard is None and next((folder / "undisturbed").rglob("0*.safetensors"), None):
            first_shard = time.monotonic() - began
    assert undisturbed.returncode == 0, undisturbed.stderr and undisturbed.stderr.read()
    length = time.monotonic() - began
    right = without_seconds(json.loads((folder / "undisturbed" / "results.json").read_text()))
    print(f"undisturbed: {length:.1f} s, first shard after {first_shard:.1f} s, {wanted.devices} processes", flush=True)
    print("victim    moment  shards kept   at most lost  gone after  exit  said", flush=True)
    for victim in VICTIMS:
        done = 0
        while done < wanted.times:
            out = folder / f"{victim}-{done}"
            mine = lists(spec_file, out, wanted.devices)
            run = start(spec_file, out, wanted.devices)
            moment = chance.uniform(0, length)
            if not kill(victim, run, moment, chance):  # over already, or no process begun: another moment
                run.kill()
                run.wait()
                for path in sorted(out.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                continue
            died = time.monotonic()
            said = run.communicate()[1].strip()
            while alive(run.pid):
                assert time.monotonic() < died + 60, "a process lives on"
                time.sleep(0.05)
            gone = time.monotonic() - died
            if victim != "parent":
                assert run.returncode == 1, run.returncode
                assert said.startswith("error: process "), said
                assert said.count("\n") == 0, said
            kept = {path: path.stat().st_mtime_ns for path in out.rglob("0*.safetensors")}
            begun = 0
            for own in mine:
                there = [path in kept for path in own]
                assert there == sorted(there, reverse=True), "not a prefix"
                begun += not all(there)
            again = start(spec_file, out, wanted.devices)
            assert again.wait() == 0, again.stderr and again.stderr.read()
            assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished shard was written again"
            assert without_seconds(json.loads((out / "results.json").read_text())) == right
            for job in {path.parent for own in mine for path in own}:
                indices = sorted(i for path in job.glob("0*.safetensors") for i in load_file(path)["indices"].tolist())
                assert indices == list(range(80)), job
            left = [path for path in out.rglob(".*") if path.is_file()]
            assert not left, left
            total = sum(map(len, mine))
            print(
                f"{victim:8} {moment:5.1f} s {len(kept):5} of {total} {begun:14} {gone:9.2f} s {run.returncode:5}  {said}",
                flush=True,
            )
            done += 1
    print("all as undisturbed")


if __name__ == "__main__":
    main()
