"""Slices: the images that a filter names, every one and no other."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from snrouter.data import base
from snrouter.data.base import ImageData
from snrouter.data.digits import digits
from snrouter.data.slices import STATISTICS, Slice, brightness, colour_variance, texture
from snrouter.errors import DataError


def random(n: int = 9, shape: tuple[int, ...] = (3, 5, 4), levels: int | None = 256, **more) -> ImageData:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(levels or 256, (n, *shape), generator=generator)
    return ImageData(pixels / 7 if levels is None else pixels, levels, torch.arange(n) % 3, "random", **more)


FILES = ("a/0.png", "a/x/1.png", "ab/2.png", "b/3.png", "4.png")
TALL = torch.tensor([True, True, False, False, True])


def five() -> ImageData:
    return random(5, names=FILES, attributes={"Tall": TALL, "Even": torch.tensor([True, False, True, False, True])})


def by_hand(data: ImageData) -> dict[str, np.ndarray]:
    x = data.images(dtype=torch.float64).numpy()
    weights = np.array([0.299, 0.587, 0.114]) if x.shape[1] == 3 else np.full(x.shape[1], 1 / x.shape[1])
    luma = np.einsum("c,nchw->nhw", weights, x)
    down, across = np.diff(luma, axis=1) ** 2, np.diff(luma, axis=2) ** 2
    return {
        "colour_variance": x.var(axis=(2, 3)).mean(1),
        "texture": down.mean((1, 2)) + across.mean((1, 2)),
        "brightness": luma.mean((1, 2)),
    }


@pytest.mark.parametrize(
    "data",
    [random(), random(shape=(1, 5, 4), levels=17), random(shape=(2, 3, 3)), random(levels=None)],
    ids=["rgb", "gray", "two", "floats"],
)
def test_statistics_are_those_of_the_images(data, monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 2 * 60)
    for name, values in by_hand(data).items():
        np.testing.assert_allclose(STATISTICS[name](data).numpy(), values, rtol=1e-12, atol=1e-12, err_msg=name)


def test_what_statistics_measure():
    flat, striped = torch.full((1, 3, 4, 4), 100), torch.full((1, 3, 4, 4), 100)
    striped[..., ::2] = 110
    halves = torch.full((1, 3, 4, 4), 100)
    halves[..., :2] = 110  # the same colours, fewer edges
    data = ImageData(torch.cat([flat, striped, halves, flat + 1]), 256, None, "four")
    assert colour_variance(data).tolist() == pytest.approx([0, (2 / 256) ** 2 * 25, (2 / 256) ** 2 * 25, 0])
    assert texture(data).tolist() == pytest.approx([0, (2 / 256) ** 2 * 100, (2 / 256) ** 2 * 100 / 3, 0])
    assert brightness(data)[3] > brightness(data)[0]


def test_an_image_one_pixel_wide_has_no_texture_across():
    data = ImageData(torch.tensor([[[[0], [4]]], [[[4], [4]]]]), 8, None, "columns")
    assert texture(data).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("statistic", list(STATISTICS))
def test_low_and_high_part_the_images_at_the_median_of_the_reference(statistic):
    test, train = digits("test"), digits("train")
    low, high = (Slice(**{statistic: side}).members(test, train) for side in ("low", "high"))
    median = np.median(by_hand(train)[statistic])
    assert torch.equal(low, ~high)
    assert np.array_equal(low.numpy(), by_hand(test)[statistic] < median)
    own = Slice(**{statistic: "low"}).members(test)
    assert 195 <= int(own.sum()) <= 200  # of its own 400, but for ties
    assert not torch.equal(own, low)  # the training images' median is another one


def test_the_rest_of_the_images_moves_none_of_them():
    """Unlike a median of the images themselves, that of the reference says of each image by itself where it belongs."""
    test, train = digits("test"), digits("train")
    part = ImageData(test.pixels[:50], 17, test.labels[:50], "first")
    chosen = Slice(texture="high")
    assert torch.equal(chosen.members(part, train), chosen.members(test, train)[:50])


def test_images_at_the_median_are_high():
    data = ImageData(torch.tensor([1, 2, 2, 3]).view(4, 1, 1, 1).expand(4, 1, 2, 2), 4, None, "ties")
    assert Slice(brightness="low").members(data).tolist() == [True, False, False, False]


def test_classes_folders_and_attributes():
    data = five()
    assert Slice(classes=(0, 2)).members(data).tolist() == [True, False, True, True, False]
    assert Slice(folders=("a",)).members(data).tolist() == [True, True, False, False, False]  # ab is another folder
    assert Slice(folders=("a/x", "b/")).members(data).tolist() == [False, True, False, True, False]
    assert torch.equal(Slice(attributes={"Tall": False}).members(data), ~TALL)
    assert Slice(attributes={"Tall": True, "Even": True}).members(data).tolist() == [True, False, False, False, True]


def test_of_several_keys_all_must_hold():
    data = five()
    both = Slice(classes=(0, 1), attributes={"Tall": True}, folders=("a",)).members(data)
    assert both.tolist() == [True, True, False, False, False]
    dark = Slice(brightness="low", classes=(0, 1))
    assert torch.equal(dark.members(data), Slice(brightness="low").members(data) & Slice(classes=(0, 1)).members(data))


@pytest.mark.parametrize(
    ("chosen", "data", "message"),
    [
        ({"classes": (7,)}, five(), r"no image of random has \{'classes': \[7\]\}; expected at least one"),
        ({"classes": (0,), "folders": ("4",)}, five(), r"random has no folder '4' with images; it has a, ab, b"),
        (
            {"classes": (0,)},
            ImageData(torch.zeros(2, 1, 2, 2).long(), 4, None, "bare"),
            r"bare has no labels; give data with labels",
        ),
        ({"folders": ("a",)}, random(), r"random does not tell its files; give data of type folder or lsun_church"),
        ({"attributes": {"tall": True}}, five(), r"no attribute 'tall'; did you mean 'Tall'\?; it has Tall, Even"),
        ({"attributes": {"Tall": True}}, random(), r"random has no attribute 'Tall'; give data that have, e.g. type: celeba_hq"),
    ],
)
def test_what_the_data_lack_is_told(chosen, data, message):
    with pytest.raises(DataError, match=message) as caught:
        Slice(**chosen).members(data)
    assert "\n" not in str(caught.value)


def test_medians_are_of_images_of_the_same_kind():
    with pytest.raises(
        DataError, match=r"images of random are \[3, 5, 4\], those of the reference random \[3, 4, 4\]; make them alike"
    ):
        Slice(texture="low").members(random(), random(shape=(3, 4, 4)))
    with pytest.raises(DataError, match=r"\[3, 5, 4\] without levels"):
        Slice(texture="low").members(random(), random(levels=None))
    assert Slice(classes=(0,)).members(random(), random(shape=(3, 4, 4))).any()  # which asks for no median


def test_slices_say_something_and_nothing_unknown():
    with pytest.raises(ValidationError, match="expected at least one of classes, colour_variance, texture"):
        Slice()
    for wrong in (
        {"classes": ()},
        {"classes": (-1,)},
        {"texture": "middle"},
        {"attributes": {}},
        {"folders": ("",)},
        {"colour": "low"},
    ):
        with pytest.raises(ValidationError):
            Slice(**wrong)
    assert Slice(classes=(3, 1), texture="low").told == {"classes": [3, 1], "texture": "low"}


def test_names_and_attributes_are_one_an_image():
    with pytest.raises(DataError, match="dataset random: 4 names of 5 images"):
        random(5, names=FILES[:4])
    with pytest.raises(DataError, match=r"attribute 'Tall' is torch.bool \[4\], expected bool \[5\]"):
        random(5, attributes={"Tall": TALL[:4]})
    with pytest.raises(DataError, match=r"attribute 'Tall' is torch.int64 \[5\]"):
        random(5, attributes={"Tall": TALL.long()})


def test_a_statistic_is_computed_once_for_all_slices(monkeypatch):
    asked = []
    monkeypatch.setitem(STATISTICS, "texture", lambda data: asked.append(data.name) or texture(data))
    data = random(6)
    low, high = Slice(texture="low").members(data), Slice(texture="high", classes=(0, 1, 2)).members(data)
    assert asked == ["random"]
    assert torch.equal(low, ~high)
    part = data.take(torch.tensor([0, 5]))
    assert int(Slice(texture="low").members(part).sum()) == 1  # of these two alone: nothing is kept of the six
    assert asked == ["random", "random"]
