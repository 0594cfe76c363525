"""A small U-Net for small images: residual blocks with scale-shift conditioning, attention at the coarsest level.

Sources: DDPM arXiv 2006.11239 (the shape), VDM arXiv 2107.00630 appendix C (Fourier features of the input).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from snrouter.errors import SpecError


class UNet(nn.Module):
    """Maps (z [B, C, H, W], noise_level [B], condition [B] or None) to [B, C, H, W].

    Args:
        in_channels: C.
        channels: width at each level, finest first; each level after the first halves H and W.
        blocks: residual blocks a level on the way down, and on the way up; the coarsest has one more in the middle.
        fourier: frequencies f, in units of pi, of extra input channels sin(pi f z) and cos(pi f z).
        noise_scale: the noise level is multiplied by this before its sinusoidal embedding (frequencies 1 to 100).
        classes: number of class labels; 0 builds an unconditional network.
        dropout: probability inside residual blocks.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (24, 48),
        blocks: int = 1,
        fourier: Sequence[float] = (),
        noise_scale: float = 1.0,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.fourier = tuple(fourier)
        self.noise_scale = noise_scale
        self.classes = classes
        width = 2 * channels[0]
        self.embed = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes, width) if classes else None
        self.enter = nn.Conv2d(in_channels * (1 + 2 * len(self.fourier)), channels[0], 3, padding=1)

        wider = list(pairwise(channels))
        self.finest = _Level(channels[0], channels[0], width, dropout, blocks, attention=not wider)
        self.down = nn.ModuleList(
            _Level(fine, coarse, width, dropout, blocks, attention=depth == len(wider))
            for depth, (fine, coarse) in enumerate(wider, 1)
        )
        self.middle = _Block(channels[-1], channels[-1], width, dropout, attention=True)
        self.up = nn.ModuleList(
            _Level(coarse + fine, fine, width, dropout, blocks, attention=False) for fine, coarse in reversed(wider)
        )
        self.leave = nn.Sequential(group_norm(channels[0]), nn.SiLU(), zeroed(nn.Conv2d(channels[0], in_channels, 3, padding=1)))

    def forward(self, z: Tensor, noise_level: Tensor, condition: Tensor | None = None) -> Tensor:
        """One evaluation.

        Raises:
            SpecError: for a condition it cannot take, or an image that cannot be halved once a level.
        """
        stride = 2 ** len(self.down)
        if z.shape[2] % stride or z.shape[3] % stride:
            raise SpecError(
                f"this U-Net halves images {len(self.down)} times, got {list(z.shape[2:])}; "
                f"expected sides divisible by {stride}: pad or crop them, or give fewer channels"
            )
        embedding = self.embed(sinusoids(noise_level * self.noise_scale))
        if self.label is not None and condition is not None:
            embedding = embedding + self.label(condition)
        elif condition is not None:
            raise SpecError("this U-Net takes no condition; build it with classes > 0")
        embedding = functional.silu(embedding)
        features = [z]
        for frequency in self.fourier:
            features += [(math.pi * frequency * z).sin(), (math.pi * frequency * z).cos()]
        h = self.finest(self.enter(torch.cat(features, 1)), embedding)
        skips = []
        for level in self.down:
            skips.append(h)
            h = level(functional.avg_pool2d(h, 2), embedding)
        h = self.middle(h, embedding)
        for level in self.up:
            h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            h = level(torch.cat([h, skips.pop()], 1), embedding)
        return self.leave(h)  # type: ignore[no-any-return]


class _Level(nn.Module):
    def __init__(self, inside: int, out: int, embedding: int, dropout: float, blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [inside, *(out for _ in range(blocks))]
        self.blocks = nn.ModuleList(_Block(i, o, embedding, dropout, attention) for i, o in pairwise(widths))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, embedding)
        return h


class _Block(nn.Module):
    def __init__(self, inside: int, out: int, embedding: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(group_norm(inside), nn.SiLU(), nn.Conv2d(inside, out, 3, padding=1))
        self.modulate = nn.Linear(embedding, 2 * out)
        self.norm = group_norm(out)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(nn.Conv2d(out, out, 3, padding=1)))
        self.skip = nn.Conv2d(inside, out, 1) if inside != out else nn.Identity()
        self.attention = _Attention(out) if attention else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, 1)
        inner = torch.addcmul(shift, self.norm(self.first(h)), 1 + scale)
        return self.attention(self.skip(h) + self.second(inner))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(h)).flatten(2).transpose(1, 2).chunk(3, 2)
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[2])).softmax(2)
        return h + self.out((weights @ v).transpose(1, 2).reshape(h.shape))  # type: ignore[no-any-return]


def group_norm(channels: int) -> nn.GroupNorm:
    """Over at most eight groups of channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution whose kernel is zero before training."""
    nn.init.zeros_(conv.weight)
    return conv


def sinusoids(level: Tensor) -> Tensor:
    """Sines and cosines of levels [B] at 16 frequencies from 1 to 100, [B, 32]."""
    frequencies = torch.logspace(0, 2, 16, dtype=level.dtype, device=level.device)
    angles = level[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)
