"""What a page says of mixtures: utilisation, entropy and load; and no mixture is taken for an expert alone."""

import copy
import math
import re

import pytest
from made_up_runs import Reader, gates, many, of, page, sweep

from snrouter.report import csv_text, gating_plots, headline, markdown
from snrouter.report.gating import gating
from snrouter.report.html import Section
from snrouter.report.plots import expert_colours
from snrouter.report.sections import slices
from snrouter.report.svg import EXPERTS
from snrouter.report.tables import table


def words(section: Section) -> str:
    return Reader(section.html()).words


def test_every_mixture_has_its_utilisation_entropy_and_load():
    results = gates()
    text = words(gating(results, "r0"))
    assert "gate: which expert is weighted where." in text
    assert "top_k: which expert is weighted where." in text
    for row in of(results, "gating"):
        for name, load in row["load"].items():
            assert f"{name} {load:.0%}" in text  # beside the plot
            assert f"{load:.1%}" in text  # in the table
        assert f"{sum(row['entropy']) / len(row['entropy']):.3f}" in text
    assert "variation of load" in text
    assert Reader(gating(results, "r0").html()).tags["svg"] == 3


def test_a_route_of_one_expert_has_nothing_to_show():
    results = gates(("gate", "one"))
    (row,) = (row for row in of(results, "gating") if row["label"] == "one")
    row |= {"load": {"a": 1.0}, "utilisation": {"a": [1.0] * 8}}
    assert "one:" not in words(gating(results, "r0"))
    assert not gating(gates(()) | {"results": of(results, "bpd")}, "r0")
    assert not gating(sweep(), "r0")


def test_eight_experts_have_eight_colours():
    names = tuple("abcdefgh")
    results = gates(("gate",), names)
    assert expert_colours(results) == {name: i for i, name in enumerate(names)}
    drawn = gating_plots.utilisation(of(results, "gating")[0], expert_colours(results), "x")
    assert {f"--expert-{i}" for i in range(8)} <= {*re.findall(r"--expert-\d", drawn)}
    assert len({*EXPERTS}) == 8
    assert "#00001" not in drawn
    more = gates(("gate",), tuple("abcdefghij"))
    assert "j " in Reader(gating_plots.utilisation(of(more, "gating")[0], expert_colours(more), "x")).words


def test_the_stack_has_the_height_of_the_weights():
    row = {"gammas": [0, 1, 2], "utilisation": {"a": [0.25, 1.0], "b": [0.75, 0.0]}, "load": {"a": 0.625, "b": 0.375}}
    seen = Reader(gating_plots.utilisation(row, {}, "x")).words
    assert seen.index("b 38%") < seen.index("a 62%")  # as they are stacked, the last on top
    assert gating_plots.entropy({"gate": {**row, "entropy": [0.0, math.log(2)]}}, "x")
    assert gating_plots.entropy({"gate": row}, "x") is None
    assert gating_plots.entropy({"random": {**row, "entropy": [0.0, 0.0]}}, "x") is None  # a lot is always sure


def test_no_mixture_is_an_expert_alone(tmp_path):
    for results in (gates(), gates(("gate",)), gates(("class",), ("a",))):
        assert not any(row.single for row in table(results))
        text = Reader(page(tmp_path, results)).words
        assert "expert alone" not in text.lower()
        assert not any(f"{row['label']} alone" in text for row in results["results"])


def test_a_mixture_is_compared_with_experts_alone_as_other_routes_are():
    results = gates(("gate",))
    single = {"label": "round", "route": "single", "expert": "round", "value": 1.9}
    alone = [row | single for row in copy.deepcopy(of(results, "bpd"))]
    del alone[0]["experts"]
    of(results, "bpd")[0]["paired"] = {"round": {"difference": -0.1, "standard_error": 0.01}}
    finding = headline(results | {"results": [*results["results"], *alone]})[0]
    assert finding == '"gate" beats round alone in bits/dim.'


def test_every_format_has_the_load():
    text = csv_text(gates())
    assert "gating_load_round" in text.splitlines()[0]
    assert "variation of load" in markdown(gates())


def test_slices_are_told_with_their_sizes():
    results = gates()
    for i, row in enumerate(of(results, "bpd")):
        row["slices"] = {"round": {"value": 1.7 + i / 10, "standard_error": 0.02, "n": 120}}
        row["slices"]["rare"] = {"value": None, "standard_error": None, "n": 0}
    text = words(slices(results))
    assert "round all" in text.replace("rare ", "")
    assert "n 120" in text
    assert "1.700" in text
    assert "1.800" in text
    assert not slices(gates())


def test_the_parameters_of_a_gate_are_told(tmp_path):
    results = many()
    assert "the gate" not in Reader(page(tmp_path, results)).words
    for row in of(results, "cost"):
        row["gate_parameters"] = 1_230_000
    text = Reader(page(tmp_path, results)).words
    assert "the gate" in text
    assert "1.23" in text


@pytest.mark.parametrize("count", [2, 8])
def test_many_routes_are_folded(count):
    section = gating(gates(tuple(f"route{i}" for i in range(count + 2))), "r0").html()
    assert ("Of the other routes" in section) == (count == 8)
