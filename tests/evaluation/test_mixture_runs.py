"""Runs of mixtures: labels, columns and cost, one reading of a gate's checkpoint, precisions, offload, explain and validate."""

from pathlib import Path

import pytest
import torch
from small_runs import digits, made, values
from typer.testing import CliRunner

from snrouter import evaluation, spec
from snrouter.checks import validate
from snrouter.cli import app
from snrouter.errors import SpecError
from snrouter.evaluation import Worker, own_route
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks.gate import GateNetwork
from snrouter.experts.networks.unet import UNet
from snrouter.explain import explain
from snrouter.router import gate as gates

BPD = "evaluate=[{metric: bpd, estimator: vlb, times: 2, images: 10}]"
EXPERTS = ["quality", "likelihood"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A gate of random weights over the two networks of the digits."""
    torch.manual_seed(0)
    network = GateNetwork(experts=2, channels=[4], width=8)
    torch.nn.init.normal_(network.mix[-1].weight)
    path = tmp_path / "gate.safetensors"
    arguments = {"type": "gate", "experts": 2, "channels": [4], "width": 8}
    save_checkpoint(path, network, {"network": arguments, "gate": {"experts": EXPERTS}})
    return path


def routed(route: str, *overrides: str) -> spec.Document:
    return digits(f"route={{{route}}}", BPD, *overrides)


def run(document: spec.Document, out: Path, **options) -> evaluation.Results:
    results = evaluation.run(document, out, progress=False, **options)
    assert results is not None
    return results


@pytest.mark.parametrize(
    ("route", "experts"),
    [
        ("type: fixed, shares: {quality: 0.25, likelihood: 0.75}", EXPERTS),
        ("type: fixed, shares: {quality: 1.0}", ["quality"]),
        ("type: random", [*EXPERTS, "discrete"]),
        ("type: random, among: [quality, likelihood]", EXPERTS),
        ("type: gate, checkpoint: GATE", EXPERTS),
        ("type: top_k, checkpoint: GATE, k: 1", EXPERTS),
        ("type: gate, checkpoint: GATE, top_k: 1", EXPERTS),
        ("type: class, labels: {quality: [0, 1, 2, 3, 4], likelihood: [5, 6, 7, 8, 9]}", EXPERTS),
    ],
)
def test_a_row_of_a_mixture_is_called_by_its_policy_and_lists_its_experts(route, experts, checkpoint, tmp_path):
    labels = ["condition=labels"] if "class" in route else []
    document = routed(route.replace("GATE", str(checkpoint)), *labels)
    (row,) = run(document, tmp_path / "out").rows
    few = document.spec.route.arguments.get("k", document.spec.route.arguments.get("top_k"))
    assert row["route"] == document.spec.route.name
    assert row["label"] == row["route"] + (f", k={few}" if few else "")
    assert row.get("top_k") == few
    assert row["experts"] == experts
    assert not {"expert", "eta", "gamma_switch"} & row.keys()
    assert set(row["nfe_per_expert"]) <= set(experts)
    spent = {"fixed": len(experts), "gate": 2}.get(row["route"], 1) * 2 if "top_k: 1" not in route else 2
    if "random" not in route:  # a closed form spends none
        assert row["nfe"] == spent


def test_the_other_routes_are_called_as_before():
    assert own_route(digits("route={type: single, expert: quality}")).columns == {"route": "single", "expert": "quality"}
    assert own_route(digits()).label == "eta=0.2"


def test_lots_are_of_the_spec_seed_unless_given(tmp_path):
    seeds = {
        (spec_seed, given): routed(f"type: random{given}", f"seed={spec_seed}").policy().seed
        for spec_seed in (0, 3)
        for given in ("", ", seed: 7")
    }
    assert seeds == {(0, ""): 0, (3, ""): 3, (0, ", seed: 7"): 7, (3, ", seed: 7"): 7}
    with pytest.raises(SpecError, match="run_seed"):
        routed("type: random, run_seed: 1").check()


def test_lots_do_not_depend_on_the_shards(tmp_path):
    parts = []
    for size in (5, 3):
        document = routed("type: random, among: [quality, likelihood]", f"batch_size={size}")
        run(document, tmp_path / str(size))
        parts.append(made(document, tmp_path / str(size), "measure"))
    first, second = parts
    torch.testing.assert_close(first["values"], second["values"], rtol=1e-5, atol=1e-5)
    for name in EXPERTS:
        calls = float(first[f"nfe/{name}"].sum())
        assert 0 < calls < 20
        assert float(second[f"nfe/{name}"].sum()) == pytest.approx(calls)


def test_a_gate_is_read_once_a_document(checkpoint, tmp_path, monkeypatch):
    reads: list[Path] = []
    load = gates.load_network
    monkeypatch.setattr(gates, "load_network", lambda path: reads.append(path) or load(path))
    run(routed(f"type: gate, checkpoint: {checkpoint}"), tmp_path / "out")  # two shards
    assert len(reads) == 1


def test_another_process_reads_its_own_gate(checkpoint):
    import pickle

    document = routed(f"type: gate, checkpoint: {checkpoint}")
    policy = document.policy()
    assert document.policy() is policy
    copy = pickle.loads(pickle.dumps(document))
    assert copy.policy() is not policy
    assert repr(copy.policy()) == repr(policy)


def test_the_gate_is_on_the_device_and_of_the_precision_of_the_route(checkpoint):
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32), ("bfloat16", torch.float32)):
        route = own_route(routed(f"type: gate, checkpoint: {checkpoint}", f"precision={precision}"))
        expert = Worker([route]).expert(route)
        assert {parameter.dtype for parameter in expert.gate.parameters()} == {dtype}
        moved = Worker([route]).expert(route, "meta")
        assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}


def test_precisions_agree(checkpoint, tmp_path):
    numbers = {}
    for precision in ("float64", "float32", "bfloat16"):
        document = routed(f"type: top_k, checkpoint: {checkpoint}, k: 1", f"precision={precision}")
        numbers[precision] = run(document, tmp_path / precision).rows[0]["value"]
    assert numbers["float32"] == numbers["bfloat16"]  # likelihoods keep float32
    assert numbers["float64"] == pytest.approx(numbers["float32"], rel=1e-3)


def test_samples_in_bfloat16_are_near_those_in_float32(checkpoint, tmp_path):
    drawn = []
    for precision in ("float32", "bfloat16"):
        document = routed(f"type: gate, checkpoint: {checkpoint}", f"precision={precision}", "final=none")
        drawn.append(evaluation.draw(document, 4, tmp_path / precision, progress=False))
    first, second = drawn
    assert not torch.equal(first, second)
    assert float((first - second).abs().mean()) < 0.05 * float(first.abs().mean())


def test_offload_draws_the_same(checkpoint, tmp_path):
    route = f"type: gate, checkpoint: {checkpoint}"
    kept, moved = (run(routed(route, f"residency={how}"), tmp_path / how) for how in ("keep", "offload"))
    assert values(kept) == values(moved)


def test_gradients_through_experts_that_take_turns_are_refused():
    route = own_route(routed("type: fixed, shares: {quality: 0.5, likelihood: 0.5}", "residency=offload"))
    expert = Worker([route]).expert(route, "meta")
    z = torch.zeros(2, 1, 8, 8, device="meta").requires_grad_()
    with pytest.raises(SpecError, match=r"needs quality, likelihood on the meta device at once.*residency: keep"):
        expert(z, 0.0)


def test_cost_names_the_gates_own_share(checkpoint, tmp_path):
    cost = "evaluate=[{metric: cost, batch: 2, repetitions: 2, warmup: 1}]"
    (row,) = run(digits(f"route={{type: gate, checkpoint: {checkpoint}}}", cost), tmp_path / "gate").rows
    own = sum(parameter.numel() for parameter in GateNetwork(experts=2, channels=[4], width=8).parameters())
    assert row["gate_parameters"] == own
    assert row["parameters"] == own + sum(row["parameters_per_expert"].values())
    assert set(row["parameters_per_expert"]) == set(EXPERTS)
    (row,) = run(digits(cost), tmp_path / "threshold").rows
    assert "gate_parameters" not in row


def test_explain_and_validate_tell_of_a_mixture(checkpoint):
    route = f"type: top_k, checkpoint: {checkpoint}, k: 1"
    (piece,) = explain(routed(route))["pieces"]
    assert (piece["expert"], piece["weights"]) == ("quality, likelihood", "mixture")
    assert [piece["weights"] for piece in explain(digits())["pieces"]] == ["one expert"] * 2
    told = CliRunner().invoke(app, ["explain", "digits", "--set", f"route={{{route}}}"], env={"COLUMNS": "160"})
    assert "quality, likelihood (mixture)" in told.output
    assert all(check.ok for check in validate(routed(route)))
    by_class = "type: class, labels: {quality: [0, 1, 2, 3, 4], likelihood: [5, 6, 7, 8, 9]}"
    assert all(check.ok for check in validate(routed(by_class, "condition=labels")))
    with pytest.raises(SpecError, match="a route by class needs a label an image"):
        list(validate(routed(by_class)))


def test_validate_asks_every_expert_of_a_mixture(checkpoint, tmp_path):
    """A class that no image of the check has would hide an expert that cannot take the images."""
    route = "type: class, labels: {quality: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], wrong: [10]}"
    save_checkpoint(
        tmp_path / "wrong.safetensors",
        UNet(in_channels=3, channels=[4]),
        {"type": "vdm", "network": {"type": "unet", "in_channels": 3, "channels": [4]}, "expert": {"support": [-7.86, 5.0]}},
    )
    wrong = f"experts.wrong={{type: vdm, checkpoint: {tmp_path / 'wrong.safetensors'}}}"
    with pytest.raises(SpecError, match=r"expert 'wrong' cannot take images of shape \[1, 8, 8\]"):
        list(validate(routed(route, "condition=labels", wrong)))
