"""Several runs in one table: what shares a column, what is refused, and how a mixture is shown."""

import copy
import csv
import io
import json

import pytest
from made_up_runs import Reader, folder, many, of, sweep

from snrouter.errors import SpecError
from snrouter.report import combine, headline, tabulate, write_report
from snrouter.report.measures import measures


def changed(results: dict, metric: str = "bpd", **said) -> dict:
    """The results with other words in the protocol, or another n, of one metric."""
    results = copy.deepcopy(results)
    for row in of(results, metric):
        if "n" in said:
            row["n"] = said["n"]
        row["protocol"] |= {key: value for key, value in said.items() if key != "n"}
    return results


def two(path, other: dict, first: dict | None = None) -> list:
    return [folder(path / "a", first or sweep()), folder(path / "b", other)]


def refusal(path, other: dict, first: dict | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        combine(two(path, other, first))
    combine(two(path, other, first), mixed=True)
    return str(caught.value)


def test_runs_made_alike_share_every_column(tmp_path):
    results = combine(two(tmp_path, sweep(best="quality")))
    assert [m.key for m in measures(results)] == ["bpd_vlb", "fid_classifier"]
    assert [row["run"] for row in results["results"]] == ["a"] * 8 + ["b"] * 8
    assert {row["measure"] for row in results["results"]} == {"bpd_vlb", "fid_classifier"}
    lines = list(csv.DictReader(io.StringIO(tabulate(two(tmp_path, sweep(best="quality")), "csv"))))
    assert [(line["run"], line["label"]) for line in lines[:5]] == [
        ("a", "quality"),
        ("a", "eta=0.2"),
        ("a", "eta=0.6"),
        ("a", "likelihood"),
        ("b", "quality"),
    ]
    assert [line["label"] for line in lines if line["best"] == "True"] == ["eta=0.2", "quality"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"n": 40}, "n 400 against 40"),
        ({"times": 128}, "times 32 against 128"),
        ({"gamma_min": -8.0}, "gamma min -7.86 against -8"),
        ({"estimator": "ode"}, "estimator not said against ode"),
        ({"precision": "float64"}, "precision not said against float64"),
        ({"rtol": 1e-3}, "rtol not said against 0.001"),
        ({"data_sha256": "ab" * 32}, "data sha256 not said against abababab"),
        ({"anything": [1, 2]}, "anything not said against [1, 2]"),
    ],
)
def test_numbers_not_made_alike_are_refused_in_one_line(tmp_path, said, told):
    message = refusal(tmp_path, changed(sweep(), **said))
    assert (
        message
        == f"bits/dim: a and b were not measured alike: {told}; run them alike, or show a column for each protocol with --mixed"
    )


@pytest.mark.parametrize(
    "said",
    [
        {"seed": 7},
        {"batch_size": 3},
        {"device": "NVIDIA H200"},
        {"snrouter": "9.9", "torch": "3.0", "packages": {"mine": "1.0"}},
        {"error": "bootstrap", "note": "few"},
        {"weights_sha256": {"quality": "ab" * 32}},
    ],
)
def test_chance_and_rounding_do_not_count(tmp_path, said):
    assert len(measures(combine(two(tmp_path, changed(sweep(), **said))))) == 2


def test_images_are_known_by_their_hash(tmp_path):
    here, there = ({"data": name, "data_sha256": "ab" * 32, "data_statistics": {"images": name}} for name in ("mine", "yours"))
    combine(two(tmp_path, changed(sweep(), **here), changed(sweep(), **there)))
    assert "data mine against yours" in refusal(tmp_path, changed(sweep(), data="yours"), changed(sweep(), data="mine"))


def test_an_experts_own_support_is_not_asked_of_others(tmp_path):
    alone = sweep()
    alone["results"] = [row for row in alone["results"] if row["route"] == "single"]
    for row in alone["results"]:
        row["protocol"]["gamma_min"] = -3.0
    assert len(measures(combine(two(tmp_path, alone)))) == 2


def test_a_run_that_asked_for_both_has_both(tmp_path):
    both = sweep()
    for row in of(both, "bpd"):
        both["results"].append(row | {"protocol": row["protocol"] | {"times": 128}})
    titles = [m.title for m in measures(combine(two(tmp_path, changed(sweep(), times=128), both)))]
    assert titles[:2] == ["bits/dim (VLB, times 32)", "bits/dim (VLB, times 128)"]


def test_time_depends_on_the_machine_and_not_on_repetitions(tmp_path):
    combine(two(tmp_path, changed(many(), "cost", n=21, repetitions=21), changed(many(), "cost", n=9, repetitions=9)))
    assert "device cpu against cuda" in refusal(tmp_path, changed(many(), "cost", device="cuda"), many())
    combine(two(tmp_path, changed(many(), "fid", device="cuda"), many()))


def test_scores_of_other_splits_are_others(tmp_path):
    other = many()
    for row in of(other, "inception_score"):
        row["splits"] = 5
    assert "Inception Score: a and b were not measured alike: splits 10 against 5" in refusal(tmp_path, other, many())


def test_a_mixture_has_a_column_a_protocol(tmp_path):
    folders = two(tmp_path, changed(sweep(), times=128))
    shown = tabulate(folders, "markdown", mixed=True).splitlines()
    cells = {line.split(" | ")[1]: line for line in shown[2:10] if line.startswith("| a ")}
    assert "bits/dim (VLB, times 32) ↓" in shown[0]
    assert "bits/dim (VLB, times 128) ↓" in shown[0]
    assert "1.818 ± 0.014 | – | 6.500 ± 0.014" in cells["**eta=0.2**"]
    with pytest.raises(SpecError, match="times 32 against 128"):
        write_report(folders)
    assert "times 128" in Reader(write_report(folders, mixed=True).read_text()).words


def test_a_folder_given_twice_counts_once(tmp_path):
    run = folder(tmp_path / "a", sweep())
    assert len(combine([run, tmp_path / "a" / ".." / "a"])["results"]) == 8


def test_json_has_every_row_whole(tmp_path):
    folders = two(tmp_path, sweep() | {"partial": True})
    read = json.loads(tabulate(folders, "json"))
    assert read["partial"] is True
    assert [read["runs"][name]["partial"] for name in "ab"] == [False, True]
    own = [
        {key: part for key, part in row.items() if key not in ("run", "measure")} for row in read["results"] if row["run"] == "a"
    ]
    assert own == sweep()["results"]


def test_a_table_of_several_has_no_finding_of_one(tmp_path):
    words = Reader(write_report(two(tmp_path, sweep() | {"partial": True})).read_text()).words
    assert words.index("PARTIAL: a limit cut b short.") < words.index("b (partial)")
    assert words.count("PARTIAL: a limit cut this run short.") == 1
    assert words.index("2 runs") < words.index(" Results ") < words.index(headline(sweep())[0])
    assert "Marked: the route that each run chose." in words


def test_a_partial_run_is_marked_and_the_others_are_not(tmp_path):
    folders = two(tmp_path, sweep() | {"partial": True})
    lines = list(csv.DictReader(io.StringIO(tabulate(folders, "csv"))))
    assert [line["partial"] for line in lines] == ["False"] * 4 + ["True"] * 4
    text = tabulate(folders, "markdown")
    assert text.startswith("**PARTIAL: a limit cut b short.")
    assert "| b (partial) |" in text
    assert "| a |" in text
