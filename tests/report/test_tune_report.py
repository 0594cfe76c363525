"""What a tune found: in words, on the page, in a terminal and in Markdown."""

import copy
import io
import itertools
import re
from importlib import resources

import matplotlib as mpl
import numpy as np
from made_up_runs import Reader, page, renamed, sweep
from made_up_tunes import CHOSEN, LOW, ROUTES, tuned
from rich.console import Console

from snrouter.report import axis_plots, headline, markdown, to_rich
from snrouter.report.advice import path
from snrouter.report.columns import columns
from snrouter.report.costs import calls_made
from snrouter.report.labels import annotate
from snrouter.report.measures import measures
from snrouter.report.number import Number
from snrouter.report.plots import curve, expert_colours, trade_off
from snrouter.report.profile import curves
from snrouter.report.svg import STYLE, canvas
from snrouter.report.tables import Row, table
from snrouter.report.tune import sheets
from snrouter.search.tune import FITTED, FURTHER, HELD_OUT

TITLES = ("Routes", "Along the noise axis", "Seams", "Ends of the interval", "Quality, round by round")


# --- in words --------------------------------------------------------------------------------------------------------


def test_the_finding_is_the_route_and_what_to_expect_of_it():
    said = headline(tuned())
    assert said[0] == (
        "Use discrete below γ = -6.12, likelihood up to -3.19, then quality: expect 1.748 ± 0.015 bits/dim, 0.0212 ± 0.0018 below "
        "likelihood alone, and Fréchet distance 6.31 ± 0.42."
    )
    assert any("-0.0081 ± 0.0011 against the bound" in sentence for sentence in said)
    assert any("0.000420 ± 0.000090 bits/dim, on average over 20 random splits" in sentence for sentence in said)
    assert any("tuned.yaml" in sentence for sentence in said)
    assert not any("switch" in sentence for sentence in said)


def chosen(results: dict, label: str) -> dict:
    """The same with another route chosen."""
    results = copy.deepcopy(results)
    tune = results["tune"]
    (away,) = (route["difference"]["value"] for route in tune["routes"] if route["label"] == label)
    for route in tune["routes"]:
        route["chosen"] = route["label"] == label
        route["difference"]["value"] -= away
    (own,) = (route for route in tune["routes"] if route["chosen"])
    tune["chosen"] |= {"label": label, "pieces": own["pieces"], "expected": {"bpd": own["bpd"]}}
    del results["best"]
    return results


def test_an_expert_alone_may_be_the_best_route():
    results = chosen(tuned(), "likelihood")
    assert headline(results)[0] == "Use likelihood alone: expect 1.769 ± 0.015 bits/dim."
    assert [row.label for row in table(results) if row.best] == ["likelihood"]


def test_what_is_within_the_error_is_called_level():
    results = tuned()
    for route in results["tune"]["routes"]:
        route["difference"] = {"value": 0.003, "standard_error": 0.002}
    assert ", level with likelihood alone, and" in headline(results)[0]
    for route in results["tune"]["routes"]:
        route["difference"]["value"] = -0.03
    assert "0.0300 ± 0.0020 above likelihood alone" in headline(results)[0]


def test_without_a_quality_metric_the_likelihood_chooses():
    results = tuned()
    results["results"] = [row for row in results["results"] if row["metric"] == "bpd"]
    for key in ("best", "frontier"):
        del results[key]
    for part in (results["tune"], results["tune"]["chosen"]["expected"]):
        part.pop("quality", None)
        part.pop("fid", None)
    assert headline(results)[0].endswith("below likelihood alone.")
    assert "the lowest in bits/dim on the 200 images that routes were chosen on" in str(to_rich(results, 100).caption)
    assert not any("flatters" in sentence for sentence in headline(results))
    assert [row.label for row in table(results) if row.best] == [CHOSEN]


def test_what_is_shown_and_took_part_in_the_choice_is_told_alone():
    (said,) = (sentence for sentence in headline(tuned()) if "flatters" in sentence)
    assert said.startswith("Of 8 routes, the Fréchet distances shown decided which might be chosen")
    assert "bits/dim of other images" in said


def test_the_chosen_route_on_all_images_is_what_a_run_will_measure():
    assert "On all 400 images, about what snrouter run will measure: 1.751 ± 0.010 bits/dim (VLB)." in headline(tuned())


def test_one_expert_has_no_optimism():
    results = tuned()
    results["tune"]["optimism"] |= {"value": 0.0, "standard_error": 0.0}
    assert not any("where it was chosen" in sentence for sentence in headline(results))
    assert not any("Optimism" in sheet.note for sheet in sheets(results))


def test_an_expert_that_does_not_reach_the_ends_is_compared_with_as_such():
    results = tuned()
    (alone,) = (route for route in results["tune"]["routes"] if route["label"] == "likelihood")
    assert "below likelihood alone, and" in headline(results)[0]
    alone["pieces"][0]["from"] = LOW + 1
    assert "below likelihood alone (over its support, γ = -6.86 to 5), and" in headline(results)[0]


def test_a_route_says_which_expert_runs_where():
    assert path(tuned()["tune"]["chosen"]["pieces"]) == "discrete below γ = -6.12, likelihood up to -3.19, then quality"
    assert path([{"expert": "b", "from": -1, "to": 1}]) == "b alone"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_routes_stand_in_the_order_of_the_tune_and_only_experts_on_their_own_support_are_baselines():
    results = tuned()
    assert [row.label for row in table(results)] == list(ROUTES)
    assert [row.label for row in table(results) if row.single] == ["quality", "likelihood", "discrete"]
    assert not any("no seam" in column.title for column in columns(results))


def test_every_format_tells_the_routes_and_what_became_of_them():
    stream = io.StringIO()
    Console(file=stream, width=110).print(to_rich(tuned(), 110))
    terminal = " ".join(stream.getvalue().split())
    text = markdown(tuned())
    assert "Use discrete below γ = -6.12" in terminal
    assert "2 seams *" in terminal
    for said in (terminal, text):
        assert "quality above -4.1" in said
    assert "Use discrete below γ = -6.12" in text
    assert "| no seam | likelihood alone | 1.769 ± 0.015 | +0.0212 ± 0.0018 | after 500, beaten by 1 seam |" in text
    assert "| **2 seams** | discrete below γ = -6.12, likelihood up to -3.19, then quality | 1.748 ± 0.015 | – | – |" in text
    assert "| 500 | 8 | no seam (by 1 seam) |" in text
    assert "51,200 network calls, its pilot among them, 2.00 of the 25,600 of one VLB" in text


def test_the_rule_of_the_seams_is_the_search_s():
    (seams,) = (sheet for sheet in sheets(tuned()) if sheet.title == "Seams")
    assert f"more than {HELD_OUT:g} standard error of the paired difference on images held out" in seams.note
    assert f"more than {FITTED:g}, {FURTHER:g} more for each further seam, on all those that they are chosen on" in seams.note


def test_of_one_round_nothing_is_said_of_dropping():
    results = tuned()
    results["tune"]["quality"]["rounds"] = results["tune"]["quality"]["rounds"][-1:]
    for route in results["tune"]["routes"]:
        route["dropped_after"] = None
    assert "Quality, round by round" not in [sheet.title for sheet in sheets(results)]
    assert "dropped" not in markdown(results)


def test_a_pilot_is_told_where_there_was_one():
    results = tuned()
    results["tune"]["network_calls"]["pilot"] = 0
    assert calls_made(results)[0].startswith("The profile of 2 networks took 49,920 network calls, 1.95 of the 25,600 of one VLB")


def test_a_difference_within_its_error_is_grey():
    (ends,) = (sheet for sheet in sheets(tuned(True)) if sheet.title == "Ends of the interval")
    (away,) = (column for column in ends.columns if column.title == "minus chosen")
    assert list(away.faint) == [True, False, False, False]
    assert [row.best for row in ends.rows] == [False, True, False, False]


def test_calls_that_routes_share_are_told():
    results = sweep() | {"network_calls": {"samples": {"spent": 66_000, "alone": 100_000}, "bpd": {"spent": 10, "alone": 20}}}
    assert calls_made(results) == [
        "Sampling took 66,000 network calls, 0.66 of the 100,000 of every route alone.",
        "Bits/dim took 10 network calls, 0.50 of the 20 of every route alone.",
    ]
    assert calls_made(sweep()) == []
    assert "0.66 of the 100,000" in markdown(results)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_what_was_measured_and_chosen(tmp_path):
    text = page(tmp_path, tuned(True))
    read = Reader(text)
    assert not read.unbalanced
    assert max(read.ids.values()) == 1
    assert read.tags["script"] == 0
    places = [read.words.index(f" {title} ") for title in TITLES]
    assert places == sorted(places)
    assert "snrouter tune" in read.words
    assert "Measured in 64 cells of the axis" in read.words
    assert (
        "Chosen: the lowest in bits/dim on the 200 images that routes were chosen on, of the routes whose Fréchet distance is not demonstrably above quality's"
        in read.words
    )
    assert "Use discrete below γ\u00a0=\u00a0\N{MINUS SIGN}6.12" in text
    assert not re.search(r"mathdefault|None|nan\b", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    for address in read.addresses:
        assert address.startswith(("data:image/png;base64,", "#"))


def test_a_run_without_a_tune_says_nothing_of_one(tmp_path):
    words = Reader(page(tmp_path, sweep())).words
    assert not any(f" {title} " in words for title in TITLES[1:])


def test_a_tune_with_little_to_tell_and_a_hostile_expert_makes_a_page(tmp_path):
    hostile = "<script>alert('x')</script> $a$ & so on and on"
    results = renamed(chosen(tuned(), "likelihood"), "discrete", hostile)
    for key in ("profile", "thresholds", "seams", "optimism", "exact", "quality"):
        del results["tune"][key]
    read = Reader(page(tmp_path, results))
    assert not read.unbalanced
    assert read.tags["script"] == 0
    assert hostile in read.words
    assert " Routes " in read.words
    assert " Seams " not in read.words


# --- plots -----------------------------------------------------------------------------------------------------------


def texts(svg: str) -> list[str]:
    return [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if text]


def test_bars_are_named_where_there_is_room_and_always_in_the_key():
    results = tuned()
    drawn = texts(axis_plots.routes(results["tune"], expert_colours(results), "a"))
    assert drawn.count("discrete") == 6  # key, four bars, and the label of the expert alone
    assert "2 seams, chosen" in drawn
    assert "dropped after 500" in drawn
    pieces = results["tune"]["routes"][2]["pieces"]
    pieces[0]["to"] = pieces[1]["from"] = LOW + 0.2
    assert texts(axis_plots.routes(results["tune"], expert_colours(results), "a")).count("discrete") == 5


def test_the_low_noise_expert_of_the_route_has_the_first_colour_and_none_share_one():
    colours = expert_colours(tuned())
    assert colours == {"likelihood": 0, "quality": 1, "discrete": 2}


def test_the_level_beside_the_thresholds_is_the_chosen_route_on_all_images():
    tune = tuned()["tune"]
    pair, colours = tune["thresholds"][0], expert_colours(tuned())
    assert "2 seams: 1.751" in texts(axis_plots.threshold(tune, pair, colours, "a"))
    del tune["chosen"]["on_all_images"]
    assert not any("2 seams" in text for text in texts(axis_plots.threshold(tune, pair, colours, "a")))


def test_each_line_over_the_ends_has_a_name_of_its_own():
    tune = tuned(True)["tune"]
    tune["ends"] += [end | {"gamma_max": 4.0, "chosen": False} for end in tune["ends"]]
    drawn = texts(axis_plots.ends(tune, "a"))
    lines = [f"{kind}, γₘₐₓ = {end}" for end in (4, 5) for kind in ("VLB", "exact ODE of the first 100")]
    assert [text for text in drawn if "," in text and "γₘₐₓ" in text] == lines
    (sheet,) = (sheet for sheet in sheets({"tune": tune}) if sheet.title == "Ends of the interval")
    assert sheet.columns[-1].title == "exact ODE, the first 100 images"


def test_experts_are_named_in_the_order_of_the_axis():
    results = tuned()
    for make in (axis_plots.routes, axis_plots.errors, axis_plots.excess):
        drawn = texts(make(results["tune"], expert_colours(results), "a"))
        assert drawn[-3:] == ["discrete", "likelihood", "quality"]


def test_labels_have_minus_signs_as_numbers_have(tmp_path):
    results = tuned()
    assert "quality above −4.1" in texts(axis_plots.routes(results["tune"], expert_colours(results), "a"))
    assert "quality above -4.1" not in page(tmp_path, results).partition("<pre")[0]


def test_a_label_is_at_its_own_point_or_tied_to_it():
    near = [
        (Row(f"route {i}", "", None, (), "", i == 1, {}, {}, {}), Number(1 + i / 500, 0.01), Number(2.0, 0.1)) for i in range(4)
    ]
    far = (Row("far", "", None, (), "", False, {}, {}, {}), Number(1.3, 0.01), Number(3.0, 0.1))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(4.9, 3.9)
        for _, x, y in (points := [*near, far]):
            axes.plot([x.value], [y.value], "o")
        axes.margins(0.1)
        annotate(figure, axes, points)
    told = {text.get_text(): text.arrow_patch for text in axes.texts}
    assert told.pop("far") is None  # beside it
    assert told.pop("route 1") is not None  # between its neighbours, so a line tells which it is
    figure.draw_without_rendering()
    spots = axes.transData.transform([(x.value, y.value) for _, x, y in points])
    for label in told:
        (text,) = (text for text in axes.texts if text.get_text() == label)
        anchor = text.get_window_extent()
        x, y = np.clip(spots[:, 0], anchor.x0, anchor.x1), np.clip(spots[:, 1], anchor.y0, anchor.y1)
        assert np.hypot(*(spots - np.stack([x, y], 1)).T).argmin() == int(label[-1])


def test_where_an_expert_was_not_asked_its_curve_ends():
    results = tuned()
    told = results["tune"]["profile"]["error"]["discrete"]
    told["value"][:40] = [None] * 40
    gamma, found = curves(results["tune"])
    assert np.isnan(found["discrete"][0]).sum() == 40
    assert len(gamma) == 64
    for make in (axis_plots.errors, axis_plots.excess):
        assert make(results["tune"], expert_colours(results), "a")


def test_an_expert_alone_far_from_all_routes_is_told_and_not_drawn():
    drawn = texts(trade_off(tuned(), "a"))
    assert "beyond: discrete at 3.412, 71.3" in drawn
    assert "discrete" not in drawn
    assert not any("beyond" in text for text in texts(trade_off(sweep(), "a")))
    results = tuned()
    for row in results["results"]:
        row["label"] = row["label"].replace("discrete", "no network")  # a candidate, and no baseline
    assert "beyond: no network at 3.412, 71.3" in texts(trade_off(results, "a"))


def over_ends(*labels: str) -> dict:
    """A sweep over ends of the interval as evaluation writes it, the first route being on the spec's own."""
    results = sweep({f"eta={i / 10:g}": (1.82 + i / 100, 6.5) for i in range(1, 1 + len(labels))} | {"quality": (2.135, 6.47)})
    renamed = dict(zip(dict.fromkeys(row["label"] for row in results["results"]), labels, strict=False))
    for row in results["results"]:
        if row["label"] in renamed:
            row |= {"label": renamed[row["label"]], "eta": 0.4}
            row["interval"] = "the spec's" if row["label"] == labels[0] else "swept"
            if row["label"] != labels[0]:
                row["paired"][labels[0]] = {"difference": 0.01, "standard_error": 0.002}
    results["best"]["label"] = labels[0]
    return results


def test_a_sweep_over_an_end_is_drawn_along_it(tmp_path):
    results = over_ends("gamma_min=-13.3", "gamma_min=-12")
    assert headline(results)[0].startswith("The route with γₘᵢₙ = -13.3 beats quality alone")
    assert "γₘᵢₙ, end of the interval" in texts(curve(results, measures(results)[0], "a"))
    read = Reader(page(tmp_path, results))
    assert " Along γₘᵢₙ " in read.words
    assert "At η = 0" not in read.words
    (own,) = (c for c in columns(results) if c.title == "minus the spec's interval" and "bits/dim" in c.group)
    assert own.cells == ["–", "–", "+0.0100 ± 0.0020"]  # quality alone, and the spec's interval itself
    assert not any("spec's interval" in column.title for column in columns(sweep()))


def test_a_sweep_over_ends_and_switches_has_a_line_for_each_end():
    labels = [f"gamma_min={end:g}, eta={eta:g}" for end in (-13.3, -12) for eta in (0.1, 0.2, 0.4)]
    results = over_ends(*labels)
    for row, label in itertools.product(results["results"], labels):
        if row["label"] == label:
            row["eta"] = float(label.rpartition("=")[2])
    drawn = texts(curve(results, measures(results)[0], "a"))
    assert "η, position of the switch" in drawn
    assert {"γₘᵢₙ = −13.3", "γₘᵢₙ = −12"} <= set(drawn)
    assert "γₘᵢₙ = -13.3, η = 0.1" in headline(results)[0]


# --- colours ---------------------------------------------------------------------------------------------------------

SEEN = {  # how colours look to people who lack a kind of cone (Machado et al. 2009, table 1, severity 1)
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b*."""
    x, y, z = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(light, 0, 1)
    a, b, c = (np.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x / 0.9505, y, z / 1.089))
    return np.array([116 * b - 16, 500 * (a - b), 200 * (b - c)])


def test_experts_are_told_apart_by_everyone_in_the_light_in_the_dark_and_on_paper():
    css = (resources.files("snrouter.report") / "page.css").read_text()
    papers, experts = re.findall(r"--paper: (#\w+)", css), [re.findall(rf"--expert-{i}: (#\w+)", css) for i in range(8)]
    assert len(papers) == 3
    for paper, *colours in zip((p if len(p) == 7 else "#ffffff" for p in papers), *experts, strict=True):
        for seen in SEEN.values():
            looks = [lab(np.array(seen) @ linear(colour)) for colour in colours]
            assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(looks, 2)) > 18
        for colour in colours:  # as text on the page, and the page's colour as text in bars
            light, dark = sorted((float(np.array([0.2126, 0.7152, 0.0722]) @ linear(c)) for c in (paper, colour)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.5
