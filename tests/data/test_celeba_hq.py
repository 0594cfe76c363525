"""CelebA-HQ: splits, attributes, crop, duplicates and leaks of folders made here."""

import numpy as np
import pytest
import torch
from copies import pixels, save_image

from snrouter import spec
from snrouter.data.base import ImageData
from snrouter.data.celeba_hq import ATTRIBUTES, PARTITION, celeba_hq
from snrouter.data.celeba_lists import MAPPING
from snrouter.data.slices import Slice
from snrouter.errors import DataError
from snrouter.testing import DatasetContract

FACES = pixels(6, shape=(3, 8, 8))
ORIGINALS = (3, 162770, 162771, 182637, 182638, 202599)
"""Files of CelebA: two of each split, at its ends."""

SPLITS = {"train": (0, 1), "valid": (2, 3), "test": (4, 5)}
BLOND = (1, -1, 1, -1, -1, 1)
MALE = (-1, -1, 1, 1, -1, 1)


def attribute_list(names):
    rows = [f"{name}  {blond} {male}" for name, blond, male in zip(names, BLOND, MALE, strict=True)]
    return "\n".join([str(len(rows)), "Blond_Hair Male", *rows]) + "\n"


@pytest.fixture
def root(tmp_path):
    """As CelebAMask-HQ unpacks, with six faces."""
    for i, face in enumerate(FACES):
        save_image(tmp_path / "CelebA-HQ-img" / f"{i}.png", face)
    save_image(tmp_path / "CelebAMask-HQ-mask-anno" / "0_hair.png", FACES[0, 0])  # no face
    rows = [f"{i:<11}{original - 1:<10}{original:06d}.jpg" for i, original in enumerate(ORIGINALS)]
    (tmp_path / MAPPING).write_text("\n".join(["idx        orig_idx  orig_file", *rows]))
    (tmp_path / ATTRIBUTES[0]).write_text(attribute_list(f"{i}.jpg" for i in range(6)))
    return tmp_path


class TestCelebaHQ(DatasetContract):
    @pytest.fixture(autouse=True)
    def files(self, root):
        self.root = root

    def make(self):
        return celeba_hq(self.root, 4, "all")


def test_an_image_is_in_the_split_of_its_original(root):
    for split, places in SPLITS.items():
        data = celeba_hq(root, 8, split)
        assert data.names == tuple(f"{i}.png" for i in places)
        assert torch.equal(data.pixels, torch.from_numpy(FACES[list(places)]))
        assert data.protocol["split"] == f"that of CelebA, by {MAPPING}"
    assert celeba_hq(root, 8, "test").name == "celeba_hq/test (2 of 2824 images)"
    assert celeba_hq(root, 8, "all").names == tuple(f"{i}.png" for i in range(6))


def test_attributes_follow_the_images(root):
    data = celeba_hq(root, 8, "test")
    assert {name: values.tolist() for name, values in data.attributes.items()} == {
        "Blond_Hair": [False, True],
        "Male": [False, True],
    }
    assert data.protocol["attributes"] == f"{ATTRIBUTES[0]}, by name"
    everyone = celeba_hq(root, 8, "all")
    assert Slice(attributes={"Blond_Hair": True, "Male": False}).members(everyone).tolist() == [True] + 5 * [False]


def test_lists_of_celeba_are_read_through_the_mapping(root):
    """The list of CelebA's own, of which CelebA-HQ is a part: here its numbers would lead astray."""
    rows = attribute_list(f"{original:06d}.jpg" for original in ORIGINALS).splitlines()
    rows += [f"{i:06d}.jpg 1 1" for i in range(10, 14)]
    (root / ATTRIBUTES[0]).unlink()
    (root / ATTRIBUTES[1]).write_text("\n".join(["10", *rows[1:]]))
    data = celeba_hq(root, 8, "all")
    assert data.attributes["Male"].tolist() == [value == 1 for value in MALE]
    assert data.protocol["attributes"] == f"list_attr_celeba.txt, by {MAPPING}"
    (root / PARTITION).write_text("\n".join(f"{original:06d}.jpg {i % 3}" for i, original in enumerate(ORIGINALS)))
    assert celeba_hq(root, 8, "test").names == ("2.png", "5.png")  # not those of the mapping's own rule
    assert celeba_hq(root, 8, "test").protocol["split"] == f"{PARTITION}, by {MAPPING}"
    assert celeba_hq(root, 8, "test").name == "celeba_hq/test (2 of 2824 images)"


def test_files_named_as_in_celeba_are_not_numbers_of_celeba_hq(root):
    """000003 to 000005 are training images of CelebA; 3 to 5 are others, of its validation and test images."""
    for i in range(6):
        (root / "CelebA-HQ-img" / f"{i}.png").rename(root / "CelebA-HQ-img" / f"{i:06d}.png")
    with pytest.raises(DataError, match=r"no line for 000000\.png"):
        celeba_hq(root, 8, "test")
    for i, original in enumerate(ORIGINALS):
        (root / "CelebA-HQ-img" / f"{i:06d}.png").rename(root / "CelebA-HQ-img" / f"{original:06d}.png")
    (root / ATTRIBUTES[0]).unlink()
    assert celeba_hq(root, 8, "test").names == ("182638.png", "202599.png")


def test_files_padded_with_zeros_are_found_by_number(root):
    for i in range(6):
        (root / "CelebA-HQ-img" / f"{i}.png").rename(root / "CelebA-HQ-img" / f"{i:05d}.png")
    data = celeba_hq(root, 8, "test")
    assert data.names == ("00004.png", "00005.png")
    assert data.attributes["Male"].tolist() == [False, True]
    assert data.protocol["attributes"].endswith("by number")


def test_folders_and_partitions_of_ones_own(tmp_path):
    for i, face in enumerate(FACES):
        save_image(tmp_path / ("train", "val", "test")[i % 3] / f"face{i}.png", face)
    data = celeba_hq(tmp_path, 8, "valid")
    assert (data.names, data.protocol["split"], data.attributes) == (("val/face1.png", "val/face4.png"), "folders", {})
    assert data.name == "celeba_hq/valid (2 of 2993 images)"
    own = tmp_path / "own.txt"
    own.write_text("\n".join(f"face{i}.png {'train' if i else 'test'}" for i in range(6)))
    assert celeba_hq(tmp_path, 8, partition=own).names == ("train/face0.png",)
    with pytest.raises(DataError, match=r"no image of split 'valid' by own.txt, by name; it has test, train"):
        celeba_hq(tmp_path, 8, "valid", partition=own)


def test_faces_are_resized_whole_and_must_be_square(root):
    data = celeba_hq(root, 4, "all")
    blocks = FACES.reshape(6, 3, 4, 2, 4, 2).mean((3, 5))
    assert np.abs(data.pixels.numpy() - blocks).max() <= 1  # rounded after each of two passes
    assert data.protocol["resized to 4 x 4 by box, crop square"] == "6 of 6 images"
    assert data.protocol["alignment"] == "as published, by eyes and mouth; none here"
    wide = pixels(1, shape=(3, 8, 12))[0]
    save_image(root / "CelebA-HQ-img" / "0.png", wide)
    with pytest.raises(DataError, match=r"0.png: 8 x 12 pixels, expected a square; add crop: center"):
        celeba_hq(root, 4, "all")
    cropped = celeba_hq(root, 4, "all", crop="center").pixels[0].numpy()
    assert np.abs(cropped - wide[:, :, 2:10].reshape(3, 4, 2, 4, 2).mean((2, 4))).max() <= 1


def test_of_duplicates_the_first_by_name_stays(root):
    save_image(root / "CelebA-HQ-img" / "5.png", FACES[4])
    kept = celeba_hq(root, 8, "test")
    assert kept.names == ("4.png",)
    assert kept.attributes["Male"].tolist() == [False]
    assert kept.protocol["duplicates"] == "1 of 2 images, of which the first by name is kept"
    both = celeba_hq(root, 8, "test", duplicates="keep")
    assert both.names == ("4.png", "5.png")
    assert both.protocol["duplicates"] == "1 of 2 images, kept"


def test_what_becomes_alike_by_resizing_is_a_duplicate(root):
    twin = FACES[4].copy()
    twin[:, 0, 0], twin[:, 0, 1] = FACES[4][:, 0, 1], FACES[4][:, 0, 0]  # the box's mean stays
    save_image(root / "CelebA-HQ-img" / "5.png", twin)
    assert len(celeba_hq(root, 8, "test")) == 2
    assert len(celeba_hq(root, 4, "test")) == 1


def test_a_test_image_that_was_trained_on_is_left_out_or_refused(root):
    assert celeba_hq(root, 8, "test").protocol["leaks"] == "0 of 2 images also in train, left out"
    save_image(root / "CelebA-HQ-img" / "4.png", FACES[1])
    data = celeba_hq(root, 8, "test")
    assert data.names == ("5.png",)
    assert data.attributes["Blond_Hair"].tolist() == [True]
    assert data.protocol["leaks"] == "1 of 2 images also in train, left out"
    with pytest.raises(DataError, match=r"1 of 2 images are also in train, the first 4.png; leaks: drop leaves them out"):
        celeba_hq(root, 8, "test", leaks="refuse")
    unchecked = celeba_hq(root, 8, "test", leaks="unchecked")
    assert (len(unchecked), unchecked.protocol["leaks"]) == (2, "unchecked")
    assert "leaks" not in celeba_hq(root, 8, "train").protocol
    for i in SPLITS["train"]:
        (root / "CelebA-HQ-img" / f"{i}.png").unlink()
    assert celeba_hq(root, 8, "test").protocol["leaks"] == "unchecked, as there are no training images"
    for i in SPLITS["train"]:
        save_image(root / "CelebA-HQ-img" / f"{i}.png", FACES[i])
    save_image(root / "CelebA-HQ-img" / "5.png", FACES[0])
    with pytest.raises(DataError, match=r"2 of 2 images are also in train, the first 4.png; are these two splits\?"):
        celeba_hq(root, 8, "test")


def test_leaks_are_found_in_every_block_of_the_training_images(root, monkeypatch):
    monkeypatch.setattr("snrouter.data.splits.BLOCK", 1)
    save_image(root / "CelebA-HQ-img" / "4.png", FACES[1])
    save_image(root / "CelebA-HQ-img" / "2.png", FACES[0])
    assert celeba_hq(root, 8, "test").names == ("5.png",)
    assert celeba_hq(root, 8, "valid").names == ("3.png",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (ATTRIBUTES[0], "6\nBlond_Hair\n0.jpg 1\n", r"anno.txt: its first line says 6 images, and 1 follow"),
        (ATTRIBUTES[0], "1\nBlond_Hair Male\n0.jpg 1\n", r"anno.txt:3: expected an image and 2 values 1 or -1, got '0.jpg 1'"),
        (ATTRIBUTES[0], "1\nBlond_Hair\n0.jpg 0\n", r"anno.txt:3: expected an image and 1 values 1 or -1"),
        (ATTRIBUTES[0], "Blond_Hair\n", r"anno.txt: expected CelebA's format"),
        (ATTRIBUTES[0], "1\nBlond_Hair\n4.jpg 1\n", r"anno.txt has no line for 5.png; expected one for every image"),
        (PARTITION, "0.jpg 0\n4.jpg 3\n", r"partition.txt:2: expected an image and one of 0, 1, 2, train.*; got '4.jpg 3'"),
        (PARTITION, "0.jpg 0\n", r"list_eval_partition.txt has no line for 1.png"),
        (MAPPING, "idx orig_idx orig_file\n0 1\n", r"mapping.txt:2: expected the columns idx, orig_idx and orig_file, got '0 1'"),
    ],
)
def test_lists_that_are_something_else_are_refused(file, content, message, root):
    (root / file).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        celeba_hq(root, 8, "test")
    assert "\n" not in str(caught.value)


def test_what_is_absent_is_told(tmp_path, root):
    with pytest.raises(DataError, match=r"celeba_hq: not found in .*nowhere \(no such folder\); looked for CelebA-HQ-img"):
        celeba_hq(tmp_path / "nowhere", 8)
    (root / MAPPING).unlink()
    with pytest.raises(
        DataError, match=r"nothing tells the splits of .*; add CelebA-HQ-to-CelebA-mapping.txt or list_eval_partition"
    ):
        celeba_hq(root, 8)
    assert len(celeba_hq(root, 8, "all")) == 6


def test_some_images_are_taken_with_all_that_is_known_of_them():
    data = ImageData(
        torch.arange(4).view(4, 1, 1, 1),
        8,
        torch.tensor([4, 5, 6, 7]),
        "four",
        {"a": 1},
        ("a", "b", "c", "d"),
        {"x": torch.arange(4) > 1},
    )
    for places in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        taken = data.take(places)
        order = places.tolist() if places.dtype != torch.bool else [1, 3]
        assert taken.pixels.flatten().tolist() == order
        assert taken.labels.tolist() == [4 + i for i in order]
        assert taken.names == tuple("abcd"[i] for i in order)
        assert taken.attributes["x"].tolist() == [i > 1 for i in order]
        assert taken.content_hash() != data.content_hash()


def test_a_spec_names_files_from_where_it_lies(root):
    (root / "lists").mkdir()
    (root / ATTRIBUTES[0]).rename(root / "lists" / "a.txt")
    (root / "lists" / "p.txt").write_text("\n".join(f"{i}.jpg {'train' if i < 3 else 'test'}" for i in range(6)))
    faces = "{type: celeba_hq, root: ., size: 8, attributes: lists/a.txt, partition: lists/p.txt, split: %s}"
    (root / "spec.yaml").write_text(
        f"extends: digits\ndata: {faces % 'test'}\nreference: {faces % 'train'}\n"
        "slices:\n  men: {attributes: {Male: true}}\n  dark men: {attributes: {Male: true}, brightness: low}\n"
    )
    document = spec.load(root / "spec.yaml")
    data, train = document.dataset("data"), document.dataset("reference")
    assert (data.names, len(train)) == (("3.png", "4.png", "5.png"), 3)
    assert document.members("men", data, train).tolist() == [True, False, True]
    assert document.dump()["data"]["partition"] == str(root / "lists" / "p.txt")
    again = spec.Document(document.dump(), {})
    assert again.dataset("data").content_hash() == data.content_hash()
    (root / "spec.yaml").write_text((root / "spec.yaml").read_text().replace("{Male: true}}", "{male: true}}", 1))
    with pytest.raises(
        DataError, match=r"spec.yaml:5 slices.men: .* no attribute 'male'; did you mean 'Male'\?; it has Blond_Hair, Male"
    ):
        spec.load(root / "spec.yaml").members("men", data, train)
