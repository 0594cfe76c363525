"""Trace: what a route takes the image to be on its way, watched without a change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import digits, made, values

import snrouter
from snrouter import evaluation
from snrouter.errors import SpecError
from snrouter.evaluation.trace import Trace, Traced
from snrouter.gamma import interval

FEW = "evaluate=[{metric: nearest_neighbour, samples: 4}]"


def test_a_trace_changes_no_result(tmp_path: Path) -> None:
    plain = evaluation.run(digits(FEW), tmp_path / "a", progress=False)
    traced = evaluation.run(digits(FEW), tmp_path / "b", trace=True, progress=False)
    assert values(traced) == values(plain)
    assert traced.fingerprint == plain.fingerprint
    assert not (tmp_path / "a" / "trace.safetensors").exists()
    assert torch.equal(
        made(digits(FEW), tmp_path / "a", "samples")["images"], made(digits(FEW), tmp_path / "b", "samples")["images"]
    )
    evaluation.run(digits(FEW), tmp_path / "b", progress=False)
    assert not (tmp_path / "b" / "trace.safetensors").exists()  # an older run's would stand beside new numbers


@pytest.mark.parametrize("solver", ["{type: ancestral, steps: 20}", "{type: ode, rtol: 1.0e-4, atol: 1.0e-4}"])
def test_every_route_is_followed_from_noise_to_data(tmp_path: Path, solver: str) -> None:
    document = digits(FEW, f"solver={solver}", "final=denoise", "batch_size=4", "sweep.switches=[{eta: 0.5}]")
    results = evaluation.sweep(document, tmp_path, trace=True, progress=False)
    written = load_file(tmp_path / "trace.safetensors")
    labels = ["eta=0.5", "likelihood", "quality"]
    assert set(written) == {*labels, *(f"{label}/gamma" for label in labels)}
    even = torch.linspace(5.0, -7.86, 8, dtype=torch.float64)
    for label in labels:
        images, gamma = written[label], written[f"{label}/gamma"]
        assert images.shape == (8, 4, 1, 8, 8)
        assert bool((gamma.diff() < 0).all())
        assert float((gamma - even).abs().max()) < 1.0
        assert torch.equal(images[-1], results.samples[label])  # `denoise` ends with what the expert says at gamma_min
        error = (images - images[-1]).flatten(1).norm(dim=1)
        assert bool((error[1:].diff() < 0).all())
    assert not torch.equal(written["eta=0.5"][-1], written["quality"][-1])
    assert torch.equal(written["eta=0.5"][0], written["quality"][0])  # the same noise, and the same expert up there


def test_predictions_between_steps_are_kept_the_nearest_and_of_equals_the_last() -> None:
    trace = Trace(interval((-7.0, 0.0)))  # positions 0, -1, ... -7
    seen = {}

    def see(*gammas: float) -> None:
        for gamma in gammas:
            seen[len(seen)] = gamma
            trace.see(gamma, torch.full((2, 3), len(seen) - 1.0))

    see(0.0, -3.0, -6.0)  # a step that is not accepted
    trace.step(0.0)
    see(-0.5, -1.0, -1.0)  # a stage, and the end twice, the second time from the better state
    trace.step(1 / 7)
    see(-5.0, -6.0)
    trace.step(6 / 7)
    see(-6.0)
    rows = trace.rows()
    assert rows["images"].shape == (2, 8, 3)
    assert rows["images"][0, :, 0].tolist() == [0, 5, 5, 5, 8, 8, 8, 8]
    assert rows["gamma"][1].tolist() == [0.0, -1.0, -1.0, -1.0, -6.0, -6.0, -6.0, -6.0]


@pytest.mark.parametrize("method", ["rk4", "heun2"])
def test_in_float32_too_what_is_kept_is_of_states_on_the_way(oracles, method: str) -> None:  # type: ignore[no-untyped-def]
    """The last stage of a step and the first of the next are at one gamma; that of the step is not of a state on the way."""
    bounds, kept = interval((-6.3, 3.1)), {}
    for dtype in (torch.float32, torch.float64):
        trace = Trace(bounds)
        expert, solver = Traced(oracles.gaussian(), trace), snrouter.ODE(method, steps=7)
        snrouter.sample(expert, 4, (6,), bounds, solver, final="none", dtype=dtype, progress=trace.step)
        kept[dtype] = trace.rows()
    single, double = kept.values()
    assert torch.equal(single["gamma"], double["gamma"])
    assert float((single["images"][:, :-1] - double["images"][:, :-1]).abs().max()) < 1e-5


def test_what_cannot_be_drawn_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="sampling needs the shape of an image"):
        evaluation.run(digits("data=null", "reference=null", "evaluate=[{metric: cost}]"), tmp_path, trace=True, progress=False)
