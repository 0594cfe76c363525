"""Tables: the numbers, their digits, and every format they are told in."""

import copy
import csv
import io
import re
from importlib.metadata import entry_points

import pytest
from made_up_runs import ROUTES, Reader, many, of, page, renamed, sweep, unknown_distances
from rich.console import Console

from snrouter.report import csv_text, headline, markdown, table, to_rich
from snrouter.report.columns import columns
from snrouter.report.measures import FAMILIES, PUBLISHED, measures, sampled
from snrouter.report.number import Number, aligned, power


def test_rows_follow_the_switch_and_hold_the_numbers():
    rows = table(sweep())
    assert [row.label for row in rows] == ["quality", "eta=0.2", "eta=0.6", "likelihood"]
    assert [row.best for row in rows] == [False, True, False, False]
    assert rows[1].numbers == {"bpd_vlb": Number(1.8177, 0.014), "fid_classifier": Number(6.50, 0.014)}
    assert rows[1].differences["fid_classifier"]["quality"].value == pytest.approx(0.03)
    assert [(m.title, m.sampled, rows[0].nfe(m)) for m in measures(sweep())] == [
        ("bits/dim (VLB)", False, 32.0),
        ("Fréchet distance (classifier features)", True, 38.0),
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(1.81767, 0.01392), "1.818 ± 0.014"),
        (Number(233.4, 25.1), "233 ± 25"),
        (Number(1.5), "1.500"),
        (Number(2.0, 0.0), "2.000 ± 0.000"),
        (Number(), "–"),
    ],
)
def test_errors_are_shown_to_two_digits(number, text):
    assert number.text() == text


def test_csv_reads_back_every_number_in_full():
    results = sweep()
    read = {line["label"]: line for line in csv.DictReader(io.StringIO(csv_text(results)))}
    assert list(read) == ["quality", "eta=0.2", "eta=0.6", "likelihood"]
    for row in results["results"]:
        key = {"bpd": "bpd_vlb", "fid": "fid_classifier"}[row["metric"]]
        line = read[row["label"]]
        assert float(line[key]) == row["value"]
        assert float(line[f"{key}_standard_error"]) == row["standard_error"]
        assert float(line[f"{key}_nfe"]) == row["nfe"]
        for other, pair in row["paired"].items():
            assert float(line[f"{key}_minus_{other}"]) == pair["difference"]
        if "eta" in row:
            assert float(line["gamma_switch"]) == row["gamma_switch"]
    assert read["quality"]["bpd_vlb_minus_quality"] == ""
    assert read["eta=0.2"]["best"] == "True"
    assert read["eta=0.2"]["partial"] == "False"


def test_markdown_is_a_table_whatever_the_labels():
    lines = markdown(renamed(sweep(), "quality", "a|b\n<i>")).splitlines()
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    cells = cells[: next(i for i, line in enumerate(lines) if not line)]  # what stands below the table has no cells
    assert len({len(row) for row in cells}) == 1
    assert [row[1].strip() for row in cells[2:]] == ["a\\|b \\<i>", "**eta=0.2**", "eta=0.6", "likelihood"]
    assert cells[3][3].strip() == "1.818 ± 0.014"


def shown(results: dict, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(to_rich(results, width))
    return console.export_text()


def published_beside() -> dict:
    """A whole sweep with two published numbers beside each measured one, and some that nothing was measured for."""
    results = sweep()
    results["spec"] |= {"solver": {"type": "ode"}}
    bpd = [{"route": label, "metric": "bpd", "value": value} for label in ROUTES for value in (1.81, 1.82)]
    fid = [{"route": label, "metric": "fid", "value": 6.4, "sampler": "ode", "n": 400} for label in ROUTES]
    other = [{"route": "quality", "metric": "bpd", "estimator": "ode", "value": 2.0}]
    results["spec"]["published"] = {"source": {"title": "A paper"}, "rows": [*bpd, *fid, *other]}
    return results


def test_terminal_table_fits_and_takes_no_markup_from_labels():
    results = renamed(sweep(), "quality", "[red]q[/red]")
    assert "[red]q[/red]" in shown(results, 200)
    assert "-0.0240 ± 0.0030" in shown(results, 200)
    assert "-0.0240 ± 0.0030" not in shown(results, 80)
    for number in ("1.818 ± 0.014", "6.500 ± 0.014", "eta=0.2 *"):
        assert number in shown(results, 80)


def test_terminal_table_says_what_the_star_is_and_what_was_left_out():
    wide = " ".join(shown(sweep(), 200).split())
    assert "* chosen: the lowest in bits/dim of the routes whose Fréchet distance is not" in wide
    assert "Left out" not in wide
    narrow = " ".join(shown(sweep(), 80).split())
    assert (
        "Left out here, for want of room, but on the page: γ switch; bits/dim (VLB): minus likelihood, minus quality; "
        "Fréchet distance (classifier features): minus likelihood, minus quality." in narrow
    )
    assert "*" not in shown(unknown_distances(sweep()), 200)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200])
def test_terminal_table_never_cuts_a_number(width):
    text = shown(published_beside(), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for number in ("1.818 ± 0.014", "2.135 ± 0.014"):
        assert number in text
    if width >= 80:
        assert "1.81 / 1.82" in text


def test_a_switch_in_a_pipelines_words_is_shown_as_it_was_written():
    results = sweep()
    assert "switch" not in [column.title for column in columns(results)]
    for row in results["results"]:
        if row["label"] == "eta=0.2":
            row["switch"] = {"denoising_end": 0.8, "scheduler": "ddpm"}
        elif row["label"] == "eta=0.6":
            row["switch"] = {"eta": 0.6}
    column = next(column for column in columns(results) if column.title == "switch")
    assert column.cells == ["–", "denoising_end 0.8", "–", "–"]
    assert [measure.key for measure in measures(results)] == ["bpd_vlb", "fid_classifier"]
    lines = csv.DictReader(io.StringIO(csv_text(results)))
    assert [line["switch"] for line in lines] == ["", "denoising_end 0.8", "", ""]


def test_a_plugins_metric_and_variants_of_one_metric_get_columns_of_their_own():
    results = sweep()
    for row in copy.deepcopy(results["results"]):
        if row["metric"] == "bpd":
            results["results"] += [
                row | {"protocol": row["protocol"] | {"times": 128}, "value": 1.7},
                row | {"estimator": "ode", "dequantization": "uniform", "biased": True, "value": 1.6},
                {key: row[key] for key in ("label", "route", "eta", "value") if key in row} | {"metric": "sharpness"},
            ]
    titles = {m.title: m for m in measures(results)}
    assert list(titles) == [
        "bits/dim (VLB, times 32)",
        "bits/dim (VLB, times 128)",
        "bits/dim (ODE, uniform, biased)",
        "Fréchet distance (classifier features)",
        "sharpness",
    ]
    row = table(results)[1]
    assert [row.numbers[m.key].value for m in titles.values()] == [1.8177, 1.7, 1.6, 6.5, 1.8177]
    assert titles["sharpness"].better is None
    assert "sharpness" not in headline(results)[0]


def test_what_is_not_a_number_is_a_dash(tmp_path):
    results = sweep()
    for row in results["results"]:
        if row["label"] == "eta=0.6":
            row["value"], row["standard_error"] = (None, None) if row["metric"] == "bpd" else (float("nan"), float("inf"))
    row = table(results)[2]
    assert {number.text() for number in row.numbers.values()} == {"–"}
    assert "nan" not in csv_text(results)
    assert "nan" not in Reader(page(tmp_path, results)).words.lower()


def test_digits_end_where_rounding_begins():
    values = [Number(42.14419938, 3e-9), Number(42.14419938, 6e-9), Number(42.1366736, 0.0075)]
    assert aligned(values) == ["42.1442 ± 0.0000", "42.1442 ± 0.0000", "42.1367 ± 0.0075"]
    unit = power(values)
    assert aligned([Number(4.9e-9, 7e-9), Number(-3e-9, 6e-9)], True, unit) == ["+0.0000 ± 0.0000"] * 2
    assert aligned([Number(2.6, 0.01), Number(2.5, 0.01), Number(1e4, 20.0)])[0] == "2.600 ± 0.010"


def test_zero_has_no_minus():
    assert Number(-0.33, 12.0).text() == "0 ± 12"
    assert Number(-0.33, 12.0).text(signed=True) == "+0 ± 12"


def test_what_is_to_be_borne_in_mind_is_marked_in_every_format(tmp_path):
    results = sweep()
    for row in of(results, "fid"):
        row["protocol"]["note"] = "400 samples: biased upward; compare at equal n only"
    said = "† Fréchet distance (classifier features): 400 samples: biased upward; compare at equal n only."
    for text in (markdown(results), Reader(page(tmp_path, results)).words, str(to_rich(results, 200).caption)):
        assert said in text
    assert "Fréchet distance (classifier features) ↓ †" in markdown(results).splitlines()[0]
    assert "†" not in markdown(sweep())


def test_csv_has_every_number_of_a_row():
    line = next(line for line in csv.DictReader(io.StringIO(csv_text(many()))) if line["label"] == "eta=0.2")
    for name, value in {
        "bpd_vlb_terms_prior_value": 0.0031,
        "bpd_vlb_seconds": 1.5,
        "lpips_reconstruction_identical": 3,
        "nearest_neighbour_pixels_copies": 0.012,
        "nearest_neighbour_pixels_overlap_near": 14,
        "cost_16_at_a_time_quartiles_lower": 0.0121,
        "cost_16_at_a_time_peak_memory_bytes": 1_739_000_000,
        "cost_16_at_a_time_parameters_per_expert_quality": 55_733_891,
    }.items():
        assert float(line[name]) == value


def test_identical_pairs_and_spreads_stand_beside_their_measure():
    results = many()
    for row in of(results, "inception_score"):
        row["split_standard_deviation"] = 0.6468
    told = {column.heading: column.cells for column in columns(results)}
    assert told["LPIPS (reconstruction) ↓ identical"] == ["3"] * 4
    assert told["Inception Score (Inception features) ↑ sd over splits"] == ["0.65"] * 4
    assert "LPIPS (reconstruction) ↓ identical" in markdown(results).splitlines()[0]


def test_headings_are_whole(tmp_path):
    head = re.search("<thead>(.*?)</thead>", page(tmp_path, sweep()))[1]
    assert '<th class="name" rowspan="2">route</th>' in head
    assert "n 400" in head
    assert "<th></th>" not in head
    assert "<th></th>" not in re.search("<thead>(.*?)</thead>", page(tmp_path, many()))[1]


def test_published_numbers_are_called_as_measured_ones():
    found = entry_points(group="snrouter.metrics")
    assert {name: found[name].load().title for name in PUBLISHED} == PUBLISHED
    assert {name for metrics in FAMILIES.values() for name in metrics} == {entry.name for entry in found}


def test_images_of_labelled_data_are_samples_all_the_same():
    drawn = {"metric": "fid", "protocol": {"final": "decode", "data": "digits/test"}}
    assert sampled(drawn)
    assert not sampled(drawn | {"metric": "psnr", "pairs": "reconstruction"})
    assert not sampled({"metric": "bpd", "protocol": {"data": "digits/test"}})
