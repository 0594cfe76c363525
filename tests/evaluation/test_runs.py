"""Evaluation: shards, resume, processes, pairing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import digits, values

from snrouter import evaluation, spec
from snrouter.errors import DataError, SpecError, SupportError


def test_a_run_writes_what_it_promises(tmp_path: Path) -> None:
    results = evaluation.run(digits(), tmp_path, progress=False)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["format"] == 1
    assert written["partial"] is False
    rows = {row["metric"]: row for row in written["results"]}
    assert rows["bpd"]["n"] == 10
    assert rows["fid"]["n"] == 12
    assert rows["bpd"]["route"] == "threshold"
    assert rows["bpd"]["eta"] == 0.2
    assert rows["bpd"]["gamma_switch"] == pytest.approx(-5.288)
    assert rows["bpd"]["nfe"] == pytest.approx(2.0)
    assert rows["fid"]["nfe"] == pytest.approx(sum(rows["fid"]["nfe_per_expert"].values()))
    assert set(rows["bpd"]["terms"]) == {"prior", "reconstruction", "diffusion"}
    assert sum(term["value"] for term in rows["bpd"]["terms"].values()) == pytest.approx(rows["bpd"]["value"])
    assert rows["bpd"]["protocol"]["gamma_min"] == -7.86
    assert rows["bpd"]["protocol"]["data_sha256"] == results.document.dataset("data").content_hash()
    assert spec.load(tmp_path / "spec.yaml").dump() == results.document.dump()
    assert "torch" in json.loads((tmp_path / "environment.json").read_text())["packages"]
    assert load_file(tmp_path / "samples.safetensors")["eta=0.2"].shape == (12, 1, 8, 8)


def test_samples_lie_on_the_levels(tmp_path: Path) -> None:
    images = evaluation.draw(digits(), 7, tmp_path, progress=False)
    level = (images.double() + 1) * 17 / 2 - 0.5
    assert torch.allclose(level, level.round(), atol=1e-5)
    assert torch.equal(load_file(tmp_path / "samples.safetensors")["eta=0.2"], images)


def test_a_sweep_pairs_routes_on_common_noise(tmp_path: Path) -> None:
    results = evaluation.sweep(digits(), tmp_path, progress=False)
    rows = {(row["metric"], row["label"]): row for row in results.rows}
    assert {label for _, label in rows} == {"eta=0.2", "eta=0.5", "likelihood", "quality"}
    merged, alone = rows["bpd", "eta=0.2"], rows["bpd", "likelihood"]
    paired = merged["paired"]["likelihood"]
    assert paired["difference"] == pytest.approx(merged["value"] - alone["value"])
    assert paired["standard_error"] < merged["standard_error"]  # common noise cancels
    assert alone["interval"] == "own support"
    assert "likelihood" not in alone["paired"]
    assert {point["label"] for point in results.extras["frontier"]} <= {label for _, label in rows}


def test_a_single_expert_runs_on_its_own_support(tmp_path: Path) -> None:
    results = evaluation.sweep(
        digits("interval.gamma_max=3", "evaluate=[{metric: bpd, estimator: vlb, times: 2, images: 4}]"), tmp_path
    )
    protocols = {row["label"]: row["protocol"] for row in results.rows}
    assert protocols["eta=0.2"]["gamma_max"] == 3
    assert protocols["quality"]["gamma_max"] == 5
    assert "frontier" not in results.extras  # one metric has no trade-off


def test_limit_stamps_results_partial(tmp_path: Path) -> None:
    results = evaluation.run(digits(), tmp_path, limit=3, progress=False)
    assert results.partial
    assert {row["n"] for row in results.rows} == {3}
    with pytest.raises(SpecError, match="limit: expected at least 1"):
        evaluation.run(digits(), tmp_path, limit=0)


def test_ode_likelihood_with_exact_terms(tmp_path: Path) -> None:
    document = digits("evaluate=[{metric: bpd, estimator: ode, images: 3, solver: {rtol: 1.0e-3, atol: 1.0e-3}}]")
    (row,) = evaluation.run(document, tmp_path, progress=False).rows
    assert row["dequantization"] == "truncated_normal"
    assert row["biased"] is False
    assert row["protocol"]["rtol"] == 1e-3
    assert row["protocol"]["step_control"] == "one error norm a batch"
    assert 0.5 < row["value"] < 4


def test_conditions_come_from_labels(tmp_path: Path) -> None:
    document = digits("condition=labels", "evaluate=[{metric: bpd, estimator: vlb, times: 2, images: 4}]")
    plain = digits("evaluate=[{metric: bpd, estimator: vlb, times: 2, images: 4}]")
    # the shipped experts are unconditional and ignore it, so that the number is the same
    first, second = (evaluation.run(d, tmp_path / str(i), progress=False) for i, d in enumerate((document, plain)))
    assert values(first) == values(second)
    assert first.fingerprint != second.fingerprint
    with pytest.raises(SpecError, match="condition: labels needs data with labels"):
        evaluation.draw(spec.load("digits", ["condition=labels", "data=null"]), 2, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["evaluate=[]"], SpecError, "nothing to evaluate"),
        (["evaluate.0.images=401"], SpecError, "images: expected 1 to 400"),
        (["evaluate.0.images=0"], SpecError, "images: expected 1 to 400"),
        (["evaluate.1.samples=1"], SpecError, "samples: expected at least 2"),
        (["data=null"], SpecError, "needs the spec's `data`"),
        (["interval.gamma_min=-9"], SupportError, "beyond its support"),
    ],
)
def test_impossible_runs_are_refused_before_work(
    tmp_path: Path, overrides: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluation.run(digits(*overrides), tmp_path, progress=False)
    assert not (tmp_path / "shards").exists()


def test_sweep_needs_a_threshold_and_switches(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="sweep needs route"):
        evaluation.sweep(digits("route={type: single, expert: quality}"), tmp_path)
    with pytest.raises(SpecError, match="nothing to sweep"):
        evaluation.sweep(digits("sweep=null"), tmp_path)
    with pytest.raises(SpecError, match="nothing to sweep"):
        evaluation.sweep(digits("sweep={switches: [], singles: false}"), tmp_path)
    with pytest.raises(SpecError, match="--devices: expected a number of at least 1"):
        evaluation.run(digits(), tmp_path, launch=evaluation.Launch(0), progress=False)


def test_a_sweep_without_switches_compares_the_experts_alone() -> None:
    routes = evaluation.sweep_routes(digits("sweep={switches: []}"))
    assert [(route.label, route.columns["interval"]) for route in routes] == [
        ("likelihood", "own support"),
        ("quality", "own support"),
    ]


def test_an_empty_dataset(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "none.npz", images=np.zeros((0, 1, 8, 8), dtype=np.uint8))
    with pytest.raises(DataError, match="no images"):
        evaluation.run(digits(f"data={{type: npz, path: {tmp_path / 'none.npz'}, levels: 17}}"), tmp_path, progress=False)


def test_switches_keep_apart_and_repeats_are_refused(tmp_path: Path) -> None:
    few = "evaluate=[{metric: bpd, estimator: vlb, times: 1, images: 3}]"
    close = evaluation.sweep(
        digits(few, "sweep={switches: [{eta: 0.2001}, {eta: 0.2004}], singles: false}"), tmp_path, progress=False
    )
    assert [row["label"] for row in close.rows] == ["eta=0.2001", "eta=0.2004"]
    assert [row["switch"] for row in close.rows] == [{"eta": 0.2001}, {"eta": 0.2004}]
    with pytest.raises(SpecError, match=r"sweep.switches\[1\]: the same position \(eta=0.2\) as switches\[0\]"):
        evaluation.sweep(digits(few, "sweep={switches: [{eta: 0.2}, {gamma: -5.288}]}"), tmp_path, progress=False)


def test_one_sample_has_no_distance(tmp_path: Path) -> None:
    results = evaluation.run(digits(), tmp_path, limit=1, progress=False)
    written = {row["metric"]: row["value"] for row in json.loads((tmp_path / "results.json").read_text())["results"]}
    assert written["fid"] is None
    assert results.rows[1]["n"] == 1
    extras = evaluation.sweep(digits(), tmp_path / "sweep", limit=1, progress=False).extras
    assert extras.keys() == {"network_calls"}  # and so there is no trade-off


def test_ends_of_a_lone_expert_are_no_experts_to_compare_with(tmp_path: Path) -> None:
    ends = "route={type: single, expert: quality}", "sweep={switches: [], gamma_min: [-7, -6.5]}"
    few = "evaluate=[{metric: bpd, estimator: vlb, times: 1, images: 3}]"
    rows = evaluation.sweep(digits(few, *ends), tmp_path, progress=False).rows
    assert [(row["label"], [*row.get("paired", {})]) for row in rows] == [
        ("gamma_min=-7", ["quality"]),
        ("gamma_min=-6.5", ["quality"]),
        ("quality", []),
    ]


def test_only_routes_with_both_numbers_are_traded_off() -> None:
    from snrouter.evaluation.results import trade_off

    def rows(**points: tuple[float, float]) -> list[dict[str, Any]]:
        kinds = {"a": "threshold", "b": "threshold", "low": "single", "high": "single"}
        pairs = [("bpd", 0), ("fid", 1)]
        return [
            {"metric": m, "label": label, "route": kinds[label], "value": point[i]}
            for label, point in points.items()
            for m, i in pairs
        ]

    none = float("nan")
    found = trade_off(rows(a=(1.0, none), b=(2.0, 3.0), low=(2.5, 9.0), high=(4.0, none)), 0.0)
    assert [point["label"] for point in found["frontier"]] == ["b"]
    assert (found["best"]["label"], found["best"]["against"]) == ("b", "low")
    assert trade_off(rows(a=(1.0, none), low=(2.5, none)), 0.0) == {}
    experts = trade_off(rows(low=(2.5, 9.0), high=(4.0, 3.0)), 0.0)
    assert [point["label"] for point in experts["frontier"]] == ["low", "high"]
    assert "best" not in experts  # there was nothing to choose
    both = rows(a=(2.0, 3.0), b=(2.1, 3.0), low=(1.5, 9.0), high=(1.0, 3.0))
    assert trade_off(both, 0.0, {"a": 2.2, "b": 2.0})["best"]["label"] == "b"  # by other images, and among these alone
    above = {"high": {"difference": 6.0, "standard_error": 0.5}}
    assert "best" not in trade_off(
        [row | {"paired": above} for row in both if row["label"] != "high"] + both[-2:], 0.0, {"low": 1.5}
    )
