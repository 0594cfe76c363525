"""The command report: formats, where they go, and what is refused."""

import csv
import io
import json

import pytest
from made_up_runs import folder, sweep

from snrouter.cli import main


@pytest.fixture
def report(monkeypatch, capsys, tmp_path):
    """Runs `snrouter report` in a folder with the runs a and b, and returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    other = sweep()
    for row in other["results"]:
        row["n"] = 100
    for name, results in (("a", sweep()), ("b", other)):
        folder(tmp_path / name, results)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["snrouter", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_text_goes_to_standard_output_or_a_file(report, tmp_path):
    code, out, _ = report("a", "--format", "markdown")
    assert code == 0
    assert out.startswith("| route |")
    code, out, _ = report("a", "--format", "csv", "--out", "table.csv")
    assert (code, out) == (0, "table: table.csv\n")
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))) == 4
    code, out, _ = report("a", "--format", "json", "--json")
    assert len(json.loads(out)["results"]) == 8


@pytest.mark.parametrize("form", ["html", "markdown", "csv", "json"])
def test_mixtures_are_refused_in_every_format_unless_asked_for(report, tmp_path, form):
    code, out, error = report("a", "b", "--format", form)
    assert (code, out) == (2, "")
    assert error == (
        "error: bits/dim: a and b were not measured alike: n 400 against 100; run them alike, or show a column for each protocol "
        "with --mixed\n"
    )
    assert not (tmp_path / "report.html").exists()
    assert report("a", "b", "--format", form, "--mixed")[0] == 0


def test_slips_are_one_line(report):
    code, _, error = report("a", "--format", "cvs")
    assert (code, error) == (2, "error: unknown format 'cvs'; did you mean 'csv'?; formats: html, markdown, csv, json\n")
    code, out, _ = report("a", "--format", "csv", "--json")
    assert code == 2
    assert "--format json" in json.loads(out)["error"]
