"""Specs: what is read, what is refused, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from snrouter import spec
from snrouter.errors import CheckpointError, SnrouterError, SpecError, SupportError
from snrouter.gamma import GammaInterval
from snrouter.spec.components import arguments_model

GAUSSIANS = """
experts:
  low: {type: gaussian, mean: [0.1], standard_deviation: [0.4], shape: [1, 2, 2]}
  high: {type: gaussian, mean: [0.0], standard_deviation: [0.6], shape: [1, 2, 2]}
route: {type: threshold, low: low, high: high, switch: {eta: 0.25}}
interval: {gamma_min: -12.0, gamma_max: 4.0}
"""


def write(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def fault(path: str | Path, *overrides: str) -> str:
    with pytest.raises(SnrouterError) as caught:
        spec.load(path, overrides).check()
    return str(caught.value)


@pytest.mark.parametrize(
    "position",
    [
        "{gamma: -8.0}",
        "{log_snr: 8.0}",
        "{half_log_snr: 4.0}",
        "{snr_db: 34.7435585522601}",
        "{edm_sigma: 0.01831563888873418}",
        "-8.0",
    ],
)
def test_a_switch_in_any_unit_is_the_same_gamma(tmp_path: Path, position: str) -> None:
    path = write(tmp_path, GAUSSIANS.replace("{eta: 0.25}", position))
    assert spec.load(path).policy().switch == pytest.approx(
        spec.load(write(tmp_path, GAUSSIANS, "eta.yaml")).policy().switch, abs=1e-12
    )


def test_eta_refers_to_the_interval_even_when_that_is_overridden(tmp_path: Path) -> None:
    document = spec.load(write(tmp_path, GAUSSIANS), ["interval.gamma_min=-8"])
    assert document.bounds == GammaInterval(-8.0, 4.0)
    assert document.policy().switch == pytest.approx(-5.0)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rout=3", "--set rout: unknown key; did you mean 'route'?"),
        ("route.switch.etta=0.4", "--set route.switch.etta: unknown key; did you mean 'eta'? e.g. switch: {eta: 0.4}"),
        (
            "route.swich=3",
            "--set route.swich: unknown key; did you mean 'switch'? e.g. switch: {eta: 0.4}",
        ),
        ("route.type=treshold", "unknown policy type 'treshold'; did you mean 'threshold'?"),
        ("solver.type=dopri", "--set solver.type: unknown solver type 'dopri'"),
        ("route.low=hihg", "route names expert 'hihg', which is not there; did you mean 'high'?"),
        ("route.switch.eta=1.5", "eta: expected a fraction between 0 and 1, got 1.5"),
        ("route.switch.edm_sigma=-1", "edm_sigma: expected a positive number"),
        ("interval.gamma_max=-20", "expected finite gamma_min < gamma_max"),
        ("solver={type: ode, method: rk4}", "takes a fixed number of steps"),
        ("solver={type: heun, steps: 0}", "steps: expected a whole number of at least 1, got 0"),
        ("batch_size=0", "--set batch_size: input should be greater than or equal to 1, got 0"),
        ("final=decoded", "--set final: input should be 'decode', 'sample', 'denoise' or 'none', got 'decoded'"),
        ("evaluate=[{metric: bpd, estimator: vbl}]", "evaluate[0].estimator: input should be 'ode' or 'vlb', got 'vbl'"),
        (
            "experts.low={type: generic, checkpoint: a.pt, network: unet}",
            "experts.low.network: expected a mapping, e.g. network: {type: unet, channels: [16, 48]}; got 'unet'",
        ),
        (
            "train={a: {type: gates}}",
            "train.a: type: expected edm, vdm, classifier, gate, mixture, got 'gates'; did you mean 'gate'?",
        ),
        ("evaluate=[{metrc: bpd}]", "evaluate[0].metric: missing; e.g. metric: bpd"),
        ("sweep={switches: [{eta: 2}]}", "sweep.switches[0]: eta: expected a fraction"),
        ("route={type: piecewise, pieces: []}", "pieces: expected at least one"),
        ("route={type: piecewise, pieces: [{expert: low, up_to: -3}]}", "route has a gap: no expert above gamma=-3"),
        ("route={type: piecewise, pieces: [{expert: low}, {expert: high}]}", "only the last piece goes without up_to"),
        (
            "route={type: piecewise, pieces: [{expert: low, up_to: 0}, {expert: high, up_to: -3}, {expert: low}]}",
            "up_to must ascend from least noise to most, got 0 then -3",
        ),
    ],
)
def test_a_fault_is_one_line_that_says_where_and_what_to_do(tmp_path: Path, override: str, expected: str) -> None:
    message = fault(write(tmp_path, GAUSSIANS), override)
    assert expected in message
    assert "\n" not in message


def test_a_fault_in_a_file_names_its_line(tmp_path: Path) -> None:
    message = fault(write(tmp_path, GAUSSIANS.replace("{eta: 0.25}", "{etta: 0.25}")))
    assert message.startswith("spec.yaml:5 route.switch.etta: unknown key; did you mean 'eta'? e.g. switch: {eta: 0.4}")


def test_every_fault_of_a_spec_is_told(tmp_path: Path) -> None:
    message = fault(write(tmp_path, GAUSSIANS), "sede=1", "bach_size=2")
    assert [line.split(":")[0] for line in message.splitlines()] == ["--set sede", "--set bach_size"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("experts: [", "spec.yaml:1: not YAML"),
        ("- 1\n", "spec.yaml: expected a mapping of keys"),
        ("seed: 1\nseed: 2\n", "spec.yaml:2 seed: written twice"),
        ("seed: 1\n", "spec.yaml experts: missing; e.g. experts: {"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in fault(write(tmp_path, text))


def test_a_missing_spec_suggests_embedded_ones() -> None:
    assert "did you mean 'digits'?; embedded: digits" in fault("digts")


def test_extends_overrides_parts_and_keeps_the_place_of_each(tmp_path: Path) -> None:
    write(tmp_path, GAUSSIANS, "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nroute:\n  switch: {gamma: -3.0}\nseed: 7\n", "child.yaml")
    document = spec.load(child)
    assert (document.policy().low, document.policy().switch, document.spec.seed) == ("low", -3.0, 7)
    other = write(tmp_path, "extends: base.yaml\nroute: {type: single, expert: low}\n", "single.yaml")
    assert spec.load(other).policy().expert == "low"
    broken = write(tmp_path, "extends: base.yaml\n\nroute: {swich: 3}\n", "broken.yaml")
    assert fault(broken).startswith("broken.yaml:3 route.swich: unknown key")
    loop = write(tmp_path, "extends: loop.yaml\n", "loop.yaml")
    assert "extends itself" in fault(loop)


def test_extends_an_embedded_spec(tmp_path: Path) -> None:
    document = spec.load(write(tmp_path, "extends: digits\nseed: 3\n"))
    assert document.spec.seed == 3
    assert document.expert("quality").name == "quality"  # its checkpoint is found beside the embedded file


def test_paths_are_relative_to_the_file_they_are_written_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "sub", "experts: {e: {type: edm, checkpoint: gone.safetensors}}\nroute: {type: single, expert: e}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"spec.yaml:1 experts.e: checkpoint .*/sub/gone.safetensors: no such file"):
        spec.load(path).expert("e")


def test_the_resolved_spec_runs_again(tmp_path: Path) -> None:
    document = spec.load("digits", ["route.switch.eta=0.3", "seed=5"])
    again = spec.load(write(tmp_path, yaml.safe_dump(document.dump())))
    assert again.dump() == document.dump()
    assert again.policy() == document.policy()
    assert again.expert("likelihood").support == document.expert("likelihood").support


def test_the_resolved_spec_writes_its_defaults_out(tmp_path: Path) -> None:
    raw = spec.load(write(tmp_path, GAUSSIANS)).dump()
    assert raw["interval"] == {"gamma_min": -12.0, "gamma_max": 4.0}
    assert (raw["seed"], raw["batch_size"], raw["final"], raw["precision"]) == (0, 256, "decode", "float32")


@pytest.mark.parametrize("solver", ["{type: ode, rtol: 1.0e-3}", "{rtol: 1.0e-3}"])
def test_a_metrics_own_solver_may_say_its_type(tmp_path: Path, solver: str) -> None:
    path = write(tmp_path, GAUSSIANS)
    (metric,) = spec.load(path, [f"evaluate=[{{metric: bpd, solver: {solver}}}]"]).metrics()
    assert metric.solver.rtol == 1e-3
    assert "expected type ode, got 'heun'" in fault(path, "evaluate=[{metric: bpd, solver: {type: heun}}]")


def test_a_route_outside_common_support_is_refused(tmp_path: Path) -> None:
    text = GAUSSIANS.replace("shape: [1, 2, 2]}\n  high", "shape: [1, 2, 2], support: [-12, -9]}\n  high")
    document = spec.load(write(tmp_path, text))
    from snrouter.evaluation import Worker, own_route

    with pytest.raises(SupportError, match=r"gamma=-8 is outside the support \[-12, -9\] of 'low'; move it into"):
        Worker([own_route(document)]).expert(own_route(document))


def test_the_schema_describes_every_builtin_and_accepts_its_own_example() -> None:
    schema = spec.json_schema()
    json.dumps(schema)
    assert {"experts.edm", "policies.threshold", "solvers.heun", "metrics.bpd", "datasets.digits"} <= schema["$defs"].keys()
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["policies.threshold"]["properties"]["switch"]["description"] == "a position on the noise axis"


def test_reference_is_a_key_of_its_own_for_all_but_experts() -> None:
    def plugin(reference: str = "none", name: str = "", steps: int = 3) -> None:
        """One that takes a reference of its own."""

    assert set(arguments_model(plugin, "plugin", "metric").model_fields) == {"reference", "steps"}
    assert set(arguments_model(plugin, "plugin", "expert").model_fields) == {"steps"}


def test_identity_changes_with_a_file_and_not_with_its_path(tmp_path: Path) -> None:
    from snrouter.plugins import entry_points as plugins

    names = []
    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.safetensors").write_bytes(content)
        path = write(tmp_path / folder, "experts: {e: {type: edm, checkpoint: w.safetensors}}\nroute: {type: single, expert: e}\n")
        document = spec.load(path)
        names.append(document.identity(plugins.experts, document.spec.experts["e"], ("experts", "e"))["checkpoint"])
    assert names[0] == names[1] != names[2]


def test_recipes_are_checked_with_the_spec(tmp_path: Path) -> None:
    message = fault(write(tmp_path, GAUSSIANS), "train={a: {type: edm, network: {type: unet}, support: [-5, 5], stpes: 3}}")
    assert "train.a.stpes: unknown key" in message


def test_set_needs_a_value(tmp_path: Path) -> None:
    assert "expected key.path=value" in fault(write(tmp_path, GAUSSIANS), "seed")
    assert "does not lead to a key" in fault(write(tmp_path, GAUSSIANS), "route.type.er=3")
    assert issubclass(SpecError, ValueError)
