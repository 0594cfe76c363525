"""Reference features and moments: exact in blocks, computed once, kept on disk, and made again where the disk fails."""

from pathlib import Path

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
    monkeypatch.setattr(references, "_MADE", {})
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
    assert torch.equal(features(extractor, reference), reference.images().flatten(1))
    assert network.seen == 152  # with two to see how many features there are
    forget(monkeypatch)
    assert torch.equal(moments(extractor, reference).covariance, first.covariance)
    assert torch.equal(features(extractor, reference), reference.images().flatten(1))
    assert network.seen == 152
    assert len([*cache_folder().glob("*/*.safetensors")]) == 2


def test_features_of_a_large_set_are_not_held_for_its_moments(network, reference, monkeypatch):
    monkeypatch.setattr(references, "HELD", 100)
    moments(ModuleFeatures(network, key="counting 1"), reference)
    assert references._FEATURES == {}


def test_a_few_are_drawn_from_all_over_the_set_and_kept_by_themselves(network):
    """Of a folder sorted by class the first few would be of one."""
    sorted_set = ImageData(torch.arange(150.0)[:, None, None, None].expand(-1, 1, 2, 3) / 150, None, None, "sorted")
    extractor = ModuleFeatures(network, key="counting 1")
    few = features(extractor, sorted_set, 20)[:, 0]
    assert network.seen == 20
    assert len(few.unique()) == 20
    assert abs(float(few.mean()) - 0.5) < 0.15
    assert set(few.tolist()) < set(features(extractor, sorted_set, 40)[:, 0].tolist())
    assert not torch.equal(few, features(extractor, sorted_set, 20, seed=1)[:, 0])
    assert len(features(extractor, sorted_set, 1000)) == 150
    assert network.seen == 230


def test_features_of_a_large_set_are_not_written(network, reference, monkeypatch):
    monkeypatch.setattr(references, "HELD", 100)
    assert len(features(ModuleFeatures(network, key="counting 1"), reference)) == 150
    assert [*cache_folder().glob("features/*")] == []


def test_features_that_need_float64_keep_it(network, reference):
    class Late(nn.Module):
        """Numbers that float32 holds, but for those of the last images."""

        def forward(self, images: Tensor) -> Tensor:
            return (images[:, 0, 0, :1] == images[-1, 0, 0, 0]).double() * (0.1 if len(images) < 64 else 1)

    found = features(ModuleFeatures(Late()), reference)
    assert found.dtype == torch.float64
    assert found.unique().tolist() == [0, 0.1, 1]


def flip_a_bit(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no tensors", lambda content: content[:-1], flip_a_bit])
def test_a_damaged_file_is_made_again(network, reference, monkeypatch, damage):
    extractor = ModuleFeatures(network, key="counting 1")
    wanted = features(extractor, reference)
    (path,) = cache_folder().glob("features/*")
    path.write_bytes(damage(path.read_bytes()))
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


def test_another_kind_of_device_is_another_entry(network, reference, monkeypatch):
    extractor = ModuleFeatures(network, key="counting 1")
    features(extractor, reference)
    monkeypatch.setattr(references, "device", lambda: torch.device("cuda"))
    features(extractor, reference)
    assert network.seen == 300


def test_a_folder_that_cannot_be_written_is_done_without(network, reference, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SNROUTER_CACHE", str(tmp_path / "file" / "folder"))
    assert len(features(ModuleFeatures(network, key="counting 1"), reference)) == 150


def test_a_folder_that_cannot_be_looked_into_is_done_without(network, reference, monkeypatch):
    def closed(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(Path, "unlink", closed)
    monkeypatch.setattr(references, "safe_open", closed)
    assert len(features(ModuleFeatures(network, key="counting 1"), reference)) == 150


def test_a_user_without_a_home_has_no_folder(network, reference, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SNROUTER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None
    assert moments(ModuleFeatures(network, key="counting 1"), reference).n == 150


def test_the_folder_is_the_users_cache_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SNROUTER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("SNROUTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "snrouter"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "snrouter"
