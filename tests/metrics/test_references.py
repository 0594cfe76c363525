"""Reference features and moments: exact in blocks, computed once, kept on disk, and made again where the disk fails."""

import pytest
import torch
from torch import Tensor, nn

from snrouter.data.base import ImageData
from snrouter.metrics import references
from snrouter.metrics.features.module import ModuleFeatures
from snrouter.metrics.references import accumulate, cache_folder, features, moments


class Counting(nn.Module):
    """Pixels are features; counts the images it saw."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)


@pytest.fixture
def network(tmp_path, monkeypatch) -> Counting:
    monkeypatch.setenv("SNROUTER_CACHE", str(tmp_path))
    monkeypatch.setattr(references, "BLOCK", 64)
    forget(monkeypatch)
    return Counting()


def forget(monkeypatch) -> None:
    """As in another process."""
    monkeypatch.setattr(references, "_FEATURES", {})
    monkeypatch.setattr(references, "_MOMENTS", {})


@pytest.fixture(scope="module")
def reference() -> ImageData:
    return ImageData(torch.randn(150, 1, 2, 3, generator=torch.Generator().manual_seed(0)), None, None, "noise")


def test_moments_in_blocks_are_those_of_the_whole():
    """Also far from zero, where a sum of squares would lose most of its digits."""
    values = 1e6 + torch.randn(101, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = accumulate(torch.split(values, 30))
    assert found.n == 101
    torch.testing.assert_close(found.mean, values.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.covariance, (values - 1e6).T.cov(), rtol=1e-9, atol=1e-9)


def test_an_image_is_seen_once_by_one_process_and_by_none_after_it(network, reference, monkeypatch):
    extractor = ModuleFeatures(network, key="counting 1")
    first = moments(extractor, reference)
    torch.testing.assert_close(first.covariance, reference.images().flatten(1).double().T.cov())
    torch.testing.assert_close(features(extractor, reference), reference.images().flatten(1).double())
    assert network.seen == 150
    forget(monkeypatch)
    assert torch.equal(moments(extractor, reference).covariance, first.covariance)
    assert torch.equal(features(extractor, reference), reference.images().flatten(1).double())
    assert network.seen == 150
    assert len([*cache_folder().glob("*/*.safetensors")]) == 2


def test_features_of_a_large_set_are_not_held_for_its_moments(network, reference, monkeypatch):
    monkeypatch.setattr(references, "HELD", 100)
    moments(ModuleFeatures(network, key="counting 1"), reference)
    assert references._FEATURES == {}


def test_the_first_few_are_kept_by_themselves(network, reference):
    extractor = ModuleFeatures(network, key="counting 1")
    assert torch.equal(features(extractor, reference, 20), reference.images(range(20)).flatten(1).double())
    assert network.seen == 20
    assert len(features(extractor, reference, 1000)) == 150


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_damaged_file_is_made_again(network, reference, monkeypatch, damage):
    extractor = ModuleFeatures(network, key="counting 1")
    wanted = features(extractor, reference)
    (path,) = cache_folder().glob("features/*")
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    forget(monkeypatch)
    assert torch.equal(features(extractor, reference), wanted)
    assert network.seen == 300
    forget(monkeypatch)
    assert torch.equal(features(extractor, reference), wanted)
    assert network.seen == 300


def test_another_key_or_another_set_is_another_entry_and_no_key_is_none(network, reference):
    other = ImageData(reference.pixels[1:], None, None, "noise")
    for key, images in (("counting 1", reference), ("counting 2", reference), ("counting 1", other)):
        features(ModuleFeatures(network, key=key), images)
    assert network.seen == 449
    features(ModuleFeatures(network), reference), moments(ModuleFeatures(network), reference)
    assert network.seen == 749
    assert len([*cache_folder().glob("*/*")]) == 3


def test_a_folder_that_cannot_be_written_is_done_without(network, reference, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SNROUTER_CACHE", str(tmp_path / "file" / "folder"))
    assert len(features(ModuleFeatures(network, key="counting 1"), reference)) == 150


def test_the_folder_is_the_users_cache_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SNROUTER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("SNROUTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "snrouter"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "snrouter"
