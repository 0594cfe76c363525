"""Likelihoods keep TF32 out, and put the setting back."""

from __future__ import annotations

import torch

import snrouter


def test_likelihoods_run_without_tf32_and_restore_it(oracles):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, z, level, condition):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return z

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        estimate = snrouter.bits_per_dim(snrouter.wrap(Network()), oracles.images(2), (-12.0, 4.0), "vlb", times=1)
        assert torch.backends.cudnn.allow_tf32 is True
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
    assert seen == [(False, False)]
    assert estimate.protocol["tf32"] is False
