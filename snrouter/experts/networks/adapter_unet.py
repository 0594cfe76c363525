"""Several networks in one: a U-Net whose last features h all share, and for each a small adapter and an output layer.

    F_k = leave_k(h + conv(silu(conv(silu(norm(h))))))

The adapter's second convolution is zero before training, and the output layers are copies of one, so that all F_k begin equal.

Source: the residual adapters of Houlsby et al. 2019 (arXiv 1902.00751), with convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from snrouter.errors import SpecError
from snrouter.experts.networks.unet import UNet, group_norm, zeroed


class AdapterUNet(nn.Module):
    """Maps (z [B, C, H, W], noise_level [B], condition [B] or None) to what every head says, [B, K, C, H, W].

    Args:
        heads: K.
        adapter: width of the adapters' hidden layer.
        in_channels: C.
        channels: of the shared U-Net, as the arguments that follow.
        blocks: residual blocks a level.
        fourier: frequencies of extra input channels.
        noise_scale: factor of the noise level.
        classes: number of class labels.
        dropout: probability inside residual blocks.

    Raises:
        SpecError: without a head, or for an adapter without width.
    """

    def __init__(
        self,
        heads: int = 2,
        adapter: int = 16,
        in_channels: int = 1,
        channels: Sequence[int] = (24, 48),
        blocks: int = 1,
        fourier: Sequence[float] = (),
        noise_scale: float = 1.0,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or adapter < 1:
            raise SpecError(f"heads, adapter: expected at least 1 each, got {heads}, {adapter}")
        self.in_channels = in_channels
        self.classes = classes
        self.trunk = UNet(in_channels, channels, blocks, fourier, noise_scale, classes, dropout)
        leave, self.trunk.leave = self.trunk.leave, nn.Identity()  # type: ignore[assignment]
        self.heads = nn.ModuleList(_Head(channels[0], adapter, copy.deepcopy(leave)) for _ in range(heads))

    def forward(self, z: Tensor, noise_level: Tensor, condition: Tensor | None = None) -> Tensor:
        """One evaluation of the trunk, and one of every head."""
        features = self.trunk(z, noise_level, condition)
        return torch.stack([head(features) for head in self.heads], 1)

    def head(self, number: int) -> Joined:
        """The network of one head, 0 ... K - 1, which maps as a U-Net does; it shares this one's modules."""
        return Joined(self.trunk, self.heads[number], self.classes)


class Joined(nn.Module):
    """A network that ends in one of several heads: `head(trunk(z, noise_level, condition))`.

    Args:
        trunk: what heads share.
        head: maps what the trunk gives to the output.
        classes: number of class labels that the trunk takes.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, classes: int = 0) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.classes = classes

    def forward(self, z: Tensor, noise_level: Tensor, condition: Tensor | None = None) -> Tensor:
        """One evaluation."""
        return self.head(self.trunk(z, noise_level, condition))  # type: ignore[no-any-return]


def one_head(network: nn.Module, number: int | None, where: str) -> nn.Module:
    """The network of one head, or the network itself where it has none.

    Args:
        network: any.
        number: of the head.
        where: what errors begin with.

    Raises:
        SpecError: for a head that is not there, or none of several.
    """
    count = len(network.heads) if isinstance(network, AdapterUNet) else 0
    if number is None and not count:
        return network
    if not count:
        raise SpecError(f"{where}: its network has no heads, got head: {number}; leave it out")
    if number is None or not 0 <= number < count:
        raise SpecError(f"{where}: its network has {count} heads, got head: {number}; expected one from 0 to {count - 1}")
    assert isinstance(network, AdapterUNet)
    return network.head(number)


class _Head(nn.Module):
    def __init__(self, channels: int, width: int, leave: nn.Module) -> None:
        super().__init__()
        inside = nn.Conv2d(channels, width, 3, padding=1)
        outside = zeroed(nn.Conv2d(width, channels, 3, padding=1))
        nn.init.zeros_(outside.bias)  # type: ignore[arg-type] # one with a bias
        self.adapter = nn.Sequential(group_norm(channels), nn.SiLU(), inside, nn.SiLU(), outside)
        self.leave = leave

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(features + self.adapter(features))  # type: ignore[no-any-return]
