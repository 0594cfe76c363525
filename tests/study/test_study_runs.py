"""A study trains each thing once, goes on where it was, and tells a failed cell while the others finish."""

import json
from pathlib import Path

import pytest
from small_studies import SMALL, FakeTraining, small

from snrouter.cli import app
from snrouter.errors import SpecError
from snrouter.study import hands, study
from snrouter.study import tasks as study_tasks


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(study_tasks, "train_recipe", fake)
    return fake


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of evaluations that are made."""
    made, run = [], study_tasks.run

    def noted(document, out, **options):
        made.append(out)
        return run(document, out, **options)

    monkeypatch.setattr(study_tasks, "run", noted)
    return made


def by_name(content: dict) -> dict[str, dict]:
    return {model["name"]: model for model in content["models"]}


def test_a_study_trains_once_and_evaluates_every_cell(tmp_path: Path, trained: FakeTraining, runs: list[Path]) -> None:
    content = study(small(tmp_path), tmp_path / "out", progress=False)
    assert trained.asked == [("single", 0), ("single", 1)]  # two models, two seeds
    assert content == json.loads((tmp_path / "out/study.json").read_text())
    cells = [cell for model in content["models"] for cell in model["cells"]]
    assert len(cells) == 8
    assert len(runs) == 8
    assert all(
        cell["status"] == "done" and [row["metric"] for row in cell["results"]] == ["bpd", "inception_score"] for cell in cells
    )
    assert all((tmp_path / "out" / cell["folder"] / "report.html").exists() for cell in cells)
    models = by_name(content)
    assert models["alone"]["trained"]
    assert models["alone"]["route"] == "single"
    assert models["alone"]["recipes"] == ["single"]
    assert models["alone"]["steps"]["single"]["train"]["steps"] == 2
    assert not models["threshold"]["trained"]
    assert "noise only" in models["threshold"]["about"]
    assert "eta" in models["early"]["about"]
    (bpd,) = (one for one in content["measures"] if one["key"] == "bpd")
    numbers = bpd["by_model"]
    assert numbers["alone"]["values"] == numbers["alone-again"]["values"]
    assert numbers["alone"]["values"][0] != numbers["alone"]["values"][1]  # the seed is of the noise, too
    assert numbers["early"]["values"] != numbers["threshold"]["values"]  # the model's own switch
    assert numbers["threshold"]["relative"] is None
    assert numbers["early"]["relative"]["interval"] is not None
    assert [one["key"] for one in content["measures"]] == ["bpd", "bpd/slices/round", "inception_score"]


def test_cost_is_measured_alone_at_the_end(tmp_path: Path) -> None:
    text = SMALL.split("slices:")[0] + "study: {seeds: [3], models: {own: {}}}\n"
    cost = "evaluate.1={metric: cost, batch: 1, repetitions: 2, warmup: 1}"
    content = study(small(tmp_path, cost, text=text), tmp_path / "out", progress=False)
    (cell,) = content["models"][0]["cells"]
    assert [row["metric"] for row in cell["results"]] == ["bpd", "cost"]
    first, alone = (json.loads((tmp_path / "out" / cell["folder"] / name).read_text()) for name in ("cell.json", "alone.json"))
    assert cell["seconds"] == pytest.approx(first["seconds"] + alone["seconds"])
    assert content["models"][0]["parameters"]["total"] == cell["results"][1]["parameters"]
    assert [one["key"] for one in content["measures"]] == ["bpd", "cost", "cost/peak_memory_bytes", "cost/parameters"]


def test_a_study_goes_on_where_it_was(tmp_path: Path, trained: FakeTraining, runs: list[Path]) -> None:
    out = tmp_path / "out"
    one_seed = "study.seeds=[1]"
    first = study(small(tmp_path, one_seed), out, progress=False)
    trained.asked.clear()
    runs.clear()
    assert study(small(tmp_path, one_seed), out, progress=False) == first
    assert not trained.asked
    assert not runs
    (out / "cells/early/seed1/cell.json").unlink()
    study(small(tmp_path, one_seed), out, progress=False)
    assert runs == [(out / "cells/early/seed1").resolve()]
    runs.clear()
    study(small(tmp_path, one_seed, "study.models.early.set={route.switch: {eta: 0.7}}"), out, progress=False)
    assert {path.parent.name for path in runs} == {"early"}
    assert not trained.asked
    runs.clear()
    study(small(tmp_path, one_seed), out, fresh=True, progress=False)
    assert len(trained.asked) == 1
    assert len(runs) == 4


def test_a_failed_cell_is_told_and_the_others_finish(tmp_path: Path, trained: FakeTraining) -> None:
    trained.fails = {1}
    content = study(small(tmp_path), tmp_path / "out", progress=False)
    models = by_name(content)
    assert [cell["status"] for cell in models["alone"]["cells"]] == ["done", "failed"]
    assert "seed 1 is unlucky" in models["alone"]["cells"][1]["error"]
    assert len(content["errors"]) == 2
    assert [cell["status"] for cell in models["early"]["cells"]] == ["done", "done"]
    assert content["measures"][0]["by_model"]["alone"]["values"][1] is None
    assert any("2 of 8 cells failed" in line for line in content["findings"])
    trained.fails.clear()
    assert not study(small(tmp_path), tmp_path / "out", progress=False)["errors"]


def test_metrics_that_a_route_cannot_have_are_left_out(tmp_path: Path) -> None:
    text = (
        SMALL.split("train:")[0]
        + "study: {seeds: [0], models: {lot: {set: {route: {type: random, among: [quality, likelihood]}}}, own: {}}}\n"
    )
    content = study(small(tmp_path, "evaluate.1={metric: psnr, images: 4}", text=text), tmp_path / "out", progress=False)
    (lot,), (own,) = (model["cells"] for model in content["models"])
    assert [row["metric"] for row in lot["results"]] == ["bpd"]
    assert "psnr" in lot["left_out"]
    assert [row["metric"] for row in own["results"]] == ["bpd", "psnr"]
    assert not own["left_out"]
    (psnr,) = (one for one in content["measures"] if one["key"] == "psnr")
    assert psnr["by_model"]["lot"]["values"] == [None]
    assert psnr["by_model"]["own"]["values"][0] > 0


def test_tuned_routes_are_found_and_evaluated(tmp_path: Path) -> None:
    text = SMALL.split("train:")[0] + (
        "tune: {experts: [likelihood, quality], images: 8, times: 4, candidates: 0, exact_images: 0}\n"
        "study: {seeds: [0], models: {tuned: {tune: true}}}\n"
    )
    content = study(small(tmp_path, text=text), tmp_path / "out", progress=False)
    (model,) = content["models"]
    assert not model["trained"]
    assert model["cells"][0]["status"] == "done"
    assert model["cells"][0]["steps"]["tune"]["profile"]["rows"] > 0
    found = json.loads(next((tmp_path / "out/trained").glob("tune-seed0-*/results.json")).read_text())
    row = model["cells"][0]["results"][0]
    pieces = found["tune"]["chosen"]["pieces"]
    assert row.get("expert") == pieces[0]["expert"] or row["gamma_switch"] == pytest.approx(pieces[0]["to"])


def test_a_limit_stamps_the_study(tmp_path: Path, trained: FakeTraining) -> None:
    content = study(
        small(tmp_path, "study.models={own: {}}", "study.baseline=own", "study.seeds=[0]"),
        tmp_path / "out",
        limit=3,
        progress=False,
    )
    assert content["partial"]
    assert content["models"][0]["cells"][0]["results"][0]["n"] == 3


@pytest.mark.parametrize("before", ["write_report", "times"])
def test_what_a_limited_study_leaves_when_it_is_killed_is_not_the_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    text = SMALL.split("slices:")[0] + "study: {seeds: [0], models: {own: {}}}\n"
    document = small(tmp_path, "evaluate.1={metric: cost, batch: 1, repetitions: 2, warmup: 1}", text=text)
    (full,) = study(document, tmp_path / "out", progress=False)["models"][0]["cells"]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if before == "times":
            patched.setattr(hands, "_started", killed)  # the process that measures alone
        else:
            patched.setattr(study_tasks, before, killed)  # results.json is written, the receipt is not
        with pytest.raises(KeyboardInterrupt):
            study(document, tmp_path / "out", limit=3, progress=False)
    content = study(document, tmp_path / "out", progress=False)
    (cell,) = content["models"][0]["cells"]
    assert cell["status"] == "done"
    assert cell["key"] == full["key"]
    assert [row["metric"] for row in cell["results"]] == ["bpd", "cost"]
    assert cell["results"][0]["n"] == full["results"][0]["n"] == 10


def test_a_receipt_whose_files_are_gone_does_not_count(tmp_path: Path, trained: FakeTraining, runs: list[Path]) -> None:
    out, document = (
        tmp_path / "out",
        small(tmp_path, "study.seeds=[1]", "study.models={alone: {train: single}}", "study.baseline=alone"),
    )
    study(document, out, progress=False)
    (out / "cells/alone/seed1/results.json").unlink()
    study(document, out, progress=False)
    assert len(runs) == 2
    receipt = next((out / "trained").glob("*/done.json"))
    told = json.loads(receipt.read_text())
    told["made"]["experts"]["single"]["checkpoint"] = str(out / "gone.safetensors")
    receipt.write_text(json.dumps(told))
    trained.asked.clear()
    study(document, out, progress=False)
    assert trained.asked == [("single", 1)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.models.early.set={seed: 5}", "got seed, which all models"),
        ("study.models.early.set={data.split: train}", "got data, which all models"),
        ("study.models.early.set={slices.round: {classes: [1]}}", "got slices.round, which all models"),
        ("study.models.alone.train=singel", "no recipe 'singel'; did you mean 'single'?"),
        ("study.models.early.set={seed.a.b: 1}", "seed.a.b does not lead to a key"),
        ("study.models.early.set={solver.type: hoin}", "hoin"),
        ("study={models: {}}", "study.models"),
        ("evaluate=[{metric: bpd, estimator: vlb, images: 9999}]", "images: expected 1 to 400"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_is_trained(
    tmp_path: Path, trained: FakeTraining, override: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        study(small(tmp_path, override), tmp_path / "out", progress=False)
    assert not trained.asked
    assert not (tmp_path / "out/study.json").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [("study.baseline=thresh", "did you mean 'threshold'"), ("study.seeds=[0, 0]", "each once"), ("study.models.a/b={}", "a/b")],
)
def test_a_wrong_table_is_refused_with_the_spec(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        small(tmp_path, override)


def test_a_spec_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing to study"):
        study(small(tmp_path, text="extends: digits\n"), tmp_path / "out", progress=False)


def test_the_command_tells_failed_cells_and_ends_with_one(
    tmp_path: Path, trained: FakeTraining, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path)
    trained.fails = {0}
    only = "study.models={own: {}, bad: {train: single}}"
    asked = ["study", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), "--devices", "1"]
    asked += ["--set", only, "--set", "study.baseline=own", "--set", "study.seeds=[0]"]
    assert app([*asked, "--json"], standalone_mode=False) == 1
    told = json.loads(capsys.readouterr().out)
    assert [model["cells"][0]["status"] for model in told["models"]] == ["done", "failed"]
    assert app(asked, standalone_mode=False) == 1
    shown = capsys.readouterr()
    assert "error: bad, seed 0: single-seed0-" in shown.err
    assert "ValueError: seed 0 is unlucky" in shown.err
    assert "study.json" in shown.out
    assert (tmp_path / "out/report.html").exists()
