"""Likelihoods keep TF32 and autocast out, and put the setting back."""

from __future__ import annotations

import torch

import snrouter
from snrouter.data.base import from_levels
from snrouter.spec import load

NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")  # PyTorch 2.9 on


def flags():
    if NEW:
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_likelihoods_run_without_tf32_and_restore_it(oracles):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, level, condition):
            seen.append(flags())
            return z

    before = flags()
    estimate = snrouter.bits_per_dim(snrouter.wrap(Network()), oracles.images(2), (-12.0, 4.0), "vlb", times=1)
    assert seen == [("ieee", "ieee") if NEW else (False, False)]
    assert flags() == before != seen[0]
    assert estimate.protocol["tf32"] is False


def test_either_way_of_allowing_tf32_survives_a_likelihood(oracles):
    """PyTorch refuses to read the one after the other was set; neither may be left half set."""
    expert, images = oracles.Linear(), oracles.images(2)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        snrouter.bits_per_dim(expert, images, (-12.0, 4.0), "vlb", times=1)
        assert torch.backends.cuda.matmul.allow_tf32 is True
        assert isinstance(torch.backends.cudnn.allow_tf32, bool)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_likelihoods_leave_autocast():
    expert = load("digits").expert("likelihood")
    images = from_levels(torch.arange(128).reshape(2, 1, 8, 8) % 17, 17, torch.float32)
    settings = {"interval": (-7.86, 5.0), "estimator": "vlb", "levels": 17, "times": 2, "seed": 0}
    plain = snrouter.bits_per_dim(expert, images, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        cast = snrouter.bits_per_dim(expert, images, **settings)
    assert torch.equal(plain.values, cast.values)
