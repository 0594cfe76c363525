"""Means, deviations, intervals and gains against numbers worked out by hand; findings say what the intervals say."""

import pytest

from snrouter.study.findings import findings
from snrouter.study.table import measures_of, summarised


def test_the_interval_is_students() -> None:
    told = summarised([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert told["mean"] == pytest.approx(7 / 3)
    assert told["standard_deviation"] == pytest.approx((7 / 3) ** 0.5)
    half = 4.302653 * (7 / 3) ** 0.5 / 3**0.5  # the 0.975 quantile with two degrees of freedom
    assert told["interval"] == pytest.approx([7 / 3 - half, 7 / 3 + half])
    assert told["relative"]["mean"] == pytest.approx(1 / 6)  # -1/2, 0, 1


def test_gains_are_paired_by_seed() -> None:
    told = summarised([1.1, 2.2, 3.3], [1.0, 2.0, 3.0])
    assert told["relative"]["interval"] == pytest.approx([0.1, 0.1])  # though both vary from seed to seed
    assert summarised([-1.1], [-1.0])["relative"]["mean"] == pytest.approx(-0.1)


def test_what_is_not_there_takes_no_part() -> None:
    told = summarised([1.0, None, 3.0], [None, 1.0, 2.0])
    assert told["mean"] == 2.0
    assert told["relative"] == {"mean": 0.5, "interval": None}
    assert summarised([None, None]) == {
        "values": [None, None],
        "n": 0,
        "mean": None,
        "standard_deviation": None,
        "interval": None,
        "relative": None,
    }
    assert summarised([1.0])["interval"] is None


def cell(*rows: dict) -> dict:
    evaluate = [row.pop("entry") for row in rows]
    return {"evaluate": evaluate, "results": list(rows), "status": "done"}


def test_measures_of_several_entries_of_one_metric() -> None:
    spec = {
        "evaluate": [{"metric": "bpd", "estimator": "vlb"}, {"metric": "bpd", "estimator": "ode"}, {"metric": "cost"}],
        "slices": {"round": {}},
    }
    slices = {"round": {"value": 1.5}, "own": {"value": 2.0}}
    first = cell(
        {"entry": spec["evaluate"][0], "metric": "bpd", "title": "bits/dim", "better": "lower", "value": 1.0, "slices": slices},
        {"entry": spec["evaluate"][1], "metric": "bpd", "title": "bits/dim", "better": "lower", "value": 0.9},
        {
            "entry": spec["evaluate"][2],
            "metric": "cost",
            "title": "s",
            "better": "lower",
            "value": 0.1,
            "parameters": 7,
            "gate_parameters": 2,
        },
    )
    second = cell({"entry": spec["evaluate"][1], "metric": "bpd", "title": "bits/dim", "better": "lower", "value": 0.8})
    measures = measures_of([{"name": "a", "cells": [first]}, {"name": "b", "cells": [second]}], spec, "a")
    assert {one["key"]: one["by_model"]["a"]["values"] for one in measures} == {
        "bpd": [1.0],
        "bpd/slices/round": [1.5],
        "bpd-2": [0.9],
        "cost": [0.1],
        "cost/parameters": [7],
        "cost/gate_parameters": [2],
    }
    assert measures[0]["by_model"]["b"]["values"] == [None]
    assert measures[2]["by_model"]["b"]["values"] == [0.8]
    assert [one["title"] for one in measures[:3]] == ["bits/dim, vlb", "bits/dim, vlb, round", "bits/dim, ode"]


def test_a_number_that_is_not_finite_leaves_no_mean() -> None:
    told = summarised([1.0, 1.001, float("inf")], [2.0, 2.0, 2.0])
    assert (told["n"], told["mean"], told["interval"], told["relative"]) == (0, None, None, None)
    assert summarised([1.0, 1.0], [2.0, float("nan")])["relative"] is None
    spec = {"evaluate": [{"metric": "bpd"}]}
    diverged = cell({"entry": {"metric": "bpd"}, "metric": "bpd", "value": None})  # as JSON has it
    whole = cell({"entry": {"metric": "bpd"}, "metric": "bpd", "value": 1.0})
    (measure,) = measures_of([{"name": "a", "cells": [whole, diverged]}], spec, "a")
    assert measure["by_model"]["a"]["mean"] is None


def table(**values: list[float | None]) -> dict:
    by_model = {name: summarised(own) for name, own in values.items()}
    models = [
        {"name": name, "route": name if name in ("random", "threshold") else "gate", "trained": name != "threshold"}
        | {"cells": [{"status": "done", "results": []}] * 3}
        for name in values
    ]
    measure = {"key": "bpd", "metric": "bpd", "title": "bits/dim", "by_model": by_model}
    seeds = list(range(len(values["single"])))
    return {"baseline": "single", "seeds": seeds, "models": models, "measures": [measure]}


def test_findings_say_of_every_model_whether_intervals_overlap() -> None:
    told = findings(
        table(
            single=[2.0, 2.001, 2.002],
            threshold=[1.8, 1.8, 1.8],
            soft=[1.9, 1.901, 1.902],
            near=[1.9, 2.0, 2.05],
            random=[2.1, 2.101, 2.102],
        )
    )
    assert told[:4] == [  # the best that was trained, then the others
        "soft (1.9010) is below single (2.0010) in bits/dim; the 95 percent intervals over the seeds do not overlap.",
        "threshold (-0.2010) is below single in bits/dim: the 95 percent intervals over the seeds do not overlap.",
        "random (+0.1000) is above single in bits/dim: the 95 percent intervals over the seeds do not overlap.",
        "near (-0.0177) against single in bits/dim: the 95 percent intervals over the seeds overlap.",
    ]
    assert told[4].startswith("threshold (-0.3010), soft (-0.2000) and single (-0.1000) are below random")


def test_one_seed_gives_no_interval() -> None:
    (told,) = findings(table(single=[2.0], soft=[1.0]))
    assert told == "soft (1.0000) is below single (2.0000) in bits/dim; fewer than two seeds give no interval."


def test_seeds_that_are_not_in_a_mean_are_told() -> None:
    content = table(single=[1.9, 1.91, 1.92], b=[1.0, 1.001, float("inf")], c=[2.9, None, 2.91])
    assert findings(content)[1:] == [
        "b has no finite number in bits/dim of seed 2, and no mean to compare.",
        "c is of seed 0 and 2 only in bits/dim.",
    ]
    assert findings(content)[0].startswith("c (2.9050) is above single")


def test_failed_and_missing_cells_are_told() -> None:
    content = table(single=[2.0])
    content["models"][0]["cells"] = [{"status": "failed"}, {"status": "missing"}, {"status": "done"}]
    assert findings(content) == [
        "1 of 3 cells failed; the same command goes on with them.",
        "1 of 3 cells not done yet; the same command goes on with them.",
    ]


def test_loads_of_gates_over_as_many_experts_are_compared() -> None:
    content = table(single=[2.0], soft=[1.0], free=[1.0], eight=[1.0])
    values = {"single": [0.0], "soft": [0.1, 0.1, 0.11], "free": [0.7, 0.71, 0.7], "eight": [2.0]}
    for model in content["models"]:
        load = dict.fromkeys("abcdefgh" if model["name"] == "eight" else "abcd", 0.0)
        model["cells"] = [{"status": "done", "results": [{"metric": "gating", "load": load}]}]
    content["models"][0]["route"] = "single"
    by_model = {name: summarised(own) for name, own in values.items()}
    content["measures"] = [{"key": "gating", "metric": "gating", "title": "variation of load", "by_model": by_model}]
    assert findings(content) == [
        "Of gates over 4 experts free (variation of load 0.7) uses them least evenly and soft (variation of load 0.1) most; "
        "the 95 percent intervals over the seeds do not overlap."
    ]
