"""Extractors by name and by hand, and one pass over images for every metric that asks."""

import hashlib

import pytest
import torch
from torch import Tensor, nn

from snrouter.errors import CheckpointError, SpecError
from snrouter.experts.checkpoints import save_checkpoint
from snrouter.experts.networks.classifier import Classifier
from snrouter.metrics.blocks import device
from snrouter.metrics.features.base import found
from snrouter.metrics.features.metric import extractor
from snrouter.metrics.features.module import ModuleFeatures
from snrouter.metrics.frechet import Frechet
from snrouter.spec.components import arguments_model


class Counting(nn.Module):
    """Two features and three logits; counts the images it saw."""

    seen = 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(images)
        return images.flatten(1)[:, :2], images.flatten(1)[:, 2:5]


class Broken(nn.Module):
    """What is left when the weights are not."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) / 0


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "classifier.safetensors"
    save_checkpoint(path, Classifier(channels=8, features=4), {"network": {"type": "classifier", "channels": 8, "features": 4}})
    return path


def images(n: int) -> Tensor:
    return 2 * torch.rand(n, 1, 3, 3, generator=torch.Generator().manual_seed(0)) - 1


def test_metrics_share_one_pass_and_none_sees_more_than_it_needs_to():
    network = Counting()
    counted = ModuleFeatures(network, key="counting")
    measured = {"images": images(300)}
    few = found(measured, counted, count=10)
    assert network.seen == 64  # whole batches, so that an image's batch mates are the same whoever asks first
    assert found(measured, counted, "logits", 64).shape == (64, 3)
    assert network.seen == 64
    everything = found(measured, counted)
    assert network.seen == 300
    assert torch.equal(everything[:10], few)
    assert torch.equal(everything, images(300).flatten(1)[:, :2].double())
    assert torch.equal(found(measured, counted, "logits"), images(300).flatten(1)[:, 2:5].double())
    assert network.seen == 300


def test_what_has_no_key_is_not_kept():
    network, measured = Counting(), {"images": images(5)}
    found(measured, ModuleFeatures(network)), found(measured, ModuleFeatures(network))
    assert network.seen == 10
    assert set(measured) == {"images"}


def test_a_classifier_gives_features_and_logits_in_float64(checkpoint):
    torch.manual_seed(0)
    network = Classifier(channels=8, features=4).double().eval()
    outputs = extractor("classifier", checkpoint).outputs(images(7))
    with torch.no_grad():
        torch.testing.assert_close(outputs["features"], network.features(images(7).double()))
        torch.testing.assert_close(outputs["logits"], network(images(7).double()))
    assert extractor("classifier", checkpoint) is extractor("classifier", checkpoint)


def test_the_key_is_of_the_weights_not_of_the_file(checkpoint, tmp_path):
    torch.manual_seed(1)
    config = {"network": {"type": "classifier", "channels": 8, "features": 4}}
    save_checkpoint(tmp_path / "other.safetensors", Classifier(channels=8, features=4), config)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "same.safetensors", Classifier(channels=8, features=4), config)
    keys = [
        extractor("classifier", path).key for path in (checkpoint, tmp_path / "same.safetensors", tmp_path / "other.safetensors")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_file_must_be_there_and_have_the_hash_that_is_expected(checkpoint):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert Frechet(checkpoint, sha256=digest.upper()).extractor().protocol["features_sha256"] == digest
    with pytest.raises(CheckpointError, match=digest):
        Frechet(checkpoint, sha256=64 * "0").extractor()
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        Frechet(checkpoint.with_name("gone.safetensors")).extractor()
    with pytest.raises(SpecError, match=r"features: inception are read from a file; add e\.g\. checkpoint: inception\.safetensors"):
        Frechet(features="inception").extractor()
    with pytest.raises(SpecError, match="checkpoint: it belongs to features by name"):
        Frechet(checkpoint, features=Counting()).extractor()


def test_a_network_that_gives_no_finite_matrix_is_told_of():
    with pytest.raises(CheckpointError, match="features Broken: NaN or infinite features; are its weights right"):
        ModuleFeatures(Broken()).outputs(images(3))
    with pytest.raises(CheckpointError, match=r"features Identity: expected features \[3, F\], got \[3, 1, 3, 3\]"):
        ModuleFeatures(nn.Identity()).outputs(images(3))
    with pytest.raises(CheckpointError, match="features Flatten: the network gives no logits"):
        ModuleFeatures(nn.Flatten()).outputs(images(3), "logits")


def test_a_network_is_tried_once_for_each_shape_on_the_cpu(monkeypatch):
    network = Counting()
    counted = ModuleFeatures(network)
    assert [counted.width(images(2)), counted.width(images(2)), counted.width(images(2), "logits")] == [2, 2, 3]
    assert network.seen == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    seen = []
    monkeypatch.setattr(Counting, "forward", lambda self, images: seen.append(device().type) or images.flatten(1))
    counted.width(images(2)[:, :, :2])
    assert seen == ["cpu"]


def test_a_network_that_cannot_take_the_images_is_told_of():
    with pytest.raises(CheckpointError, match=r"features Linear: cannot take images \[3, 1, 3, 3\] \([^\n]+\)$"):
        ModuleFeatures(nn.Linear(4, 2)).outputs(images(3))


def test_a_network_in_training_is_not_trained():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.Dropout(0.5)).train()
    network[1].eval()
    found = ModuleFeatures(network).outputs(images(5))["features"]
    torch.testing.assert_close(found, images(5).flatten(1).double(), rtol=1e-4, atol=1e-4)
    assert bool((network[1].running_mean == 0).all())
    assert [part.training for part in network.modules()] == [True, True, False, True]


def test_a_spec_names_kinds_and_a_wrong_one_is_told_in_one_line():
    model = arguments_model(Frechet, "fid")
    assert model.model_json_schema()["properties"]["features"]["enum"] == ["classifier", "torchscript", "inception"]
    with pytest.raises(ValueError, match=r"expected one of classifier, .*, got 'inceptoin'; did you mean 'inception'\?") as info:
        model(features="inceptoin")
    assert info.value.error_count() == 1
