"""Tune: from a profile to a spec that runs, small."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CLASSIFIER
from torch import Tensor

from snrouter import evaluation, spec
from snrouter.errors import SpecError, SupportError
from snrouter.evaluation import processes
from snrouter.evaluation.rows import Row
from snrouter.evaluation.tuning import profiles
from snrouter.evaluation.tuning.candidates import Candidates, _Found, beaten, written
from snrouter.gamma import GammaInterval
from snrouter.router.piecewise import Piecewise, Single, Stretch
from snrouter.router.threshold import Threshold
from snrouter.search.profile import Profile
from snrouter.spec import Document

EXACT = "{metric: bpd, estimator: ode, solver: {rtol: 0.05, atol: 0.05}}"
SMALL = (
    f"evaluate=[{{metric: bpd, estimator: vlb}}, {{metric: fid, samples: 12, checkpoint: {CLASSIFIER}}}, {EXACT}]",
    "solver={type: heun, steps: 2}",
    "batch_size=6",
    "tune={experts: [quality, likelihood], images: 12, times: 8, seams: 2, candidates: 2, exact_images: 2}",
)


def digits(*overrides: str) -> Document:
    return spec.load("digits", [*SMALL, *overrides])


def tuned(out: Path, *overrides: str, **arguments: Any) -> evaluation.Results:
    results = evaluation.tune(digits(*overrides), out, progress=False, **arguments)
    assert results is not None
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that most tests look at."""
    out = tmp_path_factory.mktemp("tune")
    tuned(out)
    return out


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def test_every_part_of_the_story_is_told(told: dict[str, Any]) -> None:
    tune = told["tune"]
    assert tune["experts"] == ["quality", "likelihood"]
    assert (tune["networks"], tune["times"], tune["images"]) == (2, 8, {"chosen_on": 6, "scored_on": 6})
    assert [row["chosen"] for row in tune["seams"]].count(True) == 1
    assert [row["chosen"] for row in tune["routes"]].count(True) == 1
    assert {"quality", "likelihood"} <= {row["label"] for row in tune["routes"]}
    for name in tune["experts"]:
        assert len(tune["profile"]["error"][name]["value"]) == len(tune["profile"]["gamma"]) == len(tune["profile"]["edges"]) - 1
    for curve in tune["thresholds"]:
        assert curve["eta"][0] == 0
        assert curve["eta"][-1] == 1
    assert tune["optimism"]["splits"] == 20
    assert "ends" not in tune


def test_all_networks_are_asked_no_more_than_a_bound_each_would(told: dict[str, Any]) -> None:
    calls = told["tune"]["network_calls"]
    assert calls["one_vlb"] == 12 * 8
    assert 0 < calls["profile"] + calls["pilot"] <= 2 * calls["one_vlb"]
    assert 0 < calls["quality"]["spent"] <= calls["quality"]["alone"]
    assert calls["exact"] > 0


def test_a_pilot_is_paid_for_by_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pilots, real = list[Profile | None](), profiles.cells

    def cells(interval: GammaInterval, times: int, pilot: Profile | None = None, at: Sequence[float] = ()) -> Tensor:
        pilots.append(pilot)
        return real(interval, times, pilot, at)

    monkeypatch.setattr(profiles, "cells", cells)
    tune = tuned(tmp_path, "tune.images=64", "tune.times=16", "evaluate=[]", "batch_size=64", "tune.exact_images=0").extras["tune"]
    calls = tune["network_calls"]
    assert calls["pilot"] > 0
    assert calls["profile"] + calls["pilot"] <= 2 * calls["one_vlb"]
    assert "exact" not in tune
    assert "quality" not in tune
    assert "metric: bpd" in (tmp_path / "tuned.yaml").read_text()
    evaluation.run(spec.load(tmp_path / "tuned.yaml"), tmp_path / "run", limit=4, progress=False)
    pilot, profile = pilots[-1], Profile.from_tensors(load_file(tmp_path / "profile.safetensors"))
    assert pilot is not None
    assert torch.equal(pilot.square_norm, profile.square_norm[:4])
    assert not bool((pilot.reconstruction[-7.86] == profile.reconstruction[-7.86][:4]).any())  # its noise is its own


def test_bounds_come_from_the_profile_on_images_that_the_route_was_not_chosen_on(folder: Path, told: dict[str, Any]) -> None:
    profile = Profile.from_tensors(load_file(folder / "profile.safetensors"))
    rows = {row["label"]: row for row in told["results"] if row["metric"] == "bpd"}
    routes = {row["label"]: row for row in told["tune"]["routes"]}
    assert rows.keys() == routes.keys()
    for label, row in rows.items():
        assert (row["estimator"], row["n"]) == ("vlb", 6)
        assert row["protocol"]["images"] == "those that the route was not chosen on"
        assert (row["value"], row["standard_error"]) == (routes[label]["bpd"]["value"], routes[label]["bpd"]["standard_error"])
        assert sum(row["nfe_per_expert"].values()) == pytest.approx(8)
    both = profile.vlb(Single("quality")).values
    assert rows["quality"]["value"] != pytest.approx(float(both.mean()), abs=1e-9)
    halves = {float(both[list(half)].mean()) for half in torch.combinations(torch.arange(12), 6).tolist()}
    assert min(abs(rows["quality"]["value"] - value) for value in halves) < 1e-12


def test_uniform_cells_are_the_bound_itself(folder: Path, tmp_path: Path) -> None:
    """Too few images for a pilot: the profile is what `bpd` measures with as many times."""
    profile = Profile.from_tensors(load_file(folder / "profile.safetensors"))
    direct = evaluation.run(digits("evaluate=[{metric: bpd, estimator: vlb, times: 8, images: 12}]"), tmp_path, progress=False)
    assert float(profile.vlb(digits().policy()).values.mean()) == pytest.approx(direct.rows[0]["value"], abs=1e-6)


def test_the_tuned_spec_runs_and_says_what_to_expect(folder: Path, told: dict[str, Any], tmp_path: Path) -> None:
    text = (folder / "tuned.yaml").read_text()
    assert text.startswith("# Made by `snrouter tune`: ")
    chosen = told["tune"]["chosen"]
    assert f"bits/dim {chosen['expected']['bpd']['value']:.4g} ± " in text
    document = spec.load(folder / "tuned.yaml")
    document.check()
    names, switches = document.policy().route
    assert [piece["expert"] for piece in chosen["pieces"]] == list(names)
    assert [piece["to"] for piece in chosen["pieces"]] == [*switches, document.bounds.gamma_max]
    results = evaluation.run(document, tmp_path, limit=4, progress=False)
    again = {row["metric"]: row for row in results.rows}
    assert abs(again["bpd"]["value"] - chosen["expected"]["bpd"]["value"]) < 0.5


def test_the_chosen_route_is_told_on_all_images_too(folder: Path, told: dict[str, Any]) -> None:
    profile, chosen = Profile.from_tensors(load_file(folder / "profile.safetensors")), told["tune"]["chosen"]
    whole = profile.vlb(spec.load(folder / "tuned.yaml").policy())
    assert chosen["on_all_images"] == {"value": whole.value, "standard_error": whole.standard_error, "images": 12}
    assert f"; {whole.value:.4g} ± {whole.standard_error:.2g} on all 12)" in (folder / "tuned.yaml").read_text()


def test_bounds_from_the_profile_claim_no_time_of_their_own(told: dict[str, Any]) -> None:
    assert {row["metric"] for row in told["results"] if "seconds" in row} == {"fid"}


def test_a_lone_expert_that_does_not_keep_what_is_asked_for_is_never_chosen(tmp_path: Path) -> None:
    tune = tuned(tmp_path, "tune.order=[quality, likelihood]", "tune.seams=1", "tune.exactly=true").extras["tune"]
    assert {"quality", "likelihood"} <= {row["label"] for row in tune["routes"]}
    assert [piece["expert"] for piece in tune["chosen"]["pieces"]] == ["quality", "likelihood"]


def test_without_a_metric_that_decides_nothing_is_dropped_or_told_of(tmp_path: Path) -> None:
    kid = f"evaluate=[{{metric: kid, samples: 12, checkpoint: {CLASSIFIER}}}]"
    results = tuned(tmp_path, kid, "tune.candidates=0", "tune.exact_images=0")
    assert "quality" not in results.extras["tune"]
    assert {row["n"] for row in results.rows if row["metric"] == "kid"} == {12}
    assert list(spec.load(tmp_path / "tuned.yaml").dump()["evaluate"][0].items())[:2] == [("metric", "bpd"), ("estimator", "vlb")]


def test_what_is_done_is_not_done_again(folder: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a shard was computed again")

    monkeypatch.setattr(processes, "_make", refuse)
    again = tuned(folder)
    assert evaluation.plain(again.as_dict()) == told


def test_an_interrupted_tune_goes_on(folder: Path, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = processes._make, []

    def interrupted(worker: Any, part: Any, device: Any) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part)
        make(worker, part, device)

    monkeypatch.setattr(processes, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*/*")}
    assert kept
    monkeypatch.setattr(processes, "_make", make)
    results = tuned(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert [row["value"] for row in results.rows] == [row["value"] for row in told["results"]]


def test_fresh_removes_what_this_command_made_and_a_limit_stamps(tmp_path: Path) -> None:
    first = tuned(tmp_path, limit=6)
    assert first.partial
    assert first.extras["tune"]["images"] == {"chosen_on": 3, "scored_on": 3}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*/*")}
    tuned(tmp_path, limit=6, fresh=True)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*/*")}
    assert before.keys() == after.keys()
    assert all(after[path] > before[path] for path in before)


def test_ends_are_chosen_with_the_route_and_measured_exactly(tmp_path: Path) -> None:
    ends = "tune={images: 12, times: 8, seams: 1, candidates: 0, exact_images: 2, gamma_min: [-7.86, -5], gamma_max: [5, 4]}"
    results = tuned(tmp_path, ends, f"evaluate=[{EXACT}]", "tune.experts=[quality, likelihood]")
    tune = results.extras["tune"]
    assert [(end["gamma_min"], end["gamma_max"]) for end in tune["ends"]] == [(-7.86, 4), (-7.86, 5), (-5, 4), (-5, 5)]
    (chosen,) = (end for end in tune["ends"] if end["chosen"])
    assert chosen["difference"]["value"] == 0
    assert all(end["exact"]["value"] > 0 for end in tune["ends"])
    assert tune["interval"] == [chosen["gamma_min"], chosen["gamma_max"]]
    assert chosen["value"] == tune["chosen"]["expected"]["bpd"]["value"]
    assert spec.load(tmp_path / "tuned.yaml").bounds == tuple(tune["interval"])


def test_routes_can_be_told_to_run_the_quality_expert_above_a_gamma(tmp_path: Path) -> None:
    results = tuned(tmp_path, "tune.above={quality: -4}", "evaluate=[]", "tune.exact_images=0")
    for row in results.extras["tune"]["routes"][:-2]:  # but for the single experts
        assert row["pieces"][-1]["expert"] == "quality"
        assert row["pieces"][-1]["from"] <= -4


def test_an_expert_without_a_network_costs_no_call_and_is_no_baseline(tmp_path: Path) -> None:
    results = tuned(tmp_path, "tune.experts=[discrete, quality]", "evaluate=[]", "tune.exact_images=0")
    tune = results.extras["tune"]
    assert tune["networks"] == 1
    assert tune["network_calls"]["profile"] <= tune["network_calls"]["one_vlb"]
    assert "discrete" not in {row["label"] for row in tune["routes"]}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data=null"], SpecError, "tune needs images; add data, e.g. data: {type: digits, split: test}"),
        (
            ["tune.experts=[discrete, quality]", "experts.discrete={type: discrete, levels: 256}"],
            SpecError,
            "tune: expert 'discrete': levels: expected the 17 of the data, got 256",
        ),
        (["tune.images=401"], SpecError, "tune.images: expected at most 400, the size of the data; got 401"),
        (
            ["tune.gamma_min=[-25, -7]"],
            SupportError,
            r"tune: no expert that may run supports gamma_min=-25; supports: quality \[-7.86",
        ),
        (
            ["experts.quality.support=[-2, 5]", "experts.likelihood.support=[-7.86, -3]"],
            SupportError,
            r"covers gamma in \[-3, -2\]",
        ),
        (
            ["tune.order=[quality]", "experts.quality.support=[-2, 5]"],
            SupportError,
            "no expert that may run supports gamma_min=-7.86",
        ),
        (
            ["tune.seams=3", "tune.exactly=true", "tune.order=[quality, likelihood]"],
            SupportError,
            "keeps exactly 3 seams and the order",
        ),
        (
            ["tune.images=64", "tune.times=16", "tune.seams=15", "tune.exactly=true"],
            SupportError,
            "tune: no route over .* in 15 cells keeps exactly 15 seams",
        ),
        (
            ["interval.gamma_max=6", "tune.experts=[quality, discrete]", "tune.above={quality: 0}"],
            SupportError,
            "above: 'quality' cannot",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_work(tmp_path: Path, overrides: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        tuned(tmp_path, *overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "shards").exists()


def test_too_small_a_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--limit: tune needs 4 images or more, got 3"):
        tuned(tmp_path, limit=3)


def test_a_route_is_dropped_only_where_another_is_better_in_both_beyond_doubt() -> None:
    noise = torch.tensor([1.0, -1.0, 0.5, -0.5])

    def rows(label: str, bpd: float, fid: float, own: float = 0.0) -> list[Row]:
        spread = noise * (1 + own)
        return [
            Row({"label": label, "metric": metric, "value": value}, i, spread, {})
            for i, (metric, value) in enumerate((("bpd", bpd), ("fid", fid)))
        ]

    found = Candidates([], "best", ["single", "other"], ["best", "worse", "finer"])
    best, worse, finer = rows("best", 1.0, 5.0), rows("worse", 1.1, 5.1), rows("finer", 1.1, 4.9)
    single, other = rows("single", 3.0, 9.0), rows("other", 2.0, 10.0)  # the finer expert is kept, for the choice is held to it
    lost = beaten([*best, *worse, *finer, *single, *other], found)
    assert {label: lost[label].by for label in lost} == {"worse": "best", "other": "best"}
    assert lost["worse"].difference["fid"] == pytest.approx((0.1, 0.0))
    doubtful = rows("worse", 1.1, 5.1, own=1.0)  # its own noise is larger than how far it is behind
    assert beaten([*best, *doubtful], found) == {}
    nowhere = [Row({"label": "nowhere", "metric": "bpd", "value": 9.0}, 0, noise, {})]  # not measured by both
    assert beaten([*best, *nowhere], found) == {}
    lone = rows("other", 0.9, 4.0)  # better in both, but it may not be chosen
    assert beaten([*best, *finer, *lone], found) == {}


def test_no_route_takes_the_place_of_another_of_its_label() -> None:
    document = digits()
    measured: Any = SimpleNamespace(profile=SimpleNamespace(times=8), levels=17)
    found = _Found(document, measured, document.bounds)
    policies = [Threshold("likelihood", "quality", switch) for switch in (-3.001, -3.002, -3.001)]
    labels = [found.add("quality above -3", policy, document.bounds) for policy in policies]
    assert labels == ["quality above -3", "quality above -3 (2)", "quality above -3"]
    assert len(found.routes) == 2


@pytest.mark.parametrize(
    "policy",
    [
        Single("quality"),
        Threshold("likelihood", "quality", -3.25),
        Piecewise([Stretch("quality", -6.0), Stretch("likelihood", -3.0), Stretch("quality")]),
    ],
)
def test_a_route_is_written_as_a_spec_that_says_the_same(policy: Any) -> None:
    assert digits().with_route(written(policy)).policy().route == policy.route
