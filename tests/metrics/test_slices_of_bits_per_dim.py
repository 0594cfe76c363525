"""Bits/dim of the spec's slices: means over their members, in runs whole and cut short."""

import json
import math

import pytest
import torch

from snrouter import evaluation, spec
from snrouter.data.slices import Slice
from snrouter.errors import DataError, SpecError

SPEC = """
extends: digits
route: {type: single, expert: likelihood}
interval: {gamma_min: -7.86, gamma_max: 5.0}
evaluate: [{metric: bpd, estimator: vlb, times: 2, images: 40}]
slices:
  round: {classes: [0, 6]}
  plain: {colour_variance: low}
  busy: {colour_variance: high}
"""


@pytest.fixture
def document(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    return spec.load(tmp_path / "spec.yaml")


def test_a_row_tells_each_slice_and_the_slices_make_the_whole(document, tmp_path):
    results = evaluation.run(document, tmp_path / "out", progress=False)
    row = results.rows[0]
    data, train = document.dataset("data"), document.dataset("reference")
    values = {k: v.float() for k, v in _values(tmp_path / "out").items()}["values"]
    for name, told in row["slices"].items():
        members = document.spec.slices[name].members(data, train)[:40]
        assert told["n"] == int(members.sum())
        assert told["value"] == pytest.approx(float(values[members].mean()), rel=1e-6)
        assert told["standard_error"] == pytest.approx(float(values[members].std()) / math.sqrt(told["n"]), rel=1e-5)
    plain, busy = row["slices"]["plain"], row["slices"]["busy"]
    assert plain["n"] + busy["n"] == 40
    assert (plain["value"] * plain["n"] + busy["value"] * busy["n"]) / 40 == pytest.approx(row["value"], rel=1e-6)
    assert abs(plain["value"] - busy["value"]) > 0.1  # the slices are images of another kind


def _values(out):
    from safetensors.torch import load_file

    for path in out.rglob("*.safetensors"):
        tensors = load_file(path)
        if "values" in tensors:
            return tensors
    raise AssertionError("no shard of values")


def test_a_slice_that_a_limit_leaves_no_image_of_is_told_as_empty(document, tmp_path):
    results = evaluation.run(document, tmp_path / "out", limit=1, progress=False)
    told = results.rows[0]["slices"]
    assert {name: part["n"] for name, part in told.items()} == {
        name: int(document.members(name, document.dataset("data"), document.dataset("reference"))[0]) for name in told
    }
    written = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]["slices"]
    empty = [part for part in written.values() if part["n"] == 0]
    assert empty
    assert all(part["value"] is None for part in empty)


def test_other_slices_are_told_of_the_same_shards(document, tmp_path):
    """What was computed stays; what is told of it follows the spec."""
    first = evaluation.run(document, tmp_path / "out", progress=False)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    other = document.with_parts(slices={"sevens": {"classes": [7]}})
    second = evaluation.run(other, tmp_path / "out", progress=False)
    assert list(second.rows[0]["slices"]) == ["sevens"]
    assert second.rows[0]["value"] == first.rows[0]["value"]
    assert second.fingerprint != first.fingerprint
    assert all(path.stat().st_mtime_ns == time for path, time in shards.items())
    bare = evaluation.run(document.with_parts(slices={}), tmp_path / "out", progress=False)
    assert "slices" not in bare.rows[0]


def test_faults_are_told_by_the_place_in_the_spec(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC.replace("[0, 6]", "[12]"))
    document = spec.load(tmp_path / "spec.yaml")
    with pytest.raises(DataError, match=r"spec.yaml:7 slices.round: no image of digits/test has \{'classes': \[12\]\}"):
        document.members("round", document.dataset("data"))
    (tmp_path / "spec.yaml").write_text(SPEC.replace("classes:", "clases:"))
    with pytest.raises(SpecError, match=r"spec.yaml:7 slices.round.clases: unknown key; did you mean 'classes'\?"):
        spec.load(tmp_path / "spec.yaml")
    (tmp_path / "spec.yaml").write_text(SPEC.replace("{classes: [0, 6]}", "[0, 6]"))
    with pytest.raises(
        SpecError, match=r"slices.round: expected a mapping, e.g. slices: \{round: \{classes: \[0, 6\]\}\}; got \[0, 6\]"
    ):
        spec.load(tmp_path / "spec.yaml")
    (tmp_path / "spec.yaml").write_text(SPEC.replace("{classes: [0, 6]}", "{}"))
    with pytest.raises(SpecError, match=r"slices.round: expected at least one of classes, colour_variance"):
        spec.load(tmp_path / "spec.yaml")


def test_a_spec_is_written_with_its_slices(document):
    assert document.dump()["slices"]["round"] == {"classes": [0, 6]}
    again = spec.Document(document.dump(), {})
    assert again.spec.slices["plain"] == Slice(colour_variance="low")
    assert torch.equal(again.members("round", again.dataset("data")), document.members("round", document.dataset("data")))
