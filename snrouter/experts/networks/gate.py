"""A small gate: a convolutional encoder of the noisy state and an embedding of gamma, a two-layer perceptron, a logit an expert."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from snrouter.experts.networks.unet import sinusoids


class GateNetwork(nn.Module):
    """Maps (z [B, C, H, W] in the VP frame, gamma [B]) to logits [B, K]; before training they are all zero.

    Args:
        in_channels: C.
        experts: K.
        channels: of the encoder's convolutions, each of which halves H and W.
        width: of the perceptron's hidden layer.
        dropout: probability before the last layer.
        gamma_min: lower end of the gammas it is trained on.
        gamma_max: upper end.
    """

    def __init__(
        self,
        in_channels: int = 1,
        experts: int = 2,
        channels: Sequence[int] = (16, 32),
        width: int = 64,
        dropout: float = 0.1,
        gamma_min: float = -13.3,
        gamma_max: float = 5.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.gamma_min = gamma_min
        self.gamma_max = gamma_max
        steps = pairwise([in_channels, *channels])
        layers = [layer for i, o in steps for layer in (nn.Conv2d(i, o, 3, stride=2, padding=1), nn.SiLU())]
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.mix = nn.Sequential(nn.Linear(4 * channels[-1] + 32, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, experts))
        nn.init.zeros_(self.mix[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mix[-1].bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Logits [B, K]."""
        level = (gamma - self.gamma_min) / (self.gamma_max - self.gamma_min)
        return self.mix(torch.cat([self.encoder(z), sinusoids(level)], 1))  # type: ignore[no-any-return]
