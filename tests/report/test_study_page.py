"""The page of a study: finding, tables over seeds, intervals, gates and cells; and its tables in other formats."""

import copy
import csv
import io
import json
import re

import pytest
from made_up_runs import Reader, folder, sweep
from made_up_studies import MODELS, STEPS, study, study_folder
from rich.console import Console

from snrouter.cli import main
from snrouter.errors import SpecError
from snrouter.report import study_plots, tabulate, write_report
from snrouter.report.folder import read_study
from snrouter.report.study import _colours, pooled, study_table
from snrouter.report.study_cells import cells, phases
from snrouter.report.study_tables import gain, likelihood, measured, sheets


def page(path, content) -> str:
    return write_report([study_folder(path, content)]).read_text()


def sheet(content, title):
    return next(one for one in sheets(content) if one.title == title)


def column(content, title, heading) -> list[str]:
    return list(next(one for one in sheet(content, title).columns if one.heading == heading).cells)


def test_the_page_needs_nothing_but_itself_and_links_to_pages_that_are_there(tmp_path):
    read = Reader(page(tmp_path, study()))
    assert not read.unbalanced
    assert not read.stack
    assert max(read.ids.values()) == 1
    assert not {"script", "link", "iframe", "object", "img"} & set(read.tags)
    beside = [address for address in read.addresses if not address.startswith("#")]
    assert beside == [f"cells/single/seed{seed}/report.html" for seed in range(3)]
    assert all(address[1:] in read.ids for address in read.addresses if address.startswith("#"))


def test_the_page_says_what_was_found_first_and_how(tmp_path):
    read = Reader(page(tmp_path, study()))
    words = read.words
    assert words.index("soft beats single") < words.index("random does not beat single.") < words.index("Results")
    for title in ("Results", "Intervals", "Relative gains", "By slice", "Gating", "Cells", "Models", "Spec"):
        assert f" {title} " in words
    assert "6 models, 3 seeds, baseline single" in words
    assert "PARTIAL" not in words
    assert "alone" not in words.replace("noise alone", "")  # no model is an expert alone
    assert "PARTIAL" in Reader(page(tmp_path, study() | {"partial": True})).words


def test_means_stand_with_their_deviations_and_intervals_beside_them():
    content = study()
    assert column(content, "Results", "bits/dim ↓")[2] == "1.8600 ± 0.0040"
    assert column(content, "Intervals", "bits/dim ↓")[2] == "1.8501 to 1.8699"  # 1.86 -+ 4.303 * 0.004 / sqrt(3)
    assert column(content, "Relative gains", "bits/dim ↓")[:3] == ["–", "+1.58% (+1.28 to +1.88)", "-2.11% (-2.41 to -1.81)"]
    assert column(content, "Results", "parameters")[4] == "44,000"
    assert column(content, "Results", "of the gate") == ["–", "2,000", "2,000", "2,000", "4,000", "–"]
    assert column(content, "Results", "gate's share")[4] == "9.1%"
    assert [row.label for row in sheet(content, "Results").rows if row.best] == ["threshold"]


def test_seconds_and_bytes_are_told_in_what_people_read():
    headings = [told.heading for told in measured(study())]
    assert "ms/image ↓" in headings
    assert "peak memory, GiB ↓" in headings
    assert column(study(), "Results", "ms/image ↓")[0] == "1.9000 ± 0.0040"


def test_slices_have_a_table_of_their_own():
    content = study()
    assert not any("round" in one.heading for one in sheet(content, "Results").columns)
    assert column(content, "By slice", "bits/dim, round ↓")[0] == "1.7100 ± 0.0036"
    assert [told.slice for told in measured(content) if told.slice] == ["round", "plain"]
    assert likelihood(content).key == "bpd"


def test_one_seed_has_neither_deviation_nor_interval(tmp_path):
    content = study(seeds=1)
    assert column(content, "Results", "bits/dim ↓")[0] == "1.896"
    assert "Intervals" not in [one.title for one in sheets(content)]
    assert column(content, "Relative gains", "bits/dim ↓")[2] == "-2.105%"
    assert "over 1 seed." in Reader(page(tmp_path, content)).words


def test_gains_within_their_interval_of_zero_are_grey():
    content = study()
    content["measures"][0]["by_model"]["soft"]["relative"] = {"mean": -0.001, "interval": [-0.003, 0.001]}
    own = next(one for one in sheet(content, "Relative gains").columns if one.heading == "bits/dim ↓")
    assert list(own.faint) == [False, False, True, False, False, False]
    assert gain(likelihood(content), "soft") == (-0.001, (-0.003, 0.001))


def test_a_failed_cell_is_told_and_the_rest_stands(tmp_path):
    content = study()
    for own in content["measures"]:
        own["by_model"]["soft"] = dict.fromkeys(("mean", "standard_deviation", "interval", "relative")) | {"values": [None] * 3}
    for own in content["models"][2]["cells"]:
        own |= {"status": "failed", "error": "CheckpointError: no file", "results": [], "steps": {}}
    content["errors"] = ["soft, seed 0: CheckpointError: no file"]
    words = Reader(page(tmp_path, content)).words
    assert "Failed: soft, seed 0: CheckpointError: no file" in words
    assert "failed: CheckpointError: no file" in words
    assert column(content, "Results", "bits/dim ↓")[2] == "–"
    assert "soft (" not in words[words.index(" Gating ") :]


def test_the_note_says_what_is_not_in_the_numbers():
    content = study()
    assert "Of fewer" not in sheet(content, "Results").note
    content["measures"][0]["by_model"]["top-2"]["values"][1] = None
    for own in content["models"][1]["cells"]:
        own["left_out"] = {"ssim": "Random jumps", "psnr": "Random jumps"}
    note = sheet(content, "Results").note
    assert "Of fewer than 3 seeds: top-2 of 2." in note
    assert "Left out of random: ssim, psnr, which need an invertible flow; Random jumps." in note


def test_seeds_of_a_tuned_route_change_more_than_the_noise():
    content, words = study(), "seeds change the noise alone"
    assert words in sheet(content, "Results").note
    for model in content["models"]:
        model["tuned"] = not model["trained"]
    assert words not in sheet(content, "Results").note


def test_a_study_of_nothing_yet_has_a_page(tmp_path):
    content = study() | {"measures": [], "findings": []}
    for model in content["models"]:
        model["parameters"] = {"total": None, "gate": None}
        for own in model["cells"]:
            own |= {"status": "missing", "results": [], "steps": {}}
    words = Reader(page(tmp_path, content)).words
    assert "Nothing was found yet." in words
    assert "missing" in words
    assert Console(width=80).render_str(str(study_table(content, 80).caption))


def test_what_was_trained_is_told_by_cell_and_by_phase(tmp_path):
    found = list(phases(STEPS))
    assert [phase.name for phase in found] == [
        "mixture, warm",
        *(f"mixture, warm, {name}" for name in "abcd"),
        "mixture, joint",
    ]
    (searched,) = phases({"tune": {"profile": {"rows": 640, "images": 64, "seconds": 3.0}}})
    assert (searched.name, searched.told["rows"]) == ("tune, profile", 640)
    own = {one.heading: one.cells[3] for one in cells(study()).columns}
    assert own["model"] == "random"
    assert (own["trained for it steps"], own["trained for it steps found done"]) == ("870", "360")  # parts are not counted twice
    assert (own["trained for it network rows"], own["trained for it seconds"]) == ("136,320", "41.5")
    assert own["seconds of evaluation"] == "12.5"
    words = Reader(page(tmp_path, study())).words
    assert "Phase by phase" in words
    assert "mixture, joint 510 32,640 130,560 31.5 no" in words


def test_gates_are_the_means_of_their_cells():
    model = copy.deepcopy(study()["models"][2])
    rows = [next(row for row in own["results"] if row["metric"] == "gating") for own in model["cells"]]
    for i, row in enumerate(rows):
        row["utilisation"]["a"] = [float(i)] * 8
    assert pooled(model)["utilisation"]["a"] == [1.0] * 8
    assert pooled(model)["seeds"] == "3 seeds"
    rows[1]["load"] = {"other": 0.5, "more": 0.5}
    assert pooled(model)["utilisation"]["a"] == [1.0] * 8  # of the first and the third
    assert pooled(model)["seeds"] == "2 seeds"
    assert pooled(study()["models"][0]) is None


def test_the_forest_needs_two_models():
    told = likelihood(study())
    drawn = study_plots.forest(told, list(MODELS), "single", "x")
    assert all(name in Reader(drawn).words for name in MODELS)
    assert study_plots.forest(told, ["soft"], "single", "x") is None
    assert study_plots.gains(told, ["single"], "single", "x") is None


def test_measures_that_are_all_the_same_are_not_drawn():
    content = study()
    for told in content["measures"][0]["by_model"].values():
        told |= {"mean": 1.0, "relative": {"mean": 0.0, "interval": [0.0, 0.0]}}
    assert study_plots.forest(likelihood(content), list(MODELS), "single", "x") is None
    assert study_plots.gains(likelihood(content), list(MODELS), "single", "x") is None


def test_models_far_from_the_baseline_do_not_hide_the_others(tmp_path):
    content = study()
    assert study_plots.near(likelihood(content), list(MODELS), "single") == []
    content["measures"][0]["by_model"]["threshold"]["mean"] = 0.5
    near = study_plots.near(likelihood(content), list(MODELS), "single")
    assert near == ["single", "random", "soft", "top-2", "K = 8"]
    assert "models near the baseline" in Reader(page(tmp_path, content)).words


def test_experts_have_one_colour_in_all_models():
    models = [{"utilisation": dict.fromkeys(names)} for names in ("abcd", "dcba", "bcijklmn", "za")]
    colours = _colours(models)
    assert [colours[name] for name in "abcd"] == [0, 1, 2, 3]
    for model in models[:3]:
        assert len({colours[name] for name in model["utilisation"]}) == len(model["utilisation"])
    assert colours["z"] != colours["a"]


def test_other_formats(tmp_path):
    run = study_folder(tmp_path, study())
    assert json.loads(tabulate([run], "json")) == study()
    text = tabulate([run], "markdown")
    assert text.startswith("soft beats single")
    assert "| soft | 1.8600 ± 0.0040 |" in text
    lines = {line["model"]: line for line in csv.DictReader(io.StringIO(tabulate([run], "csv")))}
    assert float(lines["soft"]["bpd"]) == pytest.approx(1.86)
    assert float(lines["soft"]["bpd_seed2"]) == pytest.approx(1.864)
    assert float(lines["soft"]["bpd_gain_low"]) < -0.02
    assert lines["single"]["bpd_gain"] == ""


@pytest.mark.parametrize("width", [60, 100, 300])
def test_a_terminal_of_any_width_has_models_and_bits_per_dim(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(study_table(study(), width))
    text = console.export_text()
    assert "threshold" in text
    assert re.search(r"1\.8600 ± 0\.0040", text)
    assert "soft beats single by 0.04 bits/dim" in " ".join(text.split())
    assert ("Left out" in text) == (width < 300)


def test_the_command_makes_the_page_again(tmp_path, monkeypatch, capsys):
    run = study_folder(tmp_path, study())
    monkeypatch.setattr("sys.argv", ["snrouter", "report", str(run)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert (run / "report.html").is_file()
    assert "report.html" in capsys.readouterr().out


def test_what_is_no_study_is_refused(tmp_path):
    run = study_folder(tmp_path / "study", study())
    with pytest.raises(SpecError, match=r"is a study, which has a page of its own; run snrouter report .*study alone"):
        write_report([run, folder(tmp_path / "run", sweep())])
    with pytest.raises(SpecError, match=r"no study.json in .*; run snrouter study SPEC --out"):
        read_study(tmp_path)
    study_folder(run, study() | {"format": 7})
    with pytest.raises(SpecError, match="format 7, this snrouter reads 1; run the study again"):
        read_study(run)
    (run / "study.json").write_text(json.dumps({"format": 1, "models": []}))
    with pytest.raises(SpecError, match="seeds, baseline, measures, findings missing; run the study again"):
        read_study(run)
