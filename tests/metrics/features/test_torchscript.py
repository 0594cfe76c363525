"""A scripted module is given uint8 images, and asked for features and for class probabilities where it can be."""

import hashlib
import warnings

import pytest
import torch
from torch import Tensor, nn

from snrouter.data.base import ImageData, from_levels
from snrouter.errors import CheckpointError, SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.features.metric import extractor
from snrouter.metrics.frechet import Frechet, frechet_distance
from snrouter.metrics.inception_score import InceptionScore
from snrouter.solvers.ode import ODE


class Means(nn.Module):
    """Channel means and, of the asked-for features, spreads; class scores otherwise."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError("not uint8")
        pixels = images.double().flatten(2)
        if return_features:
            return torch.cat([pixels.mean(2), pixels.std(2)], 1)
        return torch.zeros(images.shape[0], 10)


class Scores(nn.Module):
    """Features, or class probabilities with or without a bias, as NVIDIA's Inception file returns them."""

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        features = images.double().flatten(1)[:, :3] / 64
        if return_features:
            return features
        return (features if no_output_bias else features + torch.tensor([0.0, 1.0, 2.0])).softmax(1)


class Plain(nn.Module):
    """Takes nothing but the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.double().flatten(2).mean(2)


class Picture(nn.Module):
    """Returns what it was given, which is no matrix of features."""

    def forward(self, images: Tensor) -> Tensor:
        return images


class Scalar(nn.Module):
    """Returns a single number."""

    def forward(self, images: Tensor) -> Tensor:
        return images.double().mean()


class Two(nn.Module):
    """Adds what only has two channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2).sum(2) + torch.zeros(1, 2)


@pytest.fixture
def scripted(tmp_path):
    def save(module: nn.Module, name: str = "inception-tiny.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(module), tmp_path / name)
        return tmp_path / name

    return save


def pixels(n: int, channels: int = 3, levels: int = 256, seed: int = 0) -> Tensor:
    return torch.randint(levels, (n, channels, 4, 4), generator=torch.Generator().manual_seed(seed))


def test_a_scripted_module_is_given_the_levels_and_asked_for_features(scripted):
    levels = pixels(67)
    found = extractor("torchscript", scripted(Means())).outputs(from_levels(levels, 256))["features"]
    flat = levels.double().flatten(2)
    torch.testing.assert_close(found, torch.cat([flat.mean(2), flat.std(2)], 1))


def test_one_without_return_features_is_called_plainly_and_grey_images_become_three_channels(scripted):
    levels = pixels(5, channels=1)
    found = extractor("torchscript", scripted(Plain())).outputs(from_levels(levels, 256))["features"]
    torch.testing.assert_close(found, levels.double().flatten(1).mean(1, keepdim=True).expand(-1, 3))


def test_class_probabilities_are_asked_for_without_their_bias(scripted):
    levels = pixels(5)
    found = extractor("torchscript", scripted(Scores())).outputs(from_levels(levels, 256), "logits")["logits"]
    torch.testing.assert_close(found.softmax(1), (levels.double().flatten(1)[:, :3] / 64).softmax(1))


def test_logits_are_left_as_they_are(scripted):
    found = extractor("torchscript", scripted(Means())).outputs(from_levels(pixels(2), 256), "logits")["logits"]
    assert torch.equal(found, torch.zeros(2, 10, dtype=torch.float64))


def test_a_network_without_classes_has_no_inception_score(scripted):
    network = extractor("torchscript", scripted(Plain()))
    with pytest.raises(CheckpointError, match="features inception-tiny: the network gives no logits; name one that does"):
        network.outputs(from_levels(pixels(2), 256), "logits")
    with pytest.raises(SpecError, match="features: inception-tiny tells no classes apart"):
        InceptionScore(scripted(Plain()), features="torchscript").count(None)


def test_what_is_no_extractor_is_refused_in_one_line(scripted, tmp_path):
    images = from_levels(pixels(2), 256)
    (tmp_path / "text.pt").write_text("no archive")
    with pytest.raises(CheckpointError, match=r"none\.pt: no such file"):
        extractor("torchscript", tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"text\.pt: not a TorchScript file"):
        extractor("torchscript", tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match=r"expected features \[2, F\], got \[2, 3, 4, 4\]"):
        extractor("torchscript", scripted(Picture())).outputs(images)
    with pytest.raises(CheckpointError, match=r"cannot take uint8 images \[n, 3, H, W\] \([^\n]+\)$"):
        extractor("torchscript", scripted(Two())).outputs(images)


def test_one_that_gives_no_features_is_told_before_anything_is_drawn(scripted):
    context = Context(GammaInterval(-13.3, 5.0), ODE(), None, ImageData(pixels(4), 256, None, "random"), 0)
    with pytest.raises(CheckpointError, match=r"features inception-tiny: expected features \[2, F\], got \[\]"):
        Frechet(scripted(Scalar()), features="torchscript").count(context)


def test_the_metric_is_the_distance_of_scripted_features_named_by_file_and_hash(scripted):
    reference, samples = pixels(40, seed=1), pixels(30, seed=2)
    path = scripted(Plain())
    context = Context(GammaInterval(-13.3, 5.0), ODE(), None, ImageData(reference, 256, None, "random"), 0)
    metric = Frechet(path, samples=30, features="torchscript")
    assert metric.count(context) == 30
    summary = metric.summarise(context, {"images": from_levels(samples, 256)})
    wanted, influence = frechet_distance(*(part.double().flatten(2).mean(2) for part in (samples, reference)))
    assert summary.value == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(summary.influence, influence)
    assert summary.columns == {"features": "inception-tiny"}
    assert summary.protocol["features_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
