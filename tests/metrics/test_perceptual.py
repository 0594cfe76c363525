"""LPIPS without torchvision: torchmetrics' own values on random backbones; what it refuses; a scripted network."""

import hashlib
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.weights import fill
from safetensors.torch import save_file
from torch import Tensor, nn

from snrouter.data.base import ImageData, from_levels
from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.checkpoints import check_sha256
from snrouter.gamma import GammaInterval
from snrouter.metrics import perceptual
from snrouter.metrics.base import Context
from snrouter.metrics.perceptual import BACKBONES, BATCH, LPIPS, layers
from snrouter.solvers.ode import ODE
from snrouter.testing import MetricContract

GOLDEN = Path(__file__).parents[1] / "golden" / "lpips.npz"


def levels(seed: int, size: int, channels: int = 3, n: int = 3) -> tuple[Tensor, Tensor]:
    """Images of squares, and the same with noise."""
    draw = np.random.RandomState(seed)
    one = np.repeat(np.repeat(draw.randint(0, 256, (n, channels, size // 8, size // 8)), 8, 2), 8, 3)
    other = np.clip(one + draw.randint(-60, 61, one.shape), 0, 255)
    return torch.from_numpy(one), torch.from_numpy(other)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random weights in torchvision's form, with the beginning of a classifier, in the format of before PyTorch 1.6."""
    found = {}
    for network in BACKBONES:
        whole = nn.Module()
        whole.features = layers(network).to_empty(device="cpu")
        whole.classifier = nn.Linear(2, 1)
        found[network] = tmp_path_factory.mktemp("lpips") / f"{network}.pth"
        torch.save(fill(whole).state_dict(), found[network], _use_new_zipfile_serialization=False)
    return found


@pytest.mark.parametrize("network", BACKBONES)
@pytest.mark.parametrize(("size", "channels"), [(64, 3), (32, 3), (32, 1)])
def test_distances_are_torchmetrics_own(checkpoints, network, size, channels):
    with np.load(GOLDEN) as golden:
        wanted = torch.from_numpy(golden[f"{network}-{size}-{channels}"]).double()
    ours, others = levels(size, size, channels)
    metric = LPIPS(checkpoint=checkpoints[network], network=network)
    torch.testing.assert_close(metric.compare(ours / 255, others / 255, 256), wanted, rtol=1e-6, atol=0)
    assert not metric.compare(ours / 255, ours / 255, 256).any()


def test_the_row_is_the_mean_over_pairs_and_says_which_network(checkpoints):
    ours, others = levels(0, 32, n=BATCH + 2)
    metric = LPIPS(checkpoint=checkpoints["alex"])
    context = Context(GammaInterval(-13.3, 5.0), ODE(), ImageData(ours, 256, None, "squares"), None, 0)
    assert metric.count(context) == BATCH + 2
    summary = metric.summarise(context, {"images": from_levels(others, 256), "others": from_levels(ours, 256)})
    one_by_one = torch.cat([metric.compare(ours[i : i + 1] / 255, others[i : i + 1] / 255, 256) for i in range(len(ours))])
    torch.testing.assert_close(summary.influence + summary.value, one_by_one, rtol=1e-4, atol=1e-6)
    assert summary.columns["network"] == "alex"
    assert summary.protocol["network_sha256"] == hashlib.sha256(checkpoints["alex"].read_bytes()).hexdigest()
    assert summary.protocol["heads_sha256"].startswith("df73285e")
    assert (metric.title, metric.better) == ("LPIPS", "lower")


@pytest.mark.parametrize("network", BACKBONES)
def test_the_smallest_image_is_the_smallest_that_every_layer_can_take(checkpoints, network):
    metric, least = LPIPS(checkpoint=checkpoints[network], network=network), BACKBONES[network].least
    metric.check((3, least, least + 5))
    assert metric.compare(torch.zeros(1, 3, least, least), torch.ones(1, 3, least, least), 256) > 0
    with pytest.raises(
        SpecError, match=f"network: {network} needs images of at least {least}x{least}, got {least - 1}x{least + 5}; "
    ):
        metric.check((3, least - 1, least + 5))
    with pytest.raises(RuntimeError, match="too small"):
        metric.compare(torch.zeros(1, 3, least - 1, least + 5), torch.ones(1, 3, least - 1, least + 5), 256)


def test_other_files_and_images_are_refused_in_one_line(checkpoints, tmp_path, monkeypatch):
    with pytest.raises(SpecError, match="expected images of 1 or 3 channels, got 4"):
        LPIPS(checkpoint=checkpoints["alex"]).check((4, 64, 64))
    with pytest.raises(CheckpointError, match=f"expected {'0' * 64}; the file is damaged or another"):
        LPIPS(checkpoint=checkpoints["alex"], sha256="0" * 64).check((3, 64, 64))
    (named := tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(checkpoints["alex"].read_bytes())
    with pytest.raises(CheckpointError, match=r"its SHA-256 is .*, expected 7be5be79\.\.\.; "):
        LPIPS(checkpoint=named).check((3, 64, 64))
    with pytest.raises(CheckpointError, match=r"tensor '0\.weight' has shape \[64, 3, 11, 11\], expected \[64, 3, 3, 3\]"):
        LPIPS(checkpoint=checkpoints["alex"], network="vgg").check((3, 64, 64))
    save_file({"weight": torch.zeros(2)}, path := tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"no name begins with 'features\.'"):
        LPIPS(checkpoint=path).check((3, 64, 64))
    state = torch.load(checkpoints["alex"], weights_only=True)
    torch.save({name: math.nan * tensor for name, tensor in state.items()}, path := tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="NaN or infinite distances; are its weights right"):
        LPIPS(checkpoint=path).check((3, 64, 64))
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="LPIPS takes its heads from torchmetrics"):
        LPIPS(checkpoint=named, sha256=hashlib.sha256(named.read_bytes()).hexdigest()).check((3, 64, 64))


def test_a_file_is_hashed_and_read_once_and_again_when_it_changed(checkpoints, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(perceptual, "check_sha256", lambda path, *rest: calls.append(path) or check_sha256(path, *rest))
    path = tmp_path / "alex.pth"
    path.write_bytes(checkpoints["alex"].read_bytes())
    metric, squares = LPIPS(checkpoint=path), ImageData(levels(0, 32)[0], 256, None, "squares")
    context = Context(GammaInterval(-13.3, 5.0), ODE(), squares, None, 0)
    for _ in range(2):
        metric.count(context)
        metric.summarise(context, {"images": squares.images(), "others": squares.images()})
    assert calls == [path]
    os.utime(path, ns=(1, 1))
    metric.count(context)
    assert calls == [path, path]


# --- scripted networks -----------------------------------------------------------------------------------------------


class Corner(nn.Module):
    """Takes NVIDIA's arguments; features are the first and the last pixel's colours."""

    def forward(self, images: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        if resize_images or not return_lpips:
            return torch.zeros(1, 1)
        return torch.cat([images[:, :, 0, 0], images[:, :, -1, -1]], 1)


class Plain(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Picky(nn.Module):
    def forward(self, images: Tensor, return_lpips: bool = False) -> Tensor:
        return images.flatten(1) + torch.zeros(2)


class Unpooled(nn.Module):
    def forward(self, images: Tensor, return_lpips: bool = False) -> Tensor:
        return images


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), path)
    return path


def test_a_scripted_network_sees_0_to_255_and_its_features_squared_distance_is_taken(tmp_path):
    ours, others = levels(1, 8, channels=1)
    metric = LPIPS(checkpoint=scripted(Corner(), tmp_path / "vgg16.pt"), network="torchscript")
    metric.check((1, 8, 8))
    move = (ours - others).double()
    wanted = 3 * (move[:, 0, 0, 0] ** 2 + move[:, 0, -1, -1] ** 2)  # grey repeated to three channels
    torch.testing.assert_close(metric.compare(ours / 255, others / 255, 256), wanted, rtol=1e-5, atol=1e-3)
    assert metric.described((1, 8, 8)) == {
        "network_sha256": hashlib.sha256((tmp_path / "vgg16.pt").read_bytes()).hexdigest(),
        "resize": None,
    }


class TestScripted(MetricContract):
    """The contract's images are too small for the others."""

    @pytest.fixture(autouse=True)
    def _saved(self, tmp_path):
        self.path = scripted(Corner(), tmp_path / "vgg16.pt")

    def make(self):
        return LPIPS(checkpoint=self.path, network="torchscript", images=12)


def test_a_scripted_network_that_cannot_is_refused_in_one_line(tmp_path):
    context = Context(GammaInterval(-13.3, 5.0), ODE(), ImageData(levels(0, 8)[0], 256, None, "squares"), None, 0)
    (text := tmp_path / "text.pt").write_bytes(b"no TorchScript")
    for path, message in (
        (scripted(Plain(), tmp_path / "plain.pt"), "its forward does not take return_lpips"),
        (scripted(Picky(), tmp_path / "picky.pt"), r"cannot take images \[1, 3, 8, 8\] \([^\n]+\)$"),
        (scripted(Unpooled(), tmp_path / "unpooled.pt"), r"unpooled.pt: expected features \[2, F\], got \[2, 3, 8, 8\]$"),
        (text, "not a TorchScript file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            LPIPS(checkpoint=path, network="torchscript").count(context)
