"""The page needs nothing but itself, and says what a run's folder holds."""

import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import ROUTES, Reader, folder, many, page, renamed, sweep
from safetensors.numpy import save_file

from snrouter.errors import OutputError, SpecError
from snrouter.report import csv_text, markdown, to_rich, write_report


def test_the_page_needs_nothing_but_itself(tmp_path):
    images = {label: np.zeros((2, 1, 8, 8), np.float32) for label in ROUTES}
    text = page(tmp_path, sweep(), images)
    read = Reader(text)
    assert not read.unbalanced
    assert not read.stack
    assert max(read.ids.values()) == 1
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    assert read.tags["img"] == 4
    assert read.tags["svg"] == 4
    for address in read.addresses:
        assert address.startswith(("data:image/png;base64,", "#"))
        assert not address.startswith("#") or address[1:] in read.ids
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)


def colourful(path: Path, results: dict, side: int) -> Path:
    """A run with samples, states and pictures that cannot be compressed."""
    labels = list(dict.fromkeys(row["label"] for row in results["results"]))
    run = folder(path, results)
    noise = np.random.default_rng(0)
    shape = (3, side, side)
    save_file({label: noise.uniform(-1, 1, (16, *shape)).astype(np.float32) for label in labels}, run / "samples.safetensors")
    ways = {label: noise.uniform(-1, 1, (8, 4, *shape)).astype(np.float32) for label in labels}
    save_file(ways | {f"{label}/gamma": np.linspace(5, -13, 8) for label in labels}, run / "trace.safetensors")
    rows = [i for i, row in enumerate(results["results"]) if row["metric"] == "nearest_neighbour"]
    save_file({f"{i}/pairs": noise.uniform(-1, 1, (8, 2, *shape)).astype(np.float32) for i in rows}, run / "pictures.safetensors")
    return run


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """The page of thirteen routes, ten measures and images of 32x32 in colour."""
    labels = [f"eta={i / 20:g}" for i in range(1, 12)] + ["likelihood", "quality"]
    results = many(sweep({label: ROUTES.get(label, (1.9, 7.0)) for label in labels}))
    return write_report([colourful(tmp_path_factory.mktemp("large"), results, 32)])


def test_a_large_page_is_under_five_megabytes(large, tmp_path):
    assert large.stat().st_size < 5_000_000
    runs = [colourful(tmp_path / name, sweep(), 64) for name in "ab"]
    assert write_report(runs).stat().st_size < 5_000_000


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WATCHED = """<!DOCTYPE html><title>-</title><iframe src="{page}" style="border: 0; width: {width}px; height: 900px"></iframe><script>
onload = () => {{ const whole = document.querySelector("iframe").contentDocument.documentElement;
document.title = whole.scrollWidth - whole.clientWidth + " " + whole.querySelectorAll("article section").length }}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_opens_the_page_from_disk_on_a_phone(large, tmp_path):
    frame = tmp_path / "frame.html"
    frame.write_text(WATCHED.format(page=large.as_uri(), width=375))
    flags = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    flags += f" --disable-sync --allow-file-access-from-files --enable-logging=stderr --v=0 --user-data-dir={tmp_path / 'profile'}"
    seen = subprocess.run([CHROMIUM, *flags.split(), "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=60)
    beyond, sections = map(int, re.search("<title>(.*?)</title>", seen.stdout)[1].split())
    assert beyond == 0  # the body does not scroll sideways; tables do, inside their boxes
    assert sections > 10
    assert "CONSOLE" not in seen.stderr


def test_the_page_says_what_was_found_and_how(tmp_path):
    words = Reader(page(tmp_path, sweep())).words
    assert "Switching at η = 0.2 beats both quality and likelihood in bits/dim" in words
    for section in ("Results", "Trade-off", "Along the switch", "Terms", "Cost", "Protocol", "Environment", "Spec"):
        assert f" {section} " in words
    assert "lower is better" in words
    assert "seed: 0 # <b>&" in words
    assert "torch 2.13.0" in words
    assert "PARTIAL" not in words
    assert "Samples" not in words


def test_the_protocol_is_told_once_and_its_differences_by_route(tmp_path):
    words = Reader(page(tmp_path, sweep())).words
    protocol = words[words.rindex(" Protocol ") : words.rindex(" Environment ")]
    assert protocol.count("seed 0") == 1
    assert protocol.count("times 32") == 1
    assert "quality gamma min -12.4" in protocol
    assert "eta=0.2, eta=0.6, likelihood gamma min -7.86" in protocol


def test_a_hostile_label_is_only_text(tmp_path):
    label = "<script>alert('x')</script>\" onload=\"x $a$ </svg>"
    images = {label: np.zeros((1, 1, 8, 8), np.float32)}
    read = Reader(page(tmp_path, renamed(sweep(), "quality", label), images))
    assert not read.unbalanced
    assert "script" not in read.tags
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in read.addresses)  # event handlers are among them
    assert "<script>alert('x')</script>" in read.words


def test_partial_results_are_stamped_everywhere(tmp_path):
    results = sweep() | {"partial": True}
    assert "PARTIAL" in Reader(page(tmp_path, results)).words
    assert "PARTIAL" in markdown(results)
    assert "PARTIAL" not in markdown(sweep())
    assert "PARTIAL" in str(to_rich(results).title)
    assert all(line["partial"] == "True" for line in csv.DictReader(io.StringIO(csv_text(results))))


def test_one_route_makes_a_page_without_a_trade_off(tmp_path):
    results = sweep()
    rows = [row for row in results["results"] if row["label"] == "eta=0.2"]
    for row in rows:
        del row["paired"]
    results = {key: results[key] for key in ("format", "fingerprint", "spec", "partial")} | {"results": rows}
    read = Reader(page(tmp_path, results, {"eta=0.2": np.zeros((3, 3, 4, 4), np.float32)}))
    assert "Route eta=0.2: bits/dim (VLB) 1.818" in read.words
    assert "Trade-off" not in read.words
    assert read.tags["svg"] == 0
    assert read.tags["img"] == 1


def test_several_runs_stand_one_below_another(tmp_path):
    folders = [folder(tmp_path / "first", sweep()), folder(tmp_path / "second", sweep(best="quality"))]
    written = write_report(folders, tmp_path / "all" / "page.html")
    read = Reader(written.read_text())
    assert written == tmp_path / "all" / "page.html"
    assert read.tags["article"] == 2
    assert not read.unbalanced
    assert max(read.ids.values()) == 1
    assert read.words.index("Switching at η = 0.2") < read.words.index("No switch is chosen")
    assert {"#r0", "#r1"} <= set(read.addresses)


def test_several_runs_leave_each_its_own_page(tmp_path, monkeypatch):
    monkeypatch.setattr("snrouter.report.page.render", lambda folders, mixed: f"{len(folders)} runs")
    inner, outer = folder(tmp_path / "runs" / "outer" / "inner", sweep()), folder(tmp_path / "runs" / "outer", sweep())
    own = write_report([outer])
    assert own == outer / "report.html"
    before = own.read_bytes()
    for folders in ([outer, inner], [inner, outer]):
        assert write_report(folders) == tmp_path / "runs" / "report.html"
    monkeypatch.chdir(outer)
    assert write_report([Path(), inner]) == tmp_path / "runs" / "report.html"
    assert own.read_bytes() == before


def test_folders_without_readable_results_are_refused(tmp_path):
    with pytest.raises(SpecError, match=re.escape(f"no results.json in {tmp_path}; run snrouter run SPEC --out {tmp_path} first")):
        write_report([tmp_path])
    with pytest.raises(SpecError, match="format 2, this snrouter reads 1"):
        write_report([folder(tmp_path / "new", sweep() | {"format": 2})])
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(SpecError, match="cannot be read"):
        write_report([tmp_path])
    with pytest.raises(SpecError, match="at least one folder"):
        write_report([])
    good = folder(tmp_path / "good", sweep())
    (good / "samples.safetensors").write_bytes(b"no")
    with pytest.raises(SpecError, match=r"samples\.safetensors: cannot be read"):
        write_report([good])


def test_a_page_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report([folder(tmp_path / "run", sweep())], tmp_path / "file" / "page.html")


def test_the_same_run_makes_the_same_page(tmp_path):
    images = {label: np.zeros((2, 1, 8, 8), np.float32) for label in ROUTES}
    assert page(tmp_path, sweep(), images) == page(tmp_path, sweep(), images)


def test_reporting_imports_no_torch():
    code = "import sys, snrouter.report as r; print([m for m in ('torch', 'matplotlib.pyplot', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
