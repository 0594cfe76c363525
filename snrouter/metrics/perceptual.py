"""The `lpips` metric: how different two images look to a network that was trained to see.

    d(x, y) = sum_l mean_hw sum_c w_lc (f_lc(x) - f_lc(y))^2,

with f_l the activations after the l-th of five rectified layers of a backbone, of unit length at every place (h, w), and w >= 0
weights that were fitted to people's judgements. In float32, on an accelerator where there is one. The backbone's weights are
torchvision's own file, given offline; the heads w are those that torchmetrics ships. No file is unpickled.

A scripted network (`network: torchscript`) follows NVIDIA's public VGG16: for images in [0, 255], `return_lpips=True` gives
features whose squared distance is the LPIPS.

Source: Zhang et al. 2018 (arXiv 1801.03924), version 0.1 of the heads; Karras et al. 2019 (arXiv 1812.04948) for the scripted one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.checkpoints import check_fits, check_sha256, read_plain, sha256
from snrouter.experts.originals.torch_files import read_state
from snrouter.metrics.blocks import device, on_cpu
from snrouter.metrics.features.torchscript import TorchScriptFeatures
from snrouter.metrics.likelihood.bits_per_dim import full_float32
from snrouter.metrics.pairs import ImagePairs

BATCH = 16
"""Pairs at a time."""

MEAN, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation of red, green and blue, for pixels in [-1, 1]."""


class Backbone(NamedTuple):
    """What LPIPS needs to know of a backbone.

    Attributes:
        layers: a convolution (channels out, kernel, stride, padding), each followed by a rectifier; or a maximum over
            (kernel, stride).
        taps: indices of the rectifiers that are read, in torchvision's numbering.
        least: the smallest height and width that leave every layer something to look at.
        published: beginnings of the SHA-256 of torchvision's files.
    """

    layers: tuple[tuple[int, ...], ...]
    taps: tuple[int, ...]
    least: int
    published: tuple[str, ...]


BACKBONES = {
    "alex": Backbone(
        ((64, 11, 4, 2), (3, 2), (192, 5, 1, 2), (3, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)),
        taps=(1, 4, 7, 9, 11),
        least=31,
        published=("7be5be79", "4df8aa71"),
    ),
    "vgg": Backbone(
        tuple(
            layer
            for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
            for layer in (*[(channels, 3, 1, 1)] * convolutions, (2, 2))
        )[:-1],
        taps=(3, 8, 15, 22, 29),
        least=16,
        published=("397923af",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class LPIPS(ImagePairs):
    """Learned perceptual distance of two images, the mean over pairs; lower is better.

    Args:
        pairs: "reconstruction", an image of the data with what the flow makes of it, encoded and decoded again; or "same_noise", a
            sample with the one that the route `against` draws from the same noise.
        against: label of that route, e.g. an expert's name in a sweep with `singles: true`.
        images: how many pairs; when left out, all images of the data, or 2000 samples.
        checkpoint: the backbone's weights as torchvision publishes them, `alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`, or the
            same tensors as .safetensors; or a TorchScript file.
        network: "alex", "vgg", or "torchscript", a scripted network that takes float images [n, 3, H, W] in [0, 255] and, by
            `return_lpips=True`, returns features [n, F] whose squared distance is meant.
        sha256: what the checkpoint must hash to; that of a file with torchvision's own name is checked anyway.
    """

    title = "LPIPS"
    better = "lower"

    checkpoint: Path
    network: Literal["alex", "vgg", "torchscript"] = "alex"
    sha256: str | None = None

    def check(self, shape: tuple[int, ...]) -> None:
        """The images must be large enough, the checkpoint the right one, and the network must find distances of such a pair."""
        backbone = BACKBONES.get(self.network)
        channels, *size = shape
        if channels not in (1, 3):
            raise SpecError(f"lpips: expected images of 1 or 3 channels, got {channels}")
        if backbone and min(size) < (least := backbone.least):
            raise SpecError(
                f"network: {self.network} needs images of at least {least}x{least}, got {'x'.join(map(str, size))}; "
                f"vgg takes them from 16x16 on, ssim and psnr smaller ones"
            )
        _try(self._network(), self.checkpoint, shape)

    def variant(self) -> Mapping[str, Any]:
        """The network."""
        return {"network": self.network}

    def described(self, shape: tuple[int, ...]) -> Mapping[str, Any]:
        """Hashes of the backbone and the heads; images keep their size."""
        return {**self._network().digests, "resize": None}

    def compare(self, images: Tensor, others: Tensor, levels: int) -> Tensor:
        """Distances."""
        network = self._network()
        pairs = zip(torch.split(images, BATCH), torch.split(others, BATCH), strict=True)
        return torch.cat([_distances(network, *pair) for pair in pairs])

    def _network(self) -> _Network:
        modified = self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0
        return _read(self.network, self.checkpoint, self.sha256, modified)


class _Network(nn.Module):
    """From two batches of images [n, 3, H, W] in [0, 1] to their distances [n]."""

    digests: Mapping[str, str]
    """Of its files."""


@lru_cache(maxsize=4)
def _read(network: str, checkpoint: Path, expected: str | None, modified: int) -> _Network:
    """The network of a file, which is hashed and read once."""
    backbone = BACKBONES.get(network)
    digest = check_sha256(checkpoint, expected, backbone.published if backbone else ())
    read = _Perceptual(network, checkpoint) if backbone else _Scripted(checkpoint)
    read.digests = {"network_sha256": digest} | ({"heads_sha256": sha256(_heads(network))} if backbone else {})
    return read.eval()


@lru_cache(maxsize=16)
def _try(network: _Network, checkpoint: Path, shape: tuple[int, ...]) -> None:
    """A black image and a white one must have a distance; found once."""
    with on_cpu():
        distance = _distances(network, torch.zeros(1, *shape), torch.ones(1, *shape))
    if not bool(distance.isfinite().all()):
        raise CheckpointError(f"checkpoint {checkpoint}: NaN or infinite distances; are its weights right?")


@torch.no_grad()
def _distances(network: _Network, images: Tensor, others: Tensor) -> Tensor:
    """Of images [n, 1 or 3, H, W] in [0, 1]; float64 on the CPU."""
    with full_float32():
        found: Tensor = network.to(device())(*(part.float().expand(-1, 3, -1, -1).to(device()) for part in (images, others)))
    return found.double().cpu()


class _Perceptual(_Network):
    """LPIPS."""

    mean: Tensor
    spread: Tensor

    def __init__(self, network: str, checkpoint: Path) -> None:
        super().__init__()
        self.taps = BACKBONES[network].taps
        self.layers = _filled(network, checkpoint)
        heads = read_state(_heads(network))
        for i in range(len(self.taps)):
            self.register_buffer(f"head{i}", heads[f"lin{i}.model.1.weight"].clone())
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None])

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Sum over layers of the mean over places of the weighted squared difference."""
        x = (2 * torch.cat([images, others]) - 1 - self.mean) / self.spread
        total = images.new_zeros(len(images))
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taps:
                unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
                one, other = unit.chunk(2)
                weight = self.get_buffer(f"head{self.taps.index(i)}")
                total = total + ((one - other).square() * weight).sum(1).mean((1, 2))
        return total


class _Scripted(_Network):
    """The squared distance of what a scripted network finds."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        scripted = TorchScriptFeatures(checkpoint)
        if "return_lpips" not in scripted.takes:
            raise CheckpointError(f"checkpoint {checkpoint}: its forward does not take return_lpips, as NVIDIA's VGG16 does")
        self.module, self.checkpoint = scripted.module, checkpoint
        self.wanted = {"return_lpips": True} | ({"resize_images": False} if "resize_images" in scripted.takes else {})

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Of one pass over both."""
        try:
            found: Tensor = self.module(255 * torch.cat([images, others]), **self.wanted)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"checkpoint {self.checkpoint}: cannot take images {list(images.shape)} ({reason})") from None
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2 * len(images):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise CheckpointError(f"checkpoint {self.checkpoint}: expected features [{2 * len(images)}, F], got {got}")
        one, other = found.chunk(2)
        return (one - other).square().sum(1)


def layers(network: str) -> nn.Sequential:
    """The layers of "alex" or "vgg", without weights and memory for them."""
    found: list[nn.Module] = []
    channels = 3
    with torch.device("meta"):
        for layer in BACKBONES[network].layers:
            if len(layer) == 2:
                found.append(nn.MaxPool2d(*layer))
            else:
                out, kernel, stride, padding = layer
                found += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU()]
                channels = out
    return nn.Sequential(*found)


def _filled(network: str, checkpoint: Path) -> nn.Sequential:
    """The layers with the weights of torchvision's file, whose classifier is left out."""
    filled = layers(network)
    _, tensors = read_plain(checkpoint, {}, prefix="features.")
    check_fits(checkpoint, filled, tensors)
    filled.to_empty(device="cpu").load_state_dict(tensors)
    return filled


def _heads(network: str) -> Path:
    """The file of heads that torchmetrics ships."""
    found = importlib.util.find_spec("torchmetrics")
    folder = Path(found.origin).parent if found and found.origin else Path("torchmetrics")
    if not (path := folder / "functional" / "image" / "lpips_models" / f"{network}.pth").is_file():
        raise CheckpointError(
            f"{path}: no such file; LPIPS takes its heads from torchmetrics, of which this is another version: try 1.9"
        )
    return path
