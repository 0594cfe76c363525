"""The metric on the plugins page, taken from there, installed as a package of its own, and run by a spec that names it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"

SPEC = """
experts: {only: {type: gaussian, mean: [0.3], standard_deviation: [0.2], shape: [1, 4, 4]}}
route: {type: single, expert: only}
solver: {type: heun, steps: 6}
shape: [1, 4, 4]
evaluate: [{metric: ink, samples: 12}]
"""


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The page's files by name: each is named in the line above its block."""
    (section,) = re.findall(r"^## A metric in under thirty lines\n(.*?)^##", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^`([\w.]+)`[^`\n]*:\n\n```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def test_it_takes_under_thirty_lines(files):
    assert set(files) == {"pyproject.toml", "ink_metric.py"}
    assert sum(len(text.splitlines()) for text in files.values()) < 30


def test_it_runs_as_a_package_of_its_own(files, tmp_path):
    package, site, out = (tmp_path / name for name in ("package", "site", "out"))
    package.mkdir()
    for name, text in files.items():
        (package / name).write_text(text)
    (tmp_path / "spec.yaml").write_text(SPEC)

    def python(*arguments: object) -> str:
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target", site, package)
    (row,) = json.loads(python("snrouter", "run", tmp_path / "spec.yaml", "--out", out, "--devices", 1, "--json"))["results"]
    (images,) = load_file(out / "samples.safetensors").values()
    ink = (images.flatten(1).double().mean(1) + 1) / 2
    assert (row["metric"], row["n"]) == ("ink", 12)
    assert row["value"] == pytest.approx(float(ink.mean()))
    assert row["standard_error"] == pytest.approx(float(ink.std()) / 12**0.5)
    assert row["value"] == pytest.approx(0.65, abs=0.05)  # (0.3 + 1) / 2
    assert row["protocol"]["packages"] == {"ink-metric": "1.0"}
