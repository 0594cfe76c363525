"""Explain: the same positions on every clock, before any expert is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scheduler_files import DDIM
from typer.testing import CliRunner

from snrouter import spec
from snrouter.cli import app
from snrouter.errors import SpecError
from snrouter.explain import explain
from snrouter.gamma import from_alpha_bar, position
from snrouter.schedules import VPSchedule

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 5.0}
SPEC = """
experts:
  ddpm: {type: diffusers, checkpoint: ddpm}
  flat: {type: diffusers, checkpoint: unet, scheduler: wan-like.json, data_scale: 1.0}
  listed: {type: generic, checkpoint: absent.safetensors, clock: discrete, clock_parameters: {alphas_cumprod: [0.9, 0.5, 0.1]}}
  vp: {type: edm, checkpoint: vp.safetensors}
  plain: {type: edm, checkpoint: plain.safetensors}
route: {type: threshold, low: ddpm, high: plain, switch: {boundary_ratio: 0.875, scheduler: wan}}
interval: {gamma_min: -9.0, gamma_max: 11.0}
solver: {type: ddim, steps: 10}
"""


@pytest.fixture
def document(tmp_path: Path) -> spec.Document:
    for folder, config in (("ddpm/scheduler", DDIM), ("wan/scheduler", FLOW)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "scheduler_config.json").write_text(json.dumps(config))
    (tmp_path / "unet").mkdir()
    (tmp_path / "wan-like.json").write_text(json.dumps(DDIM))
    for name, expert in (("vp", {"preconditioning": "vp", "data_scale": 1.0}), ("plain", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"format": 1, "network": {}, "expert": expert}))
    (tmp_path / "spec.yaml").write_text(SPEC)
    return spec.load(tmp_path / "spec.yaml")


def test_the_same_positions_on_every_clock_of_numbered_steps(document: spec.Document) -> None:
    clocks = {clock["of"]: clock["at"] for clock in explain(document)["clocks"]}
    assert list(clocks) == ["ddpm", "flat", "listed", "vp", next(name for name in clocks if name.endswith("/wan"))]
    switch = 2 * math.log(7)
    for at in clocks.values():
        assert [row["gamma"] for row in at] == pytest.approx([11.0, switch, -9.0])
    (wan,) = (at for name, at in clocks.items() if name.endswith("/wan"))
    assert (wan[1]["timestep"], wan[1]["boundary_ratio"], wan[1]["denoising_end"]) == pytest.approx((875, 0.875, 0.125))
    assert clocks["flat"][0] == {"gamma": 11.0, "timestep": None, "boundary_ratio": None, "denoising_end": None}  # beyond step 999
    step = clocks["flat"][1]["timestep"]
    assert position({"timestep": step, "scheduler": document.schedulers()[0].parent / "wan-like.json"}) == pytest.approx(switch)
    shifted = position({"timestep": clocks["ddpm"][1]["timestep"], "scheduler": document.schedulers()[0].parent / "ddpm"})
    assert shifted - switch == pytest.approx(2 * math.log(256 / 255), abs=1e-9)
    assert clocks["listed"][1] == {"gamma": pytest.approx(switch), "timestep": None}
    time = VPSchedule(0.1, 20.0).t(torch.tensor(switch, dtype=torch.float64))
    assert clocks["vp"][1]["timestep"] == pytest.approx(999 * float(time))


def test_fractional_steps_of_a_listed_clock(document: spec.Document, tmp_path: Path) -> None:
    middle = (from_alpha_bar(0.5) + from_alpha_bar(0.1)) / 2
    told = explain(spec.load(tmp_path / "spec.yaml", [f"route.switch={middle}"]))
    (listed,) = (clock["at"] for clock in told["clocks"] if clock["of"] == "listed")
    assert listed[1]["timestep"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("clock_parameters", "message"),
    [
        (
            "clock_parameters: {alphas_cumprd: [0.9, 0.1]}",
            "clock 'discrete': unknown parameter 'alphas_cumprd'; did you mean 'alphas_cumprod'?; known: alphas_cumprod",
        ),
        ("clock_parameters: {}", "clock 'discrete': alphas_cumprod missing; known: alphas_cumprod"),
        ("data_scale: 1.0", "clock 'discrete': alphas_cumprod missing; known: alphas_cumprod"),
        (
            "clock_parameters: {alphas_cumprod: 3}",
            "alphas_cumprod: expected a list of two or more numbers strictly between 0 and 1",
        ),
        ("clock_parameters: {alphas_cumprod: [0.1, 0.9]}", "alphas_cumprod: expected strictly decreasing values"),
        (
            "clock_parameters: {alphas_cumprod: [0.9, 0.1], name: 3}",
            "clock 'discrete': unknown parameter 'name'; known: alphas_cumprod",
        ),
    ],
)
def test_a_slip_in_a_clocks_parameters_is_told_with_its_place(
    document: spec.Document, tmp_path: Path, clock_parameters: str, message: str
) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("clock_parameters: {alphas_cumprod: [0.9, 0.5, 0.1]}", clock_parameters))
    with pytest.raises(SpecError) as caught:
        explain(spec.load(tmp_path / "spec.yaml"))
    assert str(caught.value).startswith(f"spec.yaml:5 experts.listed.clock_parameters: {message}")


@pytest.mark.parametrize(
    ("clock", "slip", "known"), [("vp", "beta_mn", "beta_min"), ("linear", "gama_min", "gamma_min"), ("cosine", "S", "s")]
)
def test_a_slip_in_any_clock_is_told(document: spec.Document, tmp_path: Path, clock: str, slip: str, known: str) -> None:
    wrong = spec.load(tmp_path / "spec.yaml", [f"experts.listed.clock={clock}", f"experts.listed.clock_parameters={{{slip}: 0.1}}"])
    with pytest.raises(SpecError, match=rf"experts.listed.clock_parameters: clock '{clock}': unknown parameter '{slip}'.*{known}"):
        explain(wrong)


@pytest.mark.parametrize("expert", ["ddpm", "listed", "vp"])
def test_a_scale_that_is_none_is_told_with_its_place(document: spec.Document, tmp_path: Path, expert: str) -> None:
    wrong = spec.load(tmp_path / "spec.yaml", [f"experts.{expert}.data_scale=-1"])
    with pytest.raises(SpecError, match=rf"^--set experts.{expert}: data_scale: expected a positive number, got -1$"):
        explain(wrong)


@pytest.mark.parametrize(
    "card",
    [
        '{"expert": [1]}',
        '{"expert": null}',
        "[" * 200_000,
        *(
            json.dumps({"expert": {"preconditioning": "vp", **wrong}})
            for wrong in ({"data_scale": "abc"}, {"data_scale": -1}, {"M": 10**400}, {"beta_d": None}, {"C_1": 0.1})
        ),
        json.dumps({"expert": {"preconditioning": "vp", "beta_d": 1e300, "beta_min": 1e300}}),
        json.dumps({"expert": {"preconditioning": "iddpm", "M": 10**12}}),
        json.dumps({"expert": {"preconditioning": ["vp"]}}),
    ],
    ids=range(11),
)
def test_a_card_that_cannot_be_right_has_no_clock(document: spec.Document, tmp_path: Path, card: str) -> None:
    (tmp_path / "vp.json").write_text(card)
    assert "vp" not in [clock["of"] for clock in explain(document)["clocks"]]


def test_a_spec_without_numbered_steps_has_no_clocks() -> None:
    assert explain(spec.load("digits"))["clocks"] == []


def test_the_command_prints_them(document: spec.Document, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "spec.yaml")], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    table = result.output.split("the same positions in numbered steps")[1]
    assert "boundary_ratio" in table
    (row,) = (line for line in table.splitlines() if "/wan" in line and "3.8918" in line)
    assert [cell.strip() for cell in row.split("│")][2:6] == ["3.8918", "875", "0.875", "0.125"]
    assert "numbered steps" not in CliRunner().invoke(app, ["explain", "digits"]).output
