"""LSUN church: exported folders, a split by digest, crop, and what is no export."""

import hashlib

import numpy as np
import pytest
import torch
from copies import pixels, save_image

from snrouter.data.lsun_church import lsun_church
from snrouter.data.slices import Slice
from snrouter.errors import DataError
from snrouter.testing import DatasetContract

CHURCHES = pixels(5, shape=(3, 8, 12))


@pytest.fixture
def root(tmp_path):
    """As LSUN's export writes it, folders by the first letters of a key."""
    for i, church in enumerate(CHURCHES):
        save_image(tmp_path / ("church_outdoor_train" if i < 3 else "church_outdoor_val") / "0a" / "b7" / f"0ab7{i}.png", church)
    return tmp_path


class TestLsunChurch(DatasetContract):
    @pytest.fixture(autouse=True)
    def files(self, root):
        self.root = root

    def make(self):
        return lsun_church(self.root, 4)


def test_exported_folders_are_the_splits(root):
    data, train = lsun_church(root, 4), lsun_church(root, 4, "train")
    assert data.names == ("0a/b7/0ab73.png", "0a/b7/0ab74.png")
    assert len(train) == 3
    blocks = CHURCHES[3:, :, :, 2:10].reshape(2, 3, 4, 2, 4, 2).mean((3, 5))  # the square in the middle
    assert np.abs(data.pixels.numpy() - blocks).max() <= 1
    assert data.name == "lsun_church/valid (2 of 300 images)"
    assert data.protocol == {
        "source": "PNG files",
        "resized to 4 x 4 by box, crop center": "2 of 2 images",
        "published": "photographs of smaller side 256, JPEG (Yu et al. 2015)",
        "alignment": "none",
        "split": "folders",
        "duplicates": "0 of 2 images, of which the first by name is kept",
        "leaks": "0 of 2 images also in train, left out",
    }
    with pytest.raises(DataError, match=r"has no split 'all'; it has train, valid"):
        lsun_church(root, 4, "all")


def test_duplicates_and_leaks_are_those_after_the_crop(root):
    edge = CHURCHES[0].copy()
    edge[:, :, 0] = 0  # which the crop takes away
    save_image(root / "church_outdoor_val" / "z.png", edge)
    assert len(lsun_church(root, 4)) == 2
    assert lsun_church(root, 4).protocol["leaks"] == "1 of 3 images also in train, left out"
    with pytest.raises(DataError, match=r"1 of 3 images are also in train, the first z.png"):
        lsun_church(root, 4, leaks="refuse")


def test_folders_of_ones_own_are_parted_by_digest_and_are_slices(tmp_path):
    names = [f"{folder}/{i}.png" for folder in ("chapels", "towers") for i in range(40)]
    for name, church in zip(names, pixels(80, seed=1, shape=(3, 6, 6)), strict=True):
        save_image(tmp_path / name, church)
    held = {name for name in names if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < 5}
    assert 0 < len(held) < 10
    valid, train, whole = (lsun_church(tmp_path, 6, split) for split in ("valid", "train", "all"))
    assert set(valid.names) == held
    assert set(train.names) == {*names} - held
    assert set(whole.names) == {*names}
    assert valid.name == "lsun_church/valid"
    assert valid.protocol["split"] == "SHA-256 of the path modulo 100, valid below 5"
    assert Slice(folders=("towers",)).members(train).tolist() == [name.startswith("towers/") for name in train.names]


def test_gray_churches_become_rgb_and_are_told(root):
    save_image(root / "church_outdoor_val" / "gray.png", CHURCHES[0, 0])
    data = lsun_church(root, 4)
    assert data.protocol["gray repeated to rgb"] == "1 of 3 images"
    assert torch.equal(data.pixels[2, 0], data.pixels[2, 2])


def test_databases_and_absent_files_are_told(tmp_path, root):
    with pytest.raises(DataError, match=r"lsun_church: not found in .*nowhere \(no such folder\).*data.py export"):
        lsun_church(tmp_path / "nowhere", 4)
    (root / "church_outdoor_train_lmdb").mkdir()
    (root / "church_outdoor_train_lmdb" / "data.mdb").write_bytes(b"")
    with pytest.raises(DataError, match=r"church_outdoor_train_lmdb is an LMDB; export its images"):
        lsun_church(root, 4)


def test_a_validation_set_alone_has_nothing_to_be_compared_with(tmp_path):
    save_image(tmp_path / "val" / "0.png", CHURCHES[0])
    assert lsun_church(tmp_path, 4).protocol["leaks"] == "unchecked, as there are no training images"
    with pytest.raises(DataError, match=r"has no split 'train'; it has valid"):
        lsun_church(tmp_path, 4, "train")
