"""VDM experts: the original's steps and bound from the original's weights, with fixed and learned schedules."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.weights import fill

import snrouter
from snrouter.data.base import from_levels
from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks import build
from snrouter.metrics.likelihood.vlb import variational_bounds
from snrouter.solvers.ancestral import Ancestral

GOLDEN = Path(__file__).parents[1] / "golden" / "vdm.npz"
CONFIG = {
    "type": "vdm_unet",
    "embedding_dim": 16,
    "n_blocks": 2,
    "n_attention_heads": 2,
    "dropout_prob": 0.0,
    "norm_groups": 4,
    "attention_everywhere": True,
}
LINE = [-13.3, 5.0]
LEARNED = {"schedule.b": torch.tensor(-12.875), "schedule.w": torch.tensor(-17.5)}


@pytest.fixture(params=["fixed", "learned"])
def case(request, tmp_path):
    """An expert as it is loaded, and what the original said."""
    checkpoint = tmp_path / "vdm.safetensors"
    card = {"type": "vdm", "network": CONFIG, "expert": {"support": LINE, "clock": LINE}}
    save_checkpoint(checkpoint, fill(build(CONFIG)), card, LEARNED if request.param == "learned" else None)
    with np.load(GOLDEN) as golden:
        said = {key.partition(".")[2]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith(f"{request.param}.")}
    return snrouter.load_expert("vdm", checkpoint), said


class Given:
    """Draws that were written down."""

    def __init__(self, **given: torch.Tensor) -> None:
        self.given = given

    def normal(self, purpose, indices, shape, *, draw=0):
        return self.given[purpose].double()

    uniform = normal


def worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def test_its_noise_is_the_originals(case):
    expert, said = case
    assert worst(expert.eps_hat(said["z"], said["gamma_t"]), said["eps_hat"]) < 1e-5


def test_an_ancestral_step_is_the_originals(case, monkeypatch):
    expert, said = case
    monkeypatch.setattr("snrouter.solvers.fork.Draws", lambda seed: Given(ancestral=torch.zeros(1, 3, 6, 6)))
    steps = zip(said["z"].unsqueeze(1), said["gamma_s"].tolist(), said["gamma_t"].tolist(), strict=True)
    means = [Ancestral(1).solve(expert, z, ends).z for z, *ends in steps]
    assert worst(torch.cat(means), said["mean"]) < 1e-5


def test_the_terms_of_the_bound_are_the_originals(case):
    expert, said = case
    draws = Given(reconstruction=said["first"], vlb_time=said["times"], vlb_noise=said["noise"])
    x = from_levels(said["levels"].long(), 256, torch.float32)
    options = {"levels": 256, "times": 1, "steps": None, "draws": draws, "indices": range(3)}
    terms = variational_bounds({"": expert}, x, expert.support, **options)[""]
    to_bits = 1 / (x[0].numel() * math.log(2))
    prior, reconstruction, diffusion = said["terms"].T
    assert worst(to_bits * terms.diffusion, diffusion) < 1e-5
    torch.testing.assert_close(to_bits * terms.reconstruction, reconstruction, rtol=0, atol=1e-6)
    # the original's prior is N(0, I), ours N(0, sigma_max^2 I)
    variance = snrouter.gamma.sigma(expert.support.gamma_max) ** 2
    of_variance = 0.5 * (variance - math.log(variance) - 1) / math.log(2)
    torch.testing.assert_close(variance * to_bits * terms.prior + of_variance, prior, rtol=0, atol=1e-6)


def saved(path: Path, held: dict, extra: dict | None = None) -> Path:
    config = {"type": "unet", "channels": [4]}
    save_checkpoint(path, build(config), {"network": config, "expert": held}, extra)
    return path


def clock(expert, *gammas: float) -> list[float]:
    return expert.clock(torch.tensor(gammas, dtype=torch.float64)).tolist()


def test_the_clock_is_the_cards_whatever_the_schedule_and_the_support(tmp_path):
    path = tmp_path / "vdm.safetensors"
    learned = snrouter.load_expert("vdm", saved(path, {"support": LINE, "clock": [-12.0, 4.0]}, LEARNED))
    assert tuple(learned.support) == (-12.875, 4.625)
    assert clock(learned, -12.0, 0.0, 4.0) == [0.0, 0.75, 1.0]
    narrow = snrouter.load_expert("vdm", saved(path, {"support": [-12.0, 4.0]}), support=(-10.0, 3.0))
    assert tuple(narrow.support) == (-10.0, 3.0)
    assert clock(narrow, -12.0, 0.0, 4.0) == [0.0, 0.75, 1.0]


def test_a_schedule_that_is_none_and_a_support_beyond_it_are_refused(tmp_path):
    path = tmp_path / "vdm.safetensors"
    with pytest.raises(SpecError, match=r"support \[-13.5, 5\] goes beyond its schedule \[-13.3, 5\]"):
        snrouter.load_expert("vdm", saved(path, {"support": LINE}), support=(-13.5, 5.0))
    for broken in ({"schedule.b": LEARNED["schedule.b"]}, LEARNED | {"schedule.w": torch.zeros(2)}):
        with pytest.raises(CheckpointError, match=r"expected one number in each of schedule\.b and schedule\.w"):
            snrouter.load_expert("vdm", saved(path, {}, broken))
    with pytest.raises(CheckpointError, match=r"expert\.clock: expected 2 numbers .*, got 'linear'"):
        snrouter.load_expert("vdm", saved(path, {"clock": "linear"}))
