"""The command line: exit codes, one-line errors, JSON, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snrouter import cli
from snrouter.cli.options import folder_of
from snrouter.experts.checkpoints import card_path, save_checkpoint
from snrouter.experts.networks import build

SMALL = [
    "--set=evaluate.0.times=2",
    "--set=evaluate.0.images=6",
    "--set=evaluate.1.samples=8",
    "--set=solver={type: heun, steps: 2}",
    "--set=sweep.switches=[{eta: 0.3}]",
]

ORACLES = """
experts:
  low: {type: gaussian, mean: [0.0], standard_deviation: [0.4], shape: [1, 2, 2], support: [-12, 0]}
  high: {type: gaussian, mean: [0.0], standard_deviation: [0.6], shape: [1, 2, 2], support: [-6, 6]}
route: {type: threshold, low: low, high: high, switch: {gamma: -3}}
interval: {gamma_min: -12.0, gamma_max: 4.0}
shape: [1, 2, 2]
"""


@pytest.fixture(autouse=True)
def _keep_showwarning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["snrouter", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    streams = capsys.readouterr()
    return int(stop.value.code or 0), streams.out, streams.err


@pytest.fixture
def snrouter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture
def oracles(tmp_path: Path) -> Path:
    path = tmp_path / "oracles.yaml"
    path.write_text(ORACLES)
    return path


def refused(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """The command ended with that code and one line on standard error that holds every part."""
    got, out, err = result
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


# --- the commands ----------------------------------------------------------------------------------------------------


def test_demo_sweeps_and_makes_the_page(snrouter: Any, tmp_path: Path) -> None:
    code, out, _ = snrouter("demo", "--devices", "1", *SMALL)
    assert code == 0
    assert "eta" in out
    assert (tmp_path / "runs/demo/report.html").exists()
    assert f"page:    {Path('runs/demo/report.html')}" in out
    labels = {row["label"] for row in json.loads((tmp_path / "runs/demo/results.json").read_text())["results"]}
    assert labels == {"eta=0.3", "quality", "likelihood"}


def test_run_json_is_one_object_and_nothing_else(snrouter: Any, tmp_path: Path) -> None:
    code, out, err = snrouter("run", "digits", "--json", "--devices", "1", "--out", "here", *SMALL)
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "here/results.json").read_text())
    code, out, _ = snrouter("report", "here", "--out", "page.html", "--json")
    assert code == 0
    assert Path(json.loads(out)["page"]).read_text().startswith("<!DOCTYPE html>")


def test_sweep_and_limit(snrouter: Any) -> None:
    code, out, _ = snrouter("sweep", "digits", "--limit", "4", "--devices", "1", "--json", *SMALL)
    assert code == 0
    assert json.loads(out)["partial"] is True


def test_tune_prints_one_object_and_writes_a_spec_that_runs(snrouter: Any, tmp_path: Path) -> None:
    few = ["--set=tune={times: 4, candidates: 0, exact_images: 0}", "--set=tune.experts=[quality, likelihood]"]
    code, out, _ = snrouter("tune", "digits", "--limit", "4", "--devices", "1", "--json", *SMALL, *few)
    assert code == 0
    results = json.loads(out)
    assert results["partial"]
    assert results["tune"]["chosen"]["spec"] == "tuned.yaml"
    folder = tmp_path / "runs" / "digits-tune"
    assert {"tuned.yaml", "profile.safetensors", "report.html", "results.json"} <= {path.name for path in folder.iterdir()}
    code, out, _ = snrouter("run", folder / "tuned.yaml", "--limit", "4", "--devices", "1", "--json")
    assert code == 0
    assert json.loads(out)["spec"]["route"]["type"] in ("single", "threshold", "piecewise")
    code, out, error = snrouter("tune", "digits", "--set", "tune.quality=qualty")
    assert (code, out) == (2, "")
    assert error.startswith("error: --set tune.quality: no expert 'qualty' to choose from; did you mean 'quality'?")


def test_sample_writes_images(snrouter: Any, tmp_path: Path) -> None:
    code, out, _ = snrouter("sample", "digits", "-n", "5", "--devices", "1", "--out", "s", *SMALL)
    assert code == 0
    assert (tmp_path / "s/samples.safetensors").exists()
    assert (tmp_path / "s/samples.png").read_bytes().startswith(b"\x89PNG")
    assert "samples.png" in out


def test_statistics_are_a_reference_for_another_run(snrouter: Any, tmp_path: Path) -> None:
    code, out, _ = snrouter("statistics", "digits", "--out", "train.npz", "--json")
    assert code == 0
    told = {"file": "train.npz", "features": "classifier", "dimensions": 64, "reference": "digits/train", "n": 1397}
    assert json.loads(out) == told
    values = []
    for extra in ([], [f"--set=evaluate.1.statistics={tmp_path / 'train.npz'}"]):
        code, out, _ = snrouter("run", "digits", "--devices", "1", *SMALL, *extra, "--json")
        values.append(next(row for row in json.loads(out)["results"] if row["metric"] == "fid"))
    assert values[1]["value"] == values[0]["value"]
    assert values[1]["protocol"]["reference"] == "train.npz"
    refused(snrouter("statistics", "digits", "--set=evaluate=[{metric: bpd}]"), 2, "no fid in evaluate")


def test_train_writes_a_checkpoint_that_runs(snrouter: Any, tmp_path: Path) -> None:
    tiny = ["--set=train.quality.steps=2", "--set=train.quality.network={type: unet, channels: [8, 8]}"]
    code, out, _ = snrouter("train", "digits", "quality", "--out", "w", "--json", *tiny)
    assert code == 0
    assert json.loads(out)["quality"]["recipe"]["steps"] == 2
    override = f"--set=experts.quality.checkpoint={tmp_path / 'w/quality.safetensors'}"
    assert snrouter("validate", "digits", override)[0] == 0
    refused(snrouter("train", "digits", "qualty"), 2, "no recipe 'qualty'; did you mean 'quality'?")
    refused(snrouter("train", "digits", "--set=train={}"), 2, "nothing to train")


def test_validate_tells_each_level(snrouter: Any, oracles: Path) -> None:
    code, out, _ = snrouter("validate", "digits", "--dry-run", "--json", *SMALL)
    assert code == 0
    assert [check["name"] for check in json.loads(out)["checks"]] == [
        "schema",
        "data",
        "reference",
        "overlap",
        "gamma coverage",
        "shapes",
        "sweep",
        "metrics",
        "dry run",
    ]
    code, out, _ = snrouter("validate", oracles)
    assert code == 0
    assert "2 pieces cover [-12, 4]" in out


def test_validate_checks_what_tune_is_asked_for(snrouter: Any) -> None:
    code, out, _ = snrouter("validate", "digits", "--set=tune={experts: [quality, likelihood], images: 40}", *SMALL)
    assert code == 0
    assert "ok tune: it chooses among quality, likelihood on 40 images" in out
    code, _, err = snrouter("validate", "digits", "--set=tune={seams: 9, exactly: true, times: 8}", *SMALL)
    assert code == 2
    assert "tune: no route over [-7.86, 5] in 8 cells keeps exactly 9 seams" in err


def test_validate_warns_of_images_that_are_measured_and_trained_on(snrouter: Any) -> None:
    for split, told in (("train", "ok overlap: no image of data is"), ("test", "warning overlap: 400 of 400 images of data are")):
        code, out, _ = snrouter("validate", "digits", f"--set=reference.split={split}")
        assert code == 0
        assert f"{told} also in reference, pixel by pixel" in out


def test_explain_reads_no_weights(snrouter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ["--set=experts.quality.checkpoint=absent.safetensors", "--set=experts.likelihood.checkpoint=absent.safetensors"]
    code, out, _ = snrouter("explain", "digits", "--json", *absent)
    assert code == 0
    told = json.loads(out)
    assert [(piece["expert"], piece["steps"]) for piece in told["pieces"]] == [("quality", [1, 16]), ("likelihood", [17, 19])]
    edge = told["pieces"][0]["to"]
    assert edge["eta"] == pytest.approx(0.2)
    assert edge["edm_sigma"] == pytest.approx(np.exp(edge["gamma"] / 2))
    code, out, _ = snrouter("explain", "digits", "--set=solver={type: ode}")
    assert code == 0
    assert "adaptive" in out


@pytest.mark.parametrize("solver", ["{type: ddim, steps: 10}", "{type: ancestral, steps: 7}", "{type: euler, steps: 6}"])
def test_explain_agrees_with_the_calls_that_are_made(snrouter: Any, solver: str) -> None:
    told = json.loads(snrouter("explain", "digits", f"--set=solver={solver}", "--json")[1])
    _, out, _ = snrouter("run", "digits", "--devices", "1", "--json", *SMALL, f"--set=solver={solver}")
    made = next(row for row in json.loads(out)["results"] if row["metric"] == "fid")["nfe_per_expert"]
    assert {piece["expert"]: piece["steps"][1] - piece["steps"][0] + 1 for piece in told["pieces"]} == made


def test_list_schema_doctor(snrouter: Any) -> None:
    code, out, _ = snrouter("list", "solvers", "--json")
    assert code == 0
    rows = json.loads(out)["plugins"]
    assert {"ode", "heun", "ancestral", "euler", "ddim"} <= {row["name"] for row in rows}
    assert {row["status"] for row in rows if row["package"] == "snrouter"} == {"ok"}
    assert "threshold" in snrouter("list")[1]
    refused(snrouter("list", "solver"), 2, "unknown kind 'solver'; did you mean 'solvers'?")
    assert json.loads(snrouter("schema")[1])["title"] == "Spec"
    code, out, _ = snrouter("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["embedded weights"]["ok"]
    assert code == int(not all(check["ok"] for check in checks.values()))


def test_version_and_usage(snrouter: Any) -> None:
    assert snrouter("--version")[1].strip().count(".") == 2
    refused(snrouter("rnu"), 2, "rnu")
    refused(snrouter("run"), 2, "SPEC")
    code, out, _ = snrouter("run", "digits", "--set=sede=1", "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)


def test_debug_shows_the_traceback(snrouter: Any) -> None:
    code, _, err = snrouter("run", "digits", "--set=sede=1", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_an_unexpected_error_is_one_line_too(snrouter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("snrouter.explain.explain", broken)
    refused(snrouter("explain", "digits"), 1, "RuntimeError: surprise", "--debug shows where")


def test_warnings_are_lines_of_their_own(snrouter: Any, oracles: Path) -> None:
    allowed = oracles.read_text().replace("standard_deviation: [0.6]", "standard_deviation: [0.6], allow_extrapolation: true")
    oracles.write_text(allowed)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, err = snrouter("sample", oracles, "-n", "2", "--set=interval.gamma_max=7", "--devices", "1")
    assert code == 0
    assert "warning: expert 'high' runs up to 1 in gamma beyond its support [-6, 6] (allow_extrapolation is set)" in err


def test_each_command_has_its_own_folder(snrouter: Any, tmp_path: Path) -> None:
    assert snrouter("sample", "digits", "-n", "2", "--devices", "1", *SMALL)[0] == 0
    assert snrouter("run", "digits", "--devices", "1", *SMALL)[0] == 0
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {"digits-sample", "digits-run"}


def test_a_tuned_spec_runs_in_a_folder_by_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of(None, "run", "runs/digits-tune/tuned.yaml") == Path("runs/digits-tune-tuned-run")
    assert folder_of(None, "run", "tuned.yaml") == Path(f"runs/{tmp_path.name}-tuned-run")
    assert folder_of(None, "run", "runs/digits-tune/other.yaml") == Path("runs/other-run")
    assert folder_of(Path("here"), "run", "runs/digits-tune/tuned.yaml") == Path("here")


def test_an_interrupt_says_that_work_is_kept(snrouter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("snrouter.evaluation.run", interrupted)
    refused(snrouter("run", "digits"), 130, "what is finished is kept")


def test_of_launched_processes_the_first_alone_speaks(snrouter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TORCHELASTIC_RUN_ID": "1",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("snrouter.evaluation.run", lambda *_, **__: warnings.warn("odd", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert snrouter("run", "digits", "--json") == (0, "", "")
    refused(snrouter("run", "digits", "--devices", "two", "--json"), 2, "error: process 1: --devices: expected a number")


def test_no_arguments_print_the_help(snrouter: Any) -> None:
    code, out, err = snrouter()
    assert code == 2
    assert "Usage" in out + err
    assert "error:" not in err


# --- bad input, a line each ------------------------------------------------------------------------------------------


def test_unknown_key(snrouter: Any) -> None:
    refused(snrouter("run", "digits", "--set=route.swtch=3"), 2, "--set route.swtch: unknown key; did you mean 'switch'?")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--devices", "0", "--devices: expected a number of at least 1, or auto; got 0"),
        ("--nodes", "2", "--nodes 2 need a launcher; start the same command on each with torchrun or srun"),
        ("--strategy", "dpp", "--strategy: expected auto or ddp, got 'dpp'; did you mean 'ddp'?"),
        ("--precision", "half", "error: --precision: expected float32, float64, bfloat16, got 'half'"),
    ],
)
def test_what_processes_cannot_be(snrouter: Any, tmp_path: Path, option: str, value: str, expected: str) -> None:
    for command in (["run", "digits"], ["sweep", "digits"], ["sample", "digits"], ["demo"]):
        refused(snrouter(*command, option, value), 2, expected)
    assert not list(tmp_path.iterdir())


def test_unknown_type(snrouter: Any) -> None:
    refused(snrouter("run", "digits", "--set=experts.quality.type=emd"), 2, "unknown expert type 'emd'; did you mean 'edm'?")


def test_a_switch_outside_common_support(snrouter: Any, oracles: Path) -> None:
    refused(snrouter("sample", oracles, "--set=route.switch.gamma=-9"), 2, "gamma=-9", "of 'high'", "common support [-6, 0]")


def test_a_route_with_a_gap(snrouter: Any, oracles: Path) -> None:
    gap = "--set=route={type: piecewise, pieces: [{expert: low, up_to: -3}, {expert: high, up_to: 2}]}"
    refused(snrouter("sample", oracles, gap), 2, "route has a gap: no expert above gamma=2")


def test_an_expert_outside_its_support(snrouter: Any, oracles: Path) -> None:
    refused(
        snrouter("sample", oracles, "--set=interval.gamma_max=8"),
        2,
        "expert 'high'",
        "beyond its support [-6, 6]",
        "allow_extrapolation",
    )


def test_a_missing_checkpoint(snrouter: Any) -> None:
    refused(snrouter("run", "digits", "--set=experts.quality.checkpoint=no.safetensors"), 2, "no.safetensors: no such file")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    card = {"network": {"type": "unet", "channels": [8, 8]}, "expert": {"support": [-7.86, 5.0], "data_scale": 1.0}}
    save_checkpoint(path, build(card["network"]), card)
    return path


def test_a_truncated_checkpoint(snrouter: Any, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    refused(snrouter("run", "digits", f"--set=experts.quality.checkpoint={checkpoint}"), 2, "its SHA-256 differs", "damaged")
    card = json.loads(card_path(checkpoint).read_text())
    del card["sha256"]
    card_path(checkpoint).write_text(json.dumps(card))
    refused(snrouter("run", "digits", f"--set=experts.quality.checkpoint={checkpoint}"), 2, "cannot be read as safetensors")


def test_a_wrong_shape_checkpoint(snrouter: Any, checkpoint: Path) -> None:
    card = json.loads(card_path(checkpoint).read_text())
    card["network"]["channels"] = [8, 16]
    card_path(checkpoint).write_text(json.dumps(card))
    refused(snrouter("run", "digits", f"--set=experts.quality.checkpoint={checkpoint}"), 2, "has shape", "expected")


def test_a_card_that_is_missing_or_no_card(snrouter: Any, checkpoint: Path) -> None:
    override = f"--set=experts.quality.checkpoint={checkpoint}"
    card_path(checkpoint).write_text("{")
    refused(snrouter("run", "digits", override), 2, "not JSON")
    card_path(checkpoint).write_text('{"format": 1, "network": {"type": "unt"}}')
    refused(snrouter("run", "digits", override), 2, "unknown network type 'unt'; did you mean 'unet'?")
    card_path(checkpoint).unlink()
    refused(snrouter("run", "digits", override), 2, "its card model.json is missing")


def test_a_checkpoint_for_other_images(snrouter: Any, tmp_path: Path) -> None:
    path = tmp_path / "rgb.safetensors"
    card = {"network": {"type": "unet", "in_channels": 3, "channels": [8, 8]}, "expert": {"support": [-7.86, 5.0]}}
    save_checkpoint(path, build(card["network"]), card)
    refused(
        snrouter("run", "digits", f"--set=experts.quality.checkpoint={path}", "--devices", "1", *SMALL),
        2,
        "expert 'quality' cannot take images of shape [1, 8, 8]",
    )


def test_images_outside_their_range(snrouter: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.full((4, 1, 8, 8), 17, dtype=np.uint8))
    data = f"--set=data={{type: npz, path: {tmp_path / 'bad.npz'}, levels: 17}}"
    refused(snrouter("run", "digits", data), 2, "levels span 17 to 17, expected 0 to 16")


def test_images_off_their_levels(snrouter: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.full((4, 1, 8, 8), 0.5))
    refused(snrouter("run", "digits", f"--set=data={{type: npz, path: {tmp_path / 'bad.npz'}}}"), 2, "float64", "expected integers")


def test_an_empty_or_missing_dataset(snrouter: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 1, 8, 8), dtype=np.uint8))
    refused(snrouter("run", "digits", f"--set=data={{type: npz, path: {tmp_path / 'none.npz'}}}"), 2, "no images")
    refused(snrouter("run", "digits", f"--set=data={{type: npz, path: {tmp_path / 'gone.npz'}}}"), 2, "cannot be read as .npz")
    refused(
        snrouter("run", "digits", f"--set=data={{type: npz, path: {tmp_path / 'none.npz'}, key: x}}"),
        2,
        "no array 'x'; it holds images",
    )


def test_nan_from_an_expert(snrouter: Any, tmp_path: Path) -> None:
    network = build({"type": "unet", "channels": [8, 8]})
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    path = tmp_path / "nan.safetensors"
    save_checkpoint(
        path, network, {"network": {"type": "unet", "channels": [8, 8]}, "expert": {"support": [-7.86, 5.0], "data_scale": 1.0}}
    )
    result = snrouter("sample", "digits", "-n", "2", f"--set=experts.quality.checkpoint={path}", "--devices", "1", "--json")
    assert result[0] == 1
    assert "expert 'quality' returned NaN or infinity at gamma=5" in json.loads(result[1])["error"]


def test_a_spec_in_the_output_folder_is_not_overwritten(snrouter: Any, tmp_path: Path) -> None:
    text = "# mine\nextends: digits\n"
    (tmp_path / "spec.yaml").write_text(text)
    refused(snrouter("run", "spec.yaml", "--out", ".", *SMALL), 2, "would replace", "choose another folder")
    assert (tmp_path / "spec.yaml").read_text() == text


def test_a_metric_that_cannot_work_is_refused_before_work(snrouter: Any, tmp_path: Path) -> None:
    missing = snrouter("run", "digits", "--out", "o", "--set=evaluate.1.checkpoint=gone.safetensors")
    refused(missing, 2, "evaluate[1]: checkpoint", "gone.safetensors: no such file")
    refused(
        snrouter("run", "digits", "--out", "o", "--set=evaluate.0.times=0"), 2, "evaluate[0]: times: expected at least 1, got 0"
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("? [a]\n: 1\n", "a key must be a word"),
        ("seed: !!python/object:os.system {}\n", "not YAML"),
        ("seed: 2020-13-45\n", "not YAML"),
        ("seed: &a [*a]\n", "an alias (*name) contains itself"),
    ],
)
def test_malformed_yaml(snrouter: Any, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    refused(snrouter("run", "odd.yaml"), 2, "odd.yaml", expected)


def test_the_error_of_the_design(snrouter: Any, tmp_path: Path) -> None:
    lines = [
        "extends: digits",
        *[""] * 6,
        "route:",
        "  type: threshold",
        "  low: likelihood",
        "  high: quality",
        "  switch: {etta: 0.4}",
    ]
    (tmp_path / "spec.yaml").write_text("\n".join(lines))
    result = snrouter("run", "spec.yaml")
    refused(result, 2, "error: spec.yaml:12 route.switch.etta: unknown key; did you mean 'eta'? e.g. switch: {eta: 0.4}\n")


def test_a_checkpoint_of_another_type(snrouter: Any) -> None:
    refused(snrouter("run", "digits", "--set=experts.quality.type=vdm"), 2, "it is of type 'edm', not of type 'vdm'")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"expert": [1]}, "expected a mapping under its card's expert, got [1]"),
        ({"expert": {"sigmaa": 1}}, "expert.sigmaa: unknown; did you mean 'sigma_data'?"),
        ({"expert": {"support": [1, 2, 3]}}, "expert.support: expected 2 numbers"),
        ({"expert": {"sigma_data": "x"}}, "expert.sigma_data: expected a positive number up to 1e+06, got 'x'"),
        ({"expert": {"sigma_data": -1}}, "sigma_data: expected a positive number"),
        ({"network": "unet"}, "network: expected a mapping"),
        ({"network": {"type": "unet", "channels": []}}, "network 'unet' cannot be built"),
        ({"network": {"type": "unet", "channels": [-3, 0]}}, "network 'unet': channels: expected whole numbers from 0"),
    ],
)
def test_a_bad_card(snrouter: Any, checkpoint: Path, change: dict[str, Any], expected: str) -> None:
    card = json.loads(card_path(checkpoint).read_text())
    card_path(checkpoint).write_text(json.dumps(card | change))
    refused(snrouter("run", "digits", f"--set=experts.quality.checkpoint={checkpoint}"), 2, expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("shape=[]", "shape"),
        ("solver.steps=1000000000", "--set solver: steps: expected at most 1,000,000"),
        ("route.switch.eta=1.5", "--set route.switch: eta: expected a fraction between 0 and 1"),
        ("solver=heun", "--set solver: expected a mapping, e.g. solver: {type: ode"),
        ("seed=[1,2", "the value is not YAML"),
    ],
)
def test_other_slips(snrouter: Any, override: str, expected: str) -> None:
    refused(snrouter("validate", "digits", f"--set={override}"), 2, expected)


@pytest.mark.parametrize("text", ['{"format": 1}', '{"format": 1, "results": 3}', '{"format": 1, "results": [{}]}'])
def test_damaged_results(snrouter: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    refused(snrouter("report", tmp_path), 2, "results.json: no rows of results, or damaged ones")


def test_an_interrupt_of_training_is_one(snrouter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr("snrouter.training.loop.Trainer.fit", interrupted)
    refused(snrouter("train", "digits", "classifier"), 130, "what is finished is kept")


def test_training_finds_an_unwritable_folder_first(snrouter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("trained before looking")

    monkeypatch.setattr("snrouter.training.loop.Trainer.fit", reached)
    (tmp_path / "file").write_text("in the way")
    refused(snrouter("train", "digits", "classifier", "--out", "file"), 1, "file", "cannot be written")


def test_no_samples(snrouter: Any) -> None:
    refused(snrouter("sample", "digits", "-n", "0"), 2, "n: expected at least 1 sample, got 0")


def test_an_unwritable_output_folder(snrouter: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(
        snrouter("sample", "digits", "-n", "2", "--out", "file/out"), 1, "file/out", "cannot be written", "choose another folder"
    )


def test_report_of_a_folder_without_results(snrouter: Any, tmp_path: Path) -> None:
    refused(snrouter("report", tmp_path), 2, "no results.json")


def test_devices_that_are_no_number(snrouter: Any) -> None:
    refused(snrouter("sample", "digits", "--devices", "two"), 2, "--devices: expected a number of at least 1, or auto; got two")


# --- cold starts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["import snrouter", "import sys; sys.argv = ['snrouter', '--help']; import snrouter.cli; snrouter.cli.main()"]
)
def test_a_cold_start_loads_no_torch_and_takes_under_0_3_seconds(code: str) -> None:
    """The processor time of the child, which a busy machine does not change."""
    seen = "import sys, atexit; atexit.register(lambda: print('LOADED', 'torch' in sys.modules, file=sys.stderr));" + code
    before = os.times()
    result = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    after = os.times()
    assert "LOADED False" in result.stderr
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.3


def test_every_public_name_loads() -> None:
    import snrouter

    assert {name for name in snrouter.__all__ if getattr(snrouter, name) is None} == set()
    assert "merge" in dir(snrouter)
    with pytest.raises(AttributeError, match="has no attribute 'mrge'"):
        snrouter.mrge  # noqa: B018 - the access is what is tested
