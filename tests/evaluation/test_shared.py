"""Routes of a sweep share network calls: the same shards as alone, and no call made twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CLASSIFIER, digits, values

from snrouter import evaluation, spec
from snrouter.errors import PluginError, SolverError, SpecError
from snrouter.evaluation import processes
from snrouter.evaluation.shards import Job, Task, network_calls, together
from snrouter.experts.network import NetworkExpert
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Shared
from snrouter.metrics.bits_per_dim import BitsPerDim

BOUND = "{metric: bpd, estimator: vlb, times: 3, images: 7}"
MEASURED = f"evaluate=[{BOUND}, {{metric: fid, samples: 6, checkpoint: {CLASSIFIER}}}]"
ADAPTIVE = (
    f"evaluate=[{BOUND}, {{metric: bpd, estimator: ode, images: 2}}, {{metric: nearest_neighbour, samples: 6}}]",
    "solver={type: ode, rtol: 0.3, atol: 0.3}",
)


def swept(*overrides: str) -> spec.Document:
    """Seven images, six samples, shards of five, of two thresholds and both experts."""
    return digits(MEASURED, *overrides)


def same(one: Path, other: Path) -> bool:
    """Whether two shards hold the same bits, but for what tells how they were made."""
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left if name not in ("seconds", "spent", "after")
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> evaluation.Results:
    """An undisturbed sweep."""
    return evaluation.sweep(swept(), tmp_path_factory.mktemp("whole"), progress=False)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Shards in the order in which they are written."""
    paths: list[Path] = []
    original = processes.save_shard

    def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        original(path, tensors)
        paths.append(path)

    monkeypatch.setattr(processes, "save_shard", save)
    return paths


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that networks are asked about, call by call."""
    asked: list[int] = []
    original = NetworkExpert.predict

    def predict(self: NetworkExpert, z: torch.Tensor, *rest: object) -> object:
        asked.append(len(z))
        return original(self, z, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(NetworkExpert, "predict", predict)
    return asked


@pytest.mark.parametrize("overrides", [[], ["solver={type: ancestral, steps: 5}"], ADAPTIVE])
def test_a_sweep_makes_the_shards_of_each_route_alone(tmp_path: Path, rows: list[int], overrides: Sequence[str]) -> None:
    results = evaluation.sweep(swept(*overrides), tmp_path / "together", progress=False)
    made = sum(rows)
    told = results.extras["network_calls"]
    assert sum(calls["spent"] for calls in told.values()) == pytest.approx(made)
    rows.clear()
    for label, route in (
        *((f"eta={eta}", f"route.switch={{eta: {eta}}}") for eta in (0.2, 0.5)),
        *((name, f"route={{type: single, expert: {name}}}") for name in ("likelihood", "quality")),
    ):
        alone = evaluation.run(swept(*overrides, route), tmp_path / "alone", progress=False)
        assert [(row["value"], row["nfe"]) for row in alone.rows] == [
            (row["value"], row["nfe"]) for row in results.rows if row["label"] == label
        ]
    assert sum(calls["alone"] for calls in told.values()) == pytest.approx(sum(rows))
    assert made < 0.8 * sum(rows)
    shards = sorted((tmp_path / "together/shards").rglob("*.safetensors"))
    assert len(shards) == 4 * (5 if overrides is ADAPTIVE else 6)
    assert all(same(shard, tmp_path / "alone/shards" / shard.relative_to(tmp_path / "together/shards")) for shard in shards)


def test_a_sweep_that_was_killed_goes_on_with_what_is_missing(
    tmp_path: Path, whole: evaluation.Results, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, save = tmp_path / "killed", processes.save_shard

    def die(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if len(written) == 10:
            raise KeyboardInterrupt
        save(path, tensors)

    monkeypatch.setattr(processes, "save_shard", die)
    with pytest.raises(KeyboardInterrupt):
        evaluation.sweep(swept(), killed, progress=False)
    monkeypatch.setattr(processes, "save_shard", save)
    kept = {path: path.stat().st_mtime_ns for path in written}
    assert len(kept) == 10  # of the bound two parts, the first whole
    written.clear()
    again = evaluation.sweep(swept(), killed, progress=False)
    assert values(again) == values(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    told, least = again.extras["network_calls"], whole.extras["network_calls"]
    assert all(least[what]["spent"] <= calls["spent"] < calls["alone"] == least[what]["alone"] for what, calls in told.items())
    assert len(written) == len({*written}) == 4 * 6 - 10
    assert all(same(path, whole.folder / path.relative_to(killed)) for path in written)
    written.clear()
    fresh = evaluation.sweep(swept(), killed, fresh=True, progress=False)
    assert values(fresh) == values(whole)
    assert len(written) == 4 * 6
    assert fresh.extras == whole.extras


def test_calls_are_told_of_what_this_sweep_made_and_else_not(tmp_path: Path, rows: list[int]) -> None:
    def calls(*switches: float) -> dict[str, dict[str, float]]:
        two = f"evaluate=[{BOUND}, {{metric: bpd, estimator: ode, images: 2, solver: {{method: midpoint, steps: 1}}}}]"
        written = f"sweep={{switches: [{', '.join(f'{{eta: {eta}}}' for eta in switches)}], singles: false}}"
        results = evaluation.sweep(digits(two, written), tmp_path, progress=False)
        assert results is not None
        return results.extras.get("network_calls", {})  # type: ignore[no-any-return]

    assert calls(0.2, 0.5).keys() == {"bpd/vlb", "bpd/ode"}
    more = calls(0.2, 0.35, 0.5)  # one more, alone
    assert sum(told["spent"] for told in more.values()) == sum(rows)
    assert calls(0.2, 0.35) == {
        what: {"spent": pytest.approx(told["spent"], rel=0.5), "alone": pytest.approx(told["alone"] * 2 / 3)}
        for what, told in more.items()
    }
    assert calls(0.35, 0.5) == {}  # that of 0.5 was made with one that is not here
    for path in tmp_path.rglob("0*.safetensors"):
        held = load_file(path)
        del held["spent"], held["after"]
        processes.save_shard(path, held)  # as an earlier version wrote it
    assert calls(0.2, 0.5) == {}


def test_a_path_that_two_routes_have_is_made_once(tmp_path: Path, rows: list[int], written: list[Path]) -> None:
    lone = "route={type: single, expert: likelihood}", "sweep={switches: [], gamma_min: [-7.86]}"
    results = evaluation.sweep(digits(f"evaluate=[{BOUND}]", *lone), tmp_path, progress=False)
    assert [row["label"] for row in results.rows] == ["gamma_min=-7.86", "likelihood"]
    assert results.rows[0]["value"] == results.rows[1]["value"]
    assert len(written) == len({*written}) == 2
    assert results.extras["network_calls"] == {"bpd/vlb": {"spent": sum(rows), "alone": sum(rows)}}


def test_a_route_that_fails_costs_the_others_nothing(
    tmp_path: Path, whole: evaluation.Results, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, document = NetworkExpert.predict, digits(f"evaluate=[{BOUND}]")

    def fail(self: NetworkExpert, z: torch.Tensor, gamma: torch.Tensor, *rest: object) -> object:
        if self.name == "quality" and float(gamma.min()) < -5.3:  # where no other route asks it
            raise SolverError("too stiff")
        return original(self, z, gamma, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(NetworkExpert, "predict", fail)
    for kept in (3, 7):  # the others' of the first shard, then all of the second, which asks nothing there
        with pytest.raises(SolverError, match=r"^quality: too stiff$"):
            evaluation.sweep(document, tmp_path, progress=False)
        assert len(written) == len({*written}) == kept
    monkeypatch.setattr(NetworkExpert, "predict", original)
    again = evaluation.sweep(document, tmp_path, progress=False)
    assert len(written) == 8
    assert values(again) == [row for row in values(whole) if row[0] == "bpd"]


def test_a_metric_may_give_routes_in_any_order_but_all(
    tmp_path: Path, whole: evaluation.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, given = BitsPerDim.measure_routes, slice(None)

    def measured(*arguments: Any) -> Shared:
        shared = original(*arguments)
        return Shared(dict(reversed(shared.rows.items())), {label: shared.spent[label] for label in [*shared.spent][given]})

    monkeypatch.setattr(BitsPerDim, "measure_routes", measured)
    document = digits(f"evaluate=[{BOUND}]")
    results = evaluation.sweep(document, tmp_path / "all", progress=False)
    assert values(results) == [row for row in values(whole) if row[0] == "bpd"]
    given = slice(0)
    with pytest.raises(PluginError, match=r"^eta=0.2: metric 'bpd/vlb': measure_routes gave nothing of eta=0.2; give every route$"):
        evaluation.sweep(document, tmp_path / "none", progress=False)


def task(route: int, start: int = 0, kind: str = "samples", count: int = 5, metric: int | None = None) -> Task:
    job = Job(kind, route, metric, 10, f"{kind}{route}", kind)  # type: ignore[arg-type]
    return Task(job, range(start, start + count), Path(job.key))


def parts(
    tasks: Sequence[Task], processes: int, bounds: Sequence[GammaInterval] = (GammaInterval(-1.0, 1.0),) * 4
) -> list[list[int]]:
    return [[one.job.route for one in part] for part in together(tasks, bounds, processes)]


def test_who_makes_what() -> None:
    tasks = [task(route, start) for route in range(4) for start in (0, 5)]
    assert parts(tasks, 1) == [[0, 1, 2, 3]] * 2
    assert parts(tasks[:-1], 1) == [[0, 1, 2, 3], [0, 1, 2]]  # long ones first
    assert parts([*tasks[:4], task(2, 5, count=1), task(3, kind="trace"), task(2, kind="trace")], 1) == [
        [0, 1],
        [0, 1],
        [3],
        [2],
        [2],
    ]
    wide = GammaInterval(-2.0, 1.0)
    assert parts(tasks, 1, [wide, wide, GammaInterval(-1.0, 1.0), wide]) == [[0, 1, 3], [0, 1, 3], [2], [2]]
    assert parts(tasks, 3) == [[0, 1, 2, 3], [0, 1], [2, 3]]  # no process stands idle
    two = [task(route, kind="measure", metric=metric) for metric in range(2) for route in range(4)]
    assert parts(two, 1) == [[0, 1, 2, 3]] * 2  # each metric for itself
    many = parts([task(route, start) for start in range(0, 45, 5) for route in range(11)], 8, (GammaInterval(-1.0, 1.0),) * 11)
    assert [sum(map(len, many[rank::8])) for rank in range(8)] == [13, 13, 13, 12, 12, 12, 12, 12]  # of nine shards, the last
    assert sorted(parts(tasks, 99)) == [[route] for route in range(4) for _ in range(2)]


def test_seconds_are_divided_and_calls_of_a_job_count_once(whole: evaluation.Results) -> None:
    document, tmp_path = whole.document, whole.folder
    worker = evaluation.Worker(evaluation.sweep_routes(document))
    jobs = evaluation.plan(worker)
    drawn = [job for job in jobs if job.kind == "samples"]
    first = [load_file(tmp_path / f"shards/{job.key}/00000000-00000005.safetensors") for job in drawn]
    calls = [sum(float(rows[name][0]) for name in rows if name.startswith("nfe/")) for rows in first]
    each = [float(rows["seconds"][0]) / count for rows, count in zip(first, calls, strict=True)]
    assert each == pytest.approx([each[0]] * len(each))
    assert network_calls([*jobs, *drawn], 5, tmp_path) == network_calls(jobs, 5, tmp_path)


ENDS = "sweep={gamma_min: [-7.86, {gamma: -7.2}, {edm_sigma: 0.03}], singles: false}"


def test_a_sweep_over_ends_evaluates_the_route_on_each_interval(tmp_path: Path) -> None:
    document = digits("evaluate=[{metric: bpd, estimator: vlb, times: 4, images: 6}]", ENDS)
    rows = evaluation.sweep(document, tmp_path, progress=False).rows
    assert [row["label"] for row in rows] == ["gamma_min=-7.86", "gamma_min=-7.2", "gamma_min=-7.01312"]
    assert [row["protocol"]["gamma_min"] for row in rows] == pytest.approx([-7.86, -7.2, -7.01312], abs=1e-5)
    assert [row["gamma_switch"] for row in rows] == pytest.approx([-5.288] * 3)  # eta is of the spec's interval
    alone = evaluation.run(digits("evaluate=[{metric: bpd, estimator: vlb, times: 4, images: 6}]"), tmp_path, progress=False)
    assert rows[0]["value"] == alone.rows[0]["value"]
    assert "paired" not in rows[0]
    difference = rows[1]["paired"]["gamma_min=-7.86"]
    assert difference["difference"] == pytest.approx(rows[1]["value"] - rows[0]["value"])
    assert 0 < difference["standard_error"] < rows[1]["standard_error"]


def test_what_is_swept_together() -> None:
    def labels(*overrides: str) -> list[str]:
        return [route.label for route in evaluation.sweep_routes(digits(*overrides))]

    assert labels("sweep={switches: [{eta: 0.2}, {eta: 1.0}], gamma_min: [-7.5, -7], gamma_max: [4], singles: false}") == [
        f"gamma_min={low}, gamma_max=4, eta={eta}" for eta in ("0.2", "1") for low in ("-7.5", "-7")
    ]
    assert labels("sweep={gamma_max: [{eta: 0.9}, 5]}") == ["gamma_max=3.714", "gamma_max=5", "likelihood", "quality"]
    pieces = "route={type: piecewise, pieces: [{expert: quality, up_to: -6}, {expert: likelihood, up_to: -3}, {expert: quality}]}"
    assert labels(pieces, "sweep={gamma_min: [-7.5]}") == ["gamma_min=-7.5", "quality", "likelihood"]
    with pytest.raises(SpecError, match=r"sweep needs route .* or in sweep switches: \[\]$"):
        labels(pieces, "sweep={switches: [{eta: 0.2}], gamma_min: [-7.5]}")
    with pytest.raises(SpecError, match=r"sweep: an end is given twice \(gamma_min=-7\); remove one"):
        labels("sweep={gamma_min: [-7, {gamma: -7.0}]}")
    with pytest.raises(SpecError, match=r"sweep: .*-2"):
        labels("sweep={gamma_min: [-1], gamma_max: [-2]}")
    with pytest.raises(SpecError, match=r"sweep\.gamma_min\[0\]: unknown unit 'etta'"):
        digits("sweep={gamma_min: [{etta: 1}]}").check()
