"""Published numbers: read with a spec, carried by its results, and shown beside the measured ones where they stand for the same."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml

from snrouter import evaluation, spec
from snrouter.errors import SpecError
from snrouter.evaluation.jobs import run_fingerprint
from snrouter.report import csv_text, markdown, published, to_rich, write_report
from snrouter.report.columns import columns
from snrouter.spec.models import Published

SPEC = """
experts:
  low: {type: gaussian, mean: [0.1], standard_deviation: [0.4], shape: [1, 8, 8]}
  high: {type: gaussian, mean: [0.0], standard_deviation: [0.6], shape: [1, 8, 8]}
route: {type: threshold, low: low, high: high, switch: {eta: 0.25}}
interval: {gamma_min: -7.0, gamma_max: 4.0}
data: {type: digits, split: test}
evaluate: [{metric: bpd, estimator: vlb, times: 2, images: 6}]
published: numbers/paper.yaml
"""
NUMBERS = """
source: {title: A paper, arxiv: "2511.19434", table: table 1}
rows:
  - {route: eta=0.25, metric: bpd, estimator: vlb, value: 2.5}
  - {route: eta=0.25, metric: fid, features: inception, value: 9.37, note: printed twice}
  - {route: eta=0.25, metric: fid, features: inception, value: 9.38}
  - {route: eta=0.5, metric: bpd, estimator: vlb, value: 2.7}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "paper.yaml").write_text(NUMBERS)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        spec.load(path, overrides)
    return str(caught.value)


# --- the spec --------------------------------------------------------------------------------------------------------


def test_a_spec_takes_in_what_the_file_holds_and_needs_it_no_more(path):
    document = spec.load(path)
    assert document.spec.published == Published.model_validate(yaml.safe_load(NUMBERS))
    again = path.parent / "again.yaml"
    again.write_text(yaml.safe_dump(document.dump()))
    (path.parent / "numbers" / "paper.yaml").unlink()
    assert spec.load(again).spec.published == document.spec.published


def test_the_file_is_beside_the_spec_that_names_it_and_may_be_json(path):
    below = path.parent / "below"
    below.mkdir()
    (below / "other.yaml").write_text("extends: ../spec.yaml\nseed: 3\n")
    assert spec.load(below / "other.yaml").spec.published.rows[0].value == 2.5
    (below / "numbers.json").write_text(json.dumps({**yaml.safe_load(NUMBERS), "source": {"title": "Another"}}))
    (below / "third.yaml").write_text("extends: ../spec.yaml\npublished: numbers.json\n")
    assert spec.load(below / "third.yaml").spec.published.source.title == "Another"


def test_faults_are_told_by_the_files_line_and_key(path):
    numbers = path.parent / "numbers" / "paper.yaml"
    numbers.write_text(NUMBERS.replace("route: eta=0.5, metric", "route: eta=0.5, metrc"))
    told = fault(path)
    assert "paper.yaml:7 published.rows[3].metrc: unknown key; did you mean 'metric'?" in told
    numbers.write_text(NUMBERS.replace("value: 2.7", "value: .nan"))
    assert "paper.yaml:7 published.rows[3].value: input should be a finite number" in fault(path)
    for kept in ("metrc: bpd, value: 2.5", "metric: bpd"):  # every row is at fault, and none is missing
        numbers.write_text(f"source: {{title: A paper}}\nrows:\n  - {{route: low, {kept}}}\n")
        assert "at least 1 item" not in fault(path)
    assert fault(path) == "paper.yaml:3 published.rows[0].value: missing; add it"
    numbers.write_text("source: {title: A paper}\nrows: []\n")
    assert "published.rows: tuple should have at least 1 item" in fault(path)
    numbers.write_text("source: {title: A paper}\n")
    assert "published.rows: missing; e.g. rows: [{route: eta=0.4" in fault(path)
    assert re.search(r"spec\.yaml:9 published: no such file as .*none\.yaml", fault_in(path, "none.yaml"))
    assert "published: expected a mapping" in fault(path, "published=3")


def fault_in(path: Path, name: str) -> str:
    path.write_text(SPEC.replace("numbers/paper.yaml", name))
    return fault(path)


def test_editors_may_write_a_file_or_what_it_holds():
    schema = spec.json_schema()
    kinds = [option.get("type", option.get("$ref")) for option in schema["properties"]["published"]["anyOf"]]
    assert kinds == ["string", "#/$defs/Published", "null"]


@pytest.mark.parametrize("file", sorted(Path("examples/paper/published").glob("*.yaml")), ids=lambda file: file.name)
def test_the_files_of_the_examples_are_whole(file):
    Published.model_validate(yaml.safe_load(file.read_text()))


# --- which stands beside which ---------------------------------------------------------------------------------------


PROTOCOL = {"gamma_min": -11.8, "importance_samples": 1, "divergence": "hutchinson"}
FID = {"metric": "fid", "features": "inception", "sampler": "ancestral"}


def measured(**columns) -> dict:
    row = {"metric": "bpd", "estimator": "ode", "dequantization": "uniform", "label": "eta=0.4", "route": "threshold", "eta": 0.4}
    row |= {"title": "bits/dim", "better": "lower"}
    return row | {"value": 2.6, "standard_error": 0.01, "n": 100, "protocol": PROTOCOL} | columns


def sampled(**columns) -> dict:
    row = {"metric": "fid", "features": "inception-2015-12-05", "label": "eta=0.4", "route": "threshold", "eta": 0.4}
    row |= {"title": "Fréchet distance", "better": "lower"}
    return row | {"value": 3.0, "standard_error": 0.1, "n": 50, "protocol": {"gamma_min": -13.3, "final": "decode"}} | columns


def results(rows: list[dict], values: list[dict], **keys) -> dict:
    found = [{"route": "eta=0.4", "metric": "bpd", "value": 2.62, **value} for value in values]
    asked = {"solver": {"type": "ancestral"}}
    if found:
        asked["published"] = {"source": {"title": "A paper"}, "rows": found}
    return {"format": 1, "spec": asked, "partial": False, "results": rows, **keys}


@pytest.mark.parametrize(
    ("row", "value", "same"),
    [
        (measured(), {}, True),
        (measured(), {"estimator": "ode", "dequantization": "uniform", "gamma_min": -11.801}, True),
        (measured(), {"estimator": "vlb"}, False),
        (measured(), {"dequantization": "truncated_normal"}, False),
        (measured(), {"gamma_min": -12.0}, False),
        (measured(), {"route": "eta=0.5"}, False),
        (measured(), {"sampler": "ode"}, True),  # how samples are drawn is nothing to a likelihood
        (measured(), {"importance_samples": 1}, True),
        (measured(), {"importance_samples": 20}, False),
        (measured(), {"divergence": "hutchinson"}, True),
        (measured(), {"divergence": "exact"}, False),
        (measured(), {"gamma_min": -13.3}, False),
        (sampled(), FID, True),
        (sampled(features="inception"), FID, True),
        (sampled(features="classifier"), FID, False),
        (sampled(features="inceptionist"), FID, False),
        (sampled(), {"metric": "fid", "features": "inception"}, False),  # of samples that nobody knows who drew
        (sampled(), {"metric": "fid", "sampler": "ancestral"}, True),
        (sampled(), {"metric": "fid", "sampler": "ode"}, False),
        (sampled(), {}, False),
    ],
)
def test_what_a_published_number_says_of_its_protocol_must_hold(row, value, same):
    run = results([row], [value])
    assert len(published.beside(run, row)) == same
    elsewhere = value.get("route", "eta=0.4") != "eta=0.4"
    assert bool(published.unmeasured(run, ["eta=0.4"])) == (not same and not elsewhere)


@pytest.mark.parametrize(
    ("row", "values", "partial", "difference"),
    [
        (measured(), [{}], False, pytest.approx(-0.02)),
        (measured(), [{"value": 2.62}, {"value": 2.59}], False, pytest.approx(0.01)),
        (measured(), [{"n": 100}], False, pytest.approx(-0.02)),
        (measured(), [{"n": 99}], False, "other n"),
        (measured(), [{}], True, "partial"),
        (measured(value=None), [{}], False, None),
        (measured(), [], False, None),
        (sampled(), [FID | {"value": 2.86, "n": 50}], False, pytest.approx(0.14)),
        (sampled(), [FID | {"value": 2.86, "n": 10}, FID], False, "other n"),
        (sampled(), [FID | {"value": 2.86}], False, "n not stated"),
        (sampled(), [{"metric": "fid", "value": 2.86, "n": 50}], False, None),
    ],
)
def test_a_difference_needs_a_whole_run_and_a_like_number_of_images(row, values, partial, difference):
    run = results([row], values, partial=partial)
    assert published.difference(run, row, published.beside(run, row)) == difference


# --- what is shown ---------------------------------------------------------------------------------------------------


def shown(run: dict) -> dict[str, list[str]]:
    return {column.heading: list(column.cells) for column in columns(run)}


def test_published_and_measured_stand_side_by_side_with_all_that_was_printed():
    rows = [measured(), measured(label="quality", route="single", eta=None, value=3.2, standard_error=0.02)]
    values = [
        {"value": 2.6},
        {"route": "quality", "value": 3.21},
        {"route": "quality", "value": 3.2, "standard_deviation": 0.01},
        {"metric": "fid", "features": "inception", "value": 9.37},
        {"metric": "fid", "features": "inception", "value": 9.38},
    ]
    table = shown(results(rows, values))
    at = table["route"].index("eta=0.4")
    assert table["bits/dim (ODE, uniform) ↓ published"][at] == "2.60"
    assert table["bits/dim (ODE, uniform) ↓ published"][1 - at] == "3.21 / 3.20 (sd 0.01)"
    assert table["bits/dim (ODE, uniform) ↓ minus published"][at] == "+0.000 ± 0.010"
    assert table["Fréchet distance (Inception features) published, not measured"][at] == "9.37 / 9.38"
    assert table["Fréchet distance (Inception features) published, not measured"][1 - at] == "–"


def test_a_number_of_unknown_samples_is_shown_once_and_beside_none():
    rows = [sampled(), sampled(features="classifier"), measured()]
    table = shown(results(rows, [{"metric": "fid", "features": "inception", "value": 2.86}]))
    assert [heading for heading in table if "published" in heading] == [
        "Fréchet distance (Inception features, sampler not stated) published, not measured"
    ]
    alone = shown(results([measured()], [{"metric": "fid", "features": "inception", "value": 2.86}]))
    assert "Fréchet distance (Inception features) published, not measured" in alone


def test_the_papers_numbers_stand_beside_its_own_protocol_alone():
    values = yaml.safe_load(Path("examples/paper/published/cifar10.yaml").read_text())["rows"]
    starts = {"eta=0.4": -13.3, "likelihood": -13.3, "quality": -12.429}

    def beside(label: str, **changes) -> list[float]:
        row = measured(label=label, dequantization="truncated_normal", protocol=PROTOCOL | {"gamma_min": starts[label]} | changes)
        return [value["value"] for value in published.beside(results([row], values), row)]

    assert [beside(label) for label in starts] == [[2.62], [2.64], [3.21]]
    for changes in ({"gamma_min": -8.0}, {"importance_samples": 20}, {"divergence": "exact"}):
        assert [beside(label, **changes) for label in starts] == [[], [], []]
    assert published.beside(results([sampled()], values), sampled()) == []
    notes = published.notes(results([sampled()], values), starts)
    assert "eta=0.4, fid: the sampler and the number of samples are not known to us." in notes


def test_published_numbers_are_no_part_of_what_is_computed(path):
    numbers = path.parent / "numbers" / "paper.yaml"

    def fingerprints(*overrides: str) -> list[str]:
        worker = evaluation.Worker([evaluation.own_route(spec.load(path, overrides))])
        jobs = evaluation.plan(worker)
        return [*(job.key for job in jobs), run_fingerprint(worker, jobs)]

    first = fingerprints()
    assert fingerprints("seed=1") != first
    numbers.write_text(NUMBERS.replace("2.7", "2.8"))
    assert fingerprints() == first
    numbers.write_text(f"{NUMBERS}  - {{route: low, metric: bpd, value: 3.0}}\n")
    assert fingerprints() == first
    path.write_text(SPEC.replace("published: numbers/paper.yaml", ""))
    assert fingerprints() == first


def test_a_run_without_published_numbers_shows_no_such_column():
    run = results([measured()], [])
    assert not any("published" in heading for heading in shown(run))
    assert "ublished" not in markdown(run)
    assert not any("published" in key for key in next(csv.DictReader(io.StringIO(csv_text(run)))))


def test_a_partial_run_says_so_beside_them():
    run = results([measured()], [{}], partial=True)
    assert shown(run)["bits/dim (ODE, uniform) ↓ minus published"] == ["partial"]
    line = next(csv.DictReader(io.StringIO(csv_text(run))))
    assert (line["bpd_ode_uniform_published"], line["bpd_ode_uniform_minus_published"], line["partial"]) == ("2.62", "", "True")


def test_csv_has_the_number_the_difference_and_what_was_not_measured():
    values = [{}, {"metric": "fid", "features": "inception", "sampler": "ode", "value": 2.86}]
    line = next(csv.DictReader(io.StringIO(csv_text(results([measured()], values)))))
    assert float(line["bpd_ode_uniform_published"]) == 2.62
    assert float(line["bpd_ode_uniform_minus_published"]) == pytest.approx(-0.02)
    assert line["fid_inception_ode_sampler_published"] == "2.86"


def test_the_spread_over_repetitions_is_shown_beside_the_published_one():
    rows = [measured(repeats=10, repeat_standard_deviation=0.0312)]
    run = results(rows, [{"standard_deviation": 0.03}])
    assert shown(run)["bits/dim (ODE, uniform) ↓ sd over repeats"] == ["0.031"]
    assert shown(run)["bits/dim (ODE, uniform) ↓ published"] == ["2.62 (sd 0.03)"]
    assert float(next(csv.DictReader(io.StringIO(csv_text(run))))["bpd_ode_uniform_repeat_standard_deviation"]) == 0.0312


def test_a_runs_folder_is_enough_for_the_page(path, tmp_path):
    out = tmp_path / "run"
    found = evaluation.run(spec.load(path), out, progress=False)
    (path.parent / "numbers" / "paper.yaml").unlink()
    path.unlink()
    page = write_report([out]).read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    assert "Published: A paper (arXiv 2511.19434), table 1." in text
    assert "9.37 / 9.38" in text
    assert "published, not measured" in text
    assert "eta=0.25, fid: printed twice." in text
    assert "Published, but not run: eta=0.5." in text
    saved = json.loads((out / "results.json").read_text())
    assert saved["spec"]["published"]["rows"][0]["value"] == 2.5
    assert "| 2.5 |" in markdown(saved)
    assert "Published: A paper" in markdown(saved)
    assert "Published: A paper" in str(to_rich(saved, 200).caption)
    wanted = found.rows[0]["value"] - 2.5
    assert float(next(csv.DictReader(io.StringIO(csv_text(saved))))["bpd_vlb_minus_published"]) == pytest.approx(wanted)
