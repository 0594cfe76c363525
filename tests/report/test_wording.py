"""The words follow the paired differences."""

import copy
import re

import pytest
from made_up_runs import ROUTES, Reader, many, of, page, sweep, unknown_distances

from snrouter.report import headline, plots
from snrouter.report.wording import choice


def test_a_merge_that_beats_both_says_in_which_measure_and_by_how_much():
    first, bpd, frechet, *rest = headline(sweep())
    assert first == (
        "Switching at η = 0.2 beats both quality and likelihood in bits/dim, and is level with the better of them in Fréchet distance."
    )
    assert bpd.startswith("Bits/dim (VLB) at η = 0.2 (γ = -5.29): 1.818 ± 0.014")
    assert "0.0240 ± 0.0030 below likelihood (1.842)" in bpd
    assert "level with quality (6.470), +0.030 ± 0.050" in frechet
    assert any("one of 2 switches" in sentence for sentence in rest)
    assert choice(sweep()) == (
        "the lowest in bits/dim of the routes whose Fréchet distance is not demonstrably above quality's by more than 0.5"
    )


@pytest.mark.parametrize("error", [0.0, 0.01])
def test_copies_of_one_expert_are_no_improvement(error):
    same = sweep(dict.fromkeys(ROUTES, (1.8, 6.5)), {"bpd": error, "fid": error})
    first = headline(same)[0]
    assert first.startswith("No switch beats both quality and likelihood.")
    assert "does not beat quality or likelihood" in first
    assert not re.search(r"\bbeats\b(?! both quality and likelihood\.)", first)


def test_an_advantage_within_the_errors_is_no_improvement():
    first = headline(sweep(errors={"bpd": 0.02, "fid": 20.0}))[0]  # 0.024 is 1.2 errors
    assert first.startswith("No switch beats both")
    assert "level with likelihood in bits/dim and Fréchet distance" in first


def test_a_trade_off_is_told_as_one():
    first = headline(sweep({**ROUTES, "eta=0.2": (1.9, 12.0), "eta=0.6": (1.95, 15.0)}))[0]
    assert first.startswith("No switch beats both")
    assert "against quality it is better in bits/dim but worse in Fréchet distance" in first
    assert "against likelihood it is better in Fréchet distance but worse in bits/dim" in first


def test_a_bad_choice_names_the_switches_that_would_do():
    first = headline(sweep(best="eta=0.6"))[0]
    assert first.startswith("The chosen switch, η = 0.6, does not beat quality: ")
    assert first.endswith("Of the others, η = 0.2 would.")


def test_a_chosen_expert_is_said_to_be_chosen_over_every_switch():
    assert headline(sweep(best="quality"))[0].startswith("No switch is chosen: quality alone is the lowest in bits/dim")


def test_combining_both_strengths_without_excess_is_level_in_each():
    first = headline(sweep({**ROUTES, "eta=0.2": (1.8417, 6.47)}))[0]
    assert first == (
        "Switching at η = 0.2 beats both quality and likelihood: it is level with the better of them in bits/dim and Fréchet "
        "distance alike."
    )


def test_without_errors_nothing_is_claimed():
    results = sweep()
    for row in results["results"]:
        del row["paired"]
    sentences = headline(results)
    assert sentences[0].startswith("No switch beats both")
    assert "is not known" in sentences[0]
    assert any("nothing is claimed" in sentence for sentence in sentences)


def test_without_experts_alone_nothing_is_compared():
    results = sweep()
    results["results"] = [row for row in results["results"] if row["route"] != "single"]
    assert headline(results)[0].startswith("Of the switches, η = 0.2 is the lowest in bits/dim")
    assert "beats" not in " ".join(headline(results))


def test_distances_that_are_no_numbers_make_no_trade_off(tmp_path):
    results = unknown_distances(sweep())
    sentences = headline(results)
    assert sentences[0] == "Switching at η = 0.2 beats both quality and likelihood in bits/dim."
    assert "Fréchet distance is not a number for any route, so there is no trade-off." in sentences
    assert choice(results) == ""
    assert [plots.trade_off(results, "a"), plots.close_up(results, "b")] == [None, None]
    words = Reader(page(tmp_path, results)).words
    assert "demonstrably" not in words
    assert "chosen" not in words
    assert "Trade-off" not in words


def test_a_lone_route_tells_its_first_measures():
    results = many()
    results["results"] = [row for row in results["results"] if row["label"] == "eta=0.2"]
    (only,) = headline(results)
    assert only.startswith("Route eta=0.2: bits/dim (VLB) 1.818 ± 0.014, Fréchet distance (Inception features) 4.200 ± 0.030, KID")
    assert only.endswith(", and 6 more.")


def test_experts_alone_are_compared_and_none_is_chosen(tmp_path):
    results = sweep()
    del results["best"]
    results["results"] = [row for row in results["results"] if row["route"] == "single"]
    first, bpd, frechet, *rest = headline(results)
    assert first == "Of the experts alone, likelihood is the lowest in bits/dim, quality is the lowest in Fréchet distance."
    assert bpd.endswith("0.2933 ± 0.0030 below quality (2.135).")
    assert frechet.endswith("12.390 ± 0.050 above quality (6.470).")
    assert not any("switch" in sentence for sentence in (first, *rest))
    assert "chosen" not in Reader(page(tmp_path, results)).words


def variants(**better: tuple[float, float]) -> dict:
    """A sweep with bits/dim in several variants, of each the difference of the chosen switch from both experts."""
    results, bounds = sweep(), of(sweep(), "bpd")
    for name, (from_likelihood, from_quality) in better.items():
        for row in copy.deepcopy(bounds):
            row |= {"estimator": "ode", "dequantization": name}
            if row["label"] == "eta=0.2":
                row["paired"]["likelihood"]["difference"], row["paired"]["quality"]["difference"] = from_likelihood, from_quality
            results["results"].append(row)
    return results


def test_every_variant_is_judged_in_whatever_order():
    results = variants(truncated_normal=(-0.2, -0.3), uniform=(-0.1, 0.29))
    told = headline(results)[0]
    assert "against quality it is better in bits/dim (VLB) and bits/dim (ODE, truncated normal) but worse in" in told
    assert "bits/dim (ODE, uniform)" in told
    results["results"].reverse()
    assert headline(results)[0].startswith("No switch beats both")
    assert "worse in bits/dim (ODE, uniform)" in headline(results)[0]
    assert headline(variants(uniform=(-0.1, -0.29)))[0].startswith(
        "Switching at η = 0.2 beats both quality and likelihood in bits/dim (VLB) and bits/dim (ODE, uniform), and is level"
    )


def test_a_difference_that_is_rounding_is_level():
    results = sweep({**ROUTES, "eta=0.2": (1.8417, 6.47)})
    for row in of(results, "bpd"):
        for pair in row["paired"].values():
            if abs(pair["difference"]) < 1e-9:
                pair |= {"difference": -4.9e-9, "standard_error": 1e-10}
    assert "level with the better of them in bits/dim and" in headline(results)[0]
    assert "level with likelihood (1.842), +0.00000 ± 0.00000" in headline(results)[1]


def test_a_sweep_of_neither_likelihood_nor_quality_is_not_judged():
    results = many()
    results["results"] = of(results, "ssim") + of(results, "cost")
    assert headline(results) == ["4 routes, 2 measures; none of likelihood or quality, so nothing is judged."]
