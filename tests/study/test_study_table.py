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


def table(**values: list[float]) -> dict:
    by_model = {name: summarised(own) for name, own in values.items()}
    models = [
        {"name": name, "route": "random" if name == "random" else "gate", "cells": [{"status": "done"}] * 3} for name in values
    ]
    measure = {"key": "bpd", "metric": "bpd", "title": "bits/dim", "by_model": by_model}
    return {"baseline": "single", "models": models, "measures": [measure]}


def test_findings_say_whether_intervals_overlap() -> None:
    told = findings(table(single=[2.0, 2.001, 2.002], soft=[1.9, 1.901, 1.902], near=[1.9, 2.0, 2.05], random=[2.1, 2.101, 2.102]))
    assert told[0] == "soft (-0.1000) is below single in bits/dim; the 95 percent intervals over the seeds do not overlap."
    assert told[1] == "random (+0.1000) is above single in bits/dim; the 95 percent intervals over the seeds do not overlap."
    assert told[2].startswith("The 95 percent intervals do not tell near")
    assert told[2].endswith("from single in bits/dim.")
    assert told[3].startswith("soft (-0.2000) and single (-0.1000) are below random")


def test_one_seed_tells_nothing_apart() -> None:
    (told,) = findings(table(single=[2.0], soft=[1.0]))
    assert told == "The 95 percent intervals do not tell soft (-1.0000) from single in bits/dim."


def test_failed_and_missing_cells_are_told() -> None:
    content = table(single=[2.0])
    content["models"][0]["cells"] = [{"status": "failed"}, {"status": "missing"}, {"status": "done"}]
    assert findings(content) == [
        "1 of 3 cells failed; the same command goes on with them.",
        "1 of 3 cells not done yet; the same command goes on with them.",
    ]


def test_loads_of_gates_are_told_evenest_first() -> None:
    content = table(single=[2.0], soft=[1.0], free=[1.0])
    by_model = {"single": summarised([0.0]), "soft": summarised([0.1]), "free": summarised([0.7])}
    content["models"][0]["route"] = "single"
    content["measures"] = [{"key": "gating", "metric": "gating", "title": "variation of load", "by_model": by_model}]
    assert findings(content)[-1].endswith("their load: soft 0.1 and free 0.7.")
