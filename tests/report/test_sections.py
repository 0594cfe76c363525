"""Sections of the page: many measures, states on the way, memorisation, cost."""

import copy
import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import ROUTES, Reader, folder, many, of, sweep
from safetensors.numpy import save_file

from snrouter.report import csv_text, headline, markdown, plots, sections, to_rich
from snrouter.report.columns import columns, work
from snrouter.report.costs import costs
from snrouter.report.folder import read
from snrouter.report.gallery import trace
from snrouter.report.html import Section
from snrouter.report.measures import measures
from snrouter.report.memorisation import memorisation
from snrouter.report.number import Number, duration, memory, power


def shown(*parts: Section) -> str:
    """The HTML of sections that are not empty."""
    return "".join(part.html() for part in parts if part)


def words(path: Path, part: Callable, results: dict, **files: dict) -> str:
    """What one section says of a run."""
    run = folder(path, results)
    for name, tensors in files.items():
        save_file(tensors, run / f"{name}.safetensors")
    return Reader(shown(part(read(run), 1.0))).words


# --- many measures ---------------------------------------------------------------------------------------------------


def test_rows_say_what_a_measure_is_called_and_which_way_is_better():
    found = {m.metric: (m.title, m.better, m.arrow, m.family) for m in measures(many())}
    assert found["kid"] == ("KID (Inception features)", "lower", "↓", "Quality")
    assert found["recall"] == ("recall (Inception features)", "higher", "↑", "Quality")
    assert found["ssim"] == ("SSIM (same noise, against quality)", None, "", "Pairs")
    assert found["nearest_neighbour"] == ("nearest training image (pixels)", None, "", "Checks")
    plugin = many()
    for row in of(plugin, "kid"):
        row |= {"metric": "theirs", "title": "Their Score", "better": "higher"}
    assert {(m.name, m.better, m.family) for m in measures(plugin) if m.metric == "theirs"} == {
        ("Their Score", "higher", "Further")
    }


def test_where_higher_is_better_more_is_a_gain():
    results = sweep()
    for row in of(results, "fid"):
        row |= {"metric": "recall", "title": "recall", "better": "higher"}
    worse = headline(results)[0]
    assert "worse in recall" in worse
    for row in of(results, "recall"):
        row["value"] *= -1
        for pair in row["paired"].values():
            pair["difference"] *= -1
    assert headline(results)[0].startswith("Switching at η = 0.2 beats both")
    x, y = plots.axes_of(results)
    assert plots.corner(x, y) == "upper left"
    assert "recall, higher is better" in plots.trade_off(results, "a")


def test_a_measure_without_paired_differences_is_named_and_not_judged():
    results = many()
    for row in of(results, "recall"):
        del row["paired"]
    assert "Recall has no paired differences, and is not judged." in headline(results)


def test_ten_measures_are_told_by_family_and_differences_apart():
    top, apart = (Reader(shown(part(many()))).words for part in (sections.results, sections.differences))
    places = [top.index(f" {family} ") for family in ("Likelihood", "Quality", "Pairs", "Checks", "Cost")]
    assert places == sorted(places)
    assert "minus quality" not in top
    assert all(f" {family} " in apart for family in ("Likelihood", "Quality", "Pairs", "Checks"))
    assert "minus quality" in apart
    whole = markdown(many())
    assert "**Quality: differences**" in whole
    assert "0.0123" not in whole.splitlines()[0]


def test_a_column_with_nothing_in_it_is_not_shown():
    results = many()
    assert "KID" in shown(sections.results(results))
    for row in of(results, "kid"):
        row["value"] = row["standard_error"] = None
        del row["paired"]
    assert "KID" not in shown(sections.results(results), sections.differences(results))


@pytest.mark.parametrize(
    ("value", "size", "name"),
    [(9.1e-4, 1e-6, "in 10⁻⁶"), (1.2e-3, 1e-3, "in 10⁻³"), (0.01, 1, ""), (9e5, 1, ""), (5.5e7, 1e6, "in 10⁶")],
)
def test_tiny_and_huge_numbers_are_told_in_powers_of_a_thousand(value, size, name):
    unit = power([Number(value, value / 40)])
    assert unit.size == pytest.approx(size)
    assert unit.name == name


def test_a_tiny_measure_and_its_differences_share_a_unit():
    column = {c.heading: c.cells for c in columns(many())}
    assert column["KID (Inception features), in 10⁻⁶ ↓"][1] == "910 ± 23"
    assert column["KID (Inception features), in 10⁻⁶ ↓ minus quality"][2] == "-230.0 ± 4.6"
    line = list(csv.DictReader(io.StringIO(csv_text(many()))))[1]
    assert float(line["kid_inception"]) == 9.1e-4


def test_bytes_and_times_have_units_of_their_own():
    assert (memory([1_739_000_000]).name, memory([900.0]).name, memory([]).name) == ("GiB", "bytes", "bytes")
    assert [duration([s]).name for s in (3.0, 0.0123, 2e-5)] == ["s", "ms", "µs"]


def test_every_format_has_n_calls_and_protocol():
    line = next(csv.DictReader(io.StringIO(csv_text(many()))))
    assert (line["kid_inception_n"], line["kid_inception_nfe"], line["kid_inception_nfe_quality"]) == ("2000", "38.0", "30.0")
    assert line["kid_inception_protocol"] == '{"final": "decode", "seed": 0, "device": "cpu", "batch_size": 5}'
    for text in (markdown(many()), Reader(shown(costs(many()), sections.protocol(many()))).words):
        for said in ("calls of quality", "n 2000", "final decode", "batch size 5"):
            assert said in text


def test_a_terminal_of_any_width_shows_ten_measures():
    for width in (80, 160, 400):
        table = to_rich(many(), width)
        assert len(table.columns) >= 2


# --- on the way ------------------------------------------------------------------------------------------------------


def ways(labels=ROUTES) -> dict:
    seen = {label: np.zeros((8, 4, 1, 8, 8), np.float32) for label in labels}
    return seen | {f"{label}/gamma": np.linspace(5.0, -7.86, 8) for label in labels}


def test_states_are_shown_by_gamma_with_the_expert_that_is_asked(tmp_path):
    run = folder(tmp_path, sweep())
    save_file(ways(), run / "trace.safetensors")
    seen = trace(read(run), 1.0).html()
    assert "5.0" in seen
    assert "\N{MINUS SIGN}7.9" in seen
    assert Reader(seen).tags["img"] == 2 * len(ROUTES)  # of one noise at once, of another when asked for
    tracks = [part.partition("</div>")[0].count("--expert-0") for part in seen.split('class="track">')[1:5]]
    gammas = np.linspace(5.0, -7.86, 8)
    assert tracks == [0, *(int((gammas <= -7.86 + 12.86 * eta).sum()) for eta in (0.2, 0.6)), 8]


def test_a_trace_of_nothing_to_see_is_left_out(tmp_path):
    flat = {label: np.zeros((8, 4, 2), np.float32) for label in ROUTES}
    assert words(tmp_path / "flat", trace, sweep(), trace=flat) == ""
    assert words(tmp_path / "none", trace, sweep()) == ""
    assert "gone" not in words(tmp_path / "some", trace, sweep(), trace=ways(["eta=0.2", "gone"]))


# --- memorisation ----------------------------------------------------------------------------------------------------


def neighbours(**said) -> dict:
    results = copy.deepcopy(many())
    for row in of(results, "nearest_neighbour"):
        if row["label"] == "quality":
            row |= said
    return results


def test_honest_samples_are_said_to_be(tmp_path):
    text = words(tmp_path, memorisation, many())
    assert "Exact copies of training images among the samples: none." in text
    assert "samples are as far from the training images as unseen images are, or farther" in text
    assert "3 are also in the training set, and 14 more are near copies" in text


def test_copies_are_named_by_route(tmp_path):
    text = words(tmp_path, memorisation, neighbours(exact_copies=2, near_copies=5, value=0.1))
    assert "Exact copies of training images among the samples: 2 of 2,000 for quality." in text
    assert "Near copies of training images among the samples: 5 of 2,000 for quality." in text
    assert "samples of quality (49% of their distance); the samples of the others are as far" in text


def test_two_feature_spaces_have_a_heading_each_and_share_what_is_the_same(tmp_path):
    results = many()
    results["results"] += [row | {"features": "classifier"} for row in of(results, "nearest_neighbour")]
    text = words(tmp_path, memorisation, results)
    assert text.count("Exact copies") == text.count("are also in the training set") == 1
    assert text.index("Exact copies") < text.index("nearest training image (pixels)") < text.index("(classifier features)")
    assert text.count("as near as 1 in 100 unseen images") == 2


def test_without_unseen_images_only_copies_are_told(tmp_path):
    results = many()
    for row in of(results, "nearest_neighbour"):
        for key in ("test_distance", "test_standard_error", "copies", "overlap_exact", "overlap_near"):
            del row[key]
    text = words(tmp_path, memorisation, results)
    assert "unseen" not in text
    assert "none" in text


def test_the_nearest_pairs_are_shown_the_chosen_route_first(tmp_path):
    results = many()
    places = {row["label"]: i for i, row in enumerate(results["results"]) if row["metric"] == "nearest_neighbour"}
    pairs = {f"{i}/samples beside their nearest training images": np.zeros((8, 2, 1, 8, 8), np.float32) for i in places.values()}
    pairs["999/of no row"] = np.zeros((1, 1, 1, 8, 8), np.float32)
    text = words(tmp_path, memorisation, results, pictures=pairs)
    shown = text[text.index("below each that image") :]
    assert shown.split()[4:9] == ["eta=0.2", "Of", "the", "other", "routes"]


# --- cost ------------------------------------------------------------------------------------------------------------


def test_cost_is_told_in_units_people_read():
    text = Reader(shown(costs(many()))).words
    for said in (
        "16 at a time",
        "96.1% interval",
        "ms/image",
        "12.00 to 12.60",
        "12.10 to 12.50",
        "GiB",
        "1.62",
        "in 10⁶",
        "55.73",
    ):
        assert said in text
    assert "1.003 ×" in text
    assert "Network calls" in text


def test_blocks_of_samples_are_told():
    results = many()
    for row in of(results, "fid"):
        row |= {"blocks": "minimum of 2 of 1,000", "distances": {"0-999": 4.2, "1000-1999": 4.31}}
    text = Reader(shown(sections.blocks(results))).words
    assert "samples 0-999 samples 1000-1999" in text
    assert "4.310" in text


def test_calls_are_told_once_for_measures_of_the_same_images():
    results = many()
    for row in of(results, "ssim"):  # of the same samples, but for the route that it is compared with
        if row["label"] == "quality":
            results["results"].remove(row)
    for row in of(results, "lpips"):
        row["protocol"] |= {"data": "digits/test"}
        row["nfe_per_expert"] = {"quality": 60.0, "likelihood": 16.0}
    shown = [column.heading for column in work(results)]
    assert shown == [
        "route",
        *(f"{group} {what}" for group in GROUPS for what in ("calls of quality", "calls of likelihood", "seconds")),
    ]


GROUPS = ("sampling", "bits/dim (VLB)", "LPIPS (reconstruction)")
