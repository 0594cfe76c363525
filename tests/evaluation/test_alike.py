"""The same numbers from one process and from many, and for any batch size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CLASSIFIER, digits, made, values

from snrouter import evaluation, spec
from snrouter.errors import NonFiniteError
from snrouter.experts.checkpoints import save_checkpoint

N = 101
FEATURES = f"samples: {N}, checkpoint: {CLASSIFIER}"
MEASURED = (
    f"evaluate=[{{metric: bpd, estimator: ode, images: {N}, solver: {{method: midpoint, steps: 2}}}}, "
    f"{{metric: bpd, estimator: vlb, images: {N}, times: 2}}, {{metric: fid, {FEATURES}}}, "
    f"{{metric: inception_score, {FEATURES}}}, {{metric: kid, {FEATURES}}}]"
)


def measured(*overrides: str) -> spec.Document:
    """A hundred and one images and samples of two routes, in shards of which the last is short."""
    return digits(MEASURED, "batch_size=16", "sweep.singles=false", *overrides)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> evaluation.Results:
    """The sweep by one process."""
    return evaluation.sweep(measured(), tmp_path_factory.mktemp("one"), progress=False)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_give_the_bits_of_one(processes: int, one: evaluation.Results, tmp_path: Path) -> None:
    many = evaluation.sweep(measured(), tmp_path, launch=evaluation.Launch(processes), progress=False)
    shards = sorted((one.folder / "shards").rglob("*.safetensors"))
    assert (
        len(shards) == 2 * 5 * 7
    )  # of both routes: two of measurements, samples, and what the classifier finds in them: features and logits
    for shard in shards:
        left, right = load_file(shard), load_file(many.folder / shard.relative_to(one.folder))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left if name not in ("seconds", "spent", "after"))
    assert many.fingerprint == one.fingerprint
    told, most = many.extras["network_calls"], one.extras["network_calls"]
    assert many.extras | {"network_calls": most} == one.extras
    assert all(most[what]["spent"] <= calls["spent"] <= calls["alone"] == most[what]["alone"] for what, calls in told.items())
    for mine, theirs in zip(one.rows, many.rows, strict=True):
        assert theirs["value"] == pytest.approx(mine["value"], rel=1e-6)
        assert theirs["standard_error"] == pytest.approx(mine["standard_error"], rel=1e-6, nan_ok=True)


def test_two_runs_are_identical_bit_for_bit(tmp_path: Path) -> None:
    first, second = (evaluation.run(digits(), tmp_path / name, progress=False) for name in "ab")
    assert values(first) == values(second)
    assert first.fingerprint == second.fingerprint


def test_more_processes_than_images(tmp_path: Path) -> None:
    document = digits("evaluate=[{metric: bpd, estimator: vlb, times: 2, images: 2}]", "batch_size=1")
    one = evaluation.run(document, tmp_path / "a", progress=False)
    three = evaluation.run(document, tmp_path / "b", launch=evaluation.Launch(3), progress=False)
    assert values(one) == values(three)
    assert {row["n"] for row in three.rows} == {2}


GAUSSIANS = (
    "experts.quality={type: gaussian, mean: [-0.3], standard_deviation: [0.6], shape: [1, 8, 8]}",
    "experts.likelihood={type: gaussian, mean: [-0.4], standard_deviation: [0.4], shape: [1, 8, 8]}",
    "precision=float64",
)


@pytest.mark.parametrize(
    ("solver", "experts", "tolerance"),
    [
        pytest.param("{method: midpoint, steps: 2}", (), 2e-5, id="fixed steps agree to rounding"),
        pytest.param("{rtol: 1.0e-3, atol: 1.0e-3}", GAUSSIANS, 1e-3, id="adaptive ones to their tolerance"),
    ],
)
def test_batch_size(tmp_path: Path, solver: str, experts: tuple[str, ...], tolerance: float) -> None:
    text = f"evaluate=[{{metric: bpd, estimator: ode, images: 66, solver: {solver}}}, {{metric: nearest_neighbour, samples: 66}}]"
    drawn = f"solver={{type: ode, {solver[1:]}"
    documents = [digits(text, drawn, "final=none", *experts, f"batch_size={size}") for size in (5, 64)]
    runs = [evaluation.run(document, tmp_path, progress=False) for document in documents]
    assert runs[0].fingerprint != runs[1].fingerprint
    images, likelihoods = (
        [made(document, tmp_path, kind)[name] for document in documents]
        for kind, name in (("samples", "images"), ("measure", "values"))
    )
    assert not torch.equal(*images)  # they were made anew
    assert float((images[0] - images[1]).flatten(1).square().mean(1).sqrt().max()) < tolerance
    assert float((likelihoods[0] - likelihoods[1]).abs().max()) < tolerance


def test_an_error_keeps_its_type_across_processes(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    expert = digits().expert("quality")
    with torch.no_grad():
        next(expert.parameters()).fill_(torch.nan)
    card = {
        "network": {"type": "unet", "channels": [16, 48], "dropout": 0.1},
        "expert": {"support": [-7.86, 5.0], "data_scale": 1.0},
    }
    save_checkpoint(path, expert.network, card)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/shards").write_text("no folder, as if the disk were full: an error needs none to travel")
    with pytest.raises(NonFiniteError, match="expert 'quality' returned NaN"):
        evaluation.run(digits(f"experts.quality.checkpoint={path}"), tmp_path / "out", launch=evaluation.Launch(2), progress=False)
