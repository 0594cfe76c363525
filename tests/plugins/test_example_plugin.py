"""The example plugin as its users have it: built as a wheel, installed, named by a spec, beside another that is broken."""

import json
import math
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "snrouter-example-plugin"
NAMES = {"expert": "wiener", "policy": "sandwich", "solver": "midpoint", "metric": "sharpness", "dataset": "stripes"}

SCRIPT = """
import contextlib, io, json, sys
from pathlib import Path
import snrouter.testing
told = {"pytest": "pytest" in sys.modules}
from snrouter import cli, evaluation
from snrouter.plugins.entry_points import REGISTRIES
from snrouter.spec import json_schema, load

def run(*arguments):
    sys.argv, out = ["snrouter", *arguments, "--json"], io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            cli.main()
        except SystemExit as stop:
            return {"code": stop.code, "told": json.loads(out.getvalue())}

spec, broken, out = sys.argv[1:]
told["list"] = run("list")
told["run"] = run("run", spec, "--out", out, "--devices", "1")
told["broken"] = run("run", broken, "--out", out)
told["modules"] = [REGISTRIES[kind].get(name).__module__ for kind, name in {
    "experts": "wiener", "policies": "sandwich", "solvers": "midpoint", "metrics": "sharpness", "datasets": "stripes"}.items()]
told["alone"] = [row for name in ("plain", "steep") for row in evaluation.run(
    load(spec).with_route({"type": "single", "expert": name}), Path(out), progress=False).rows]
told["schema"] = sorted(json_schema()["$defs"])
print(json.dumps(told))
"""


def python(*arguments: object, site: Path | None = None, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(site)} if site else {})
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment, **options
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the example plugin installed from its wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    built = python("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, EXAMPLE)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--target", folder / "site"]
    installed = python("-m", "pip", "install", *options, wheel)
    assert installed.returncode == 0, installed.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def told(site, install, tmp_path_factory) -> dict:
    """What a process with the plugin, and with a broken one beside it, has to tell."""
    folder = tmp_path_factory.mktemp("run")
    beside = folder / "beside"
    install(beside, "broken-plugin", {"snrouter.solvers": {"broken": "broken_plugin:Solver"}}, broken_plugin="import nowhere")
    (folder / "broken.yaml").write_text(f"extends: {EXAMPLE / 'example.yaml'}\nsolver: {{type: broken}}\n")
    path = f"{site}{os.pathsep}{beside}"
    done = python("-W", "error", "-c", SCRIPT, EXAMPLE / "example.yaml", folder / "broken.yaml", folder / "out", site=path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_kind_is_listed_with_package_and_version(told):
    assert told["list"]["code"] == 0
    listed = told["list"]["told"]["plugins"]
    rows = {row["kind"]: row for row in listed if row["package"] == "snrouter-example-plugin"}
    assert {kind: row["name"] for kind, row in rows.items()} == NAMES
    assert {(row["version"], row["status"]) for row in rows.values()} == {("0.1.0", "ok")}
    builtins = [row for row in listed if row["package"] == "snrouter"]
    assert {(row["version"], row["status"]) for row in builtins} == {(version("snrouter"), "ok")}


def test_the_code_that_ran_is_the_wheels(told, site):
    assert told["modules"] == [f"snrouter_example_plugin.{name}" for name in NAMES.values()]
    assert (site / "snrouter_example_plugin" / "wiener.py").is_file()


def test_the_spec_runs_with_all_five(told):
    assert told["run"]["code"] == 0
    sharp, bpd = sorted(told["run"]["told"]["results"], key=lambda row: row["metric"], reverse=True)
    assert (sharp["metric"], sharp["n"], bpd["metric"], bpd["n"]) == ("sharpness", 64, "bpd", 64)
    assert sharp["route"] == bpd["route"] == "sandwich"
    assert sharp["gamma_switches"] == pytest.approx([2 * math.log(0.14), -7.86 + 0.85 * 12.86])
    assert sharp["protocol"]["solver"] == "Midpoint(steps=24)"
    assert sharp["nfe"] == 2 * (24 + 2)
    assert set(sharp["nfe_per_expert"]) == {"plain", "steep"}
    assert bpd["protocol"]["data"] == "stripes/seed=0"
    assert bpd["protocol"]["packages"] == sharp["protocol"]["packages"] == {"snrouter-example-plugin": "0.1.0"}
    assert 0 < sharp["standard_error"] < sharp["value"]


def test_the_sandwich_beats_each_of_its_experts_alone(told):
    (own,) = (row["value"] for row in told["run"]["told"]["results"] if row["metric"] == "bpd")
    alone = [row["value"] for row in told["alone"] if row["metric"] == "bpd"]
    assert len(alone) == 2
    assert own < min(alone) - 1


def test_the_schema_for_editors_knows_the_plugin(told):
    assert {"experts.wiener", "policies.sandwich", "solvers.midpoint", "metrics.sharpness", "datasets.stripes"} < set(
        told["schema"]
    )


def test_a_broken_plugin_is_a_row_and_fails_only_the_spec_that_needs_it(told):
    (row,) = [row for row in told["list"]["told"]["plugins"] if row["package"] == "broken-plugin"]
    assert row["status"] == "broken: ModuleNotFoundError: No module named 'nowhere'"
    assert told["broken"]["code"] == told["broken"]["told"]["exit_code"] == 3
    assert "'broken' of package 'broken-plugin' cannot be imported" in told["broken"]["told"]["error"]


def test_the_contracts_import_no_pytest(told):
    assert told["pytest"] is False


def test_the_plugins_own_tests_pass_on_the_wheel(site):
    options = ["-p", "no:cacheprovider", "--rootdir", EXAMPLE, "-c", EXAMPLE / "pyproject.toml"]
    tests = python("-m", "pytest", *options, EXAMPLE / "tests", site=site)
    assert tests.returncode == 0, tests.stdout[-3000:]
    assert "passed" in tests.stdout
