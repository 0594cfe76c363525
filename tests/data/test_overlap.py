"""Images in two sets at once are found, every one and no other."""

import torch

from snrouter.data.base import ImageData
from snrouter.data.digits import digits
from snrouter.data.overlap import distinct, identical
from snrouter.draws import Draws


def noise(n, levels=17, dtype=torch.uint8, start=0):
    pixels = (levels * Draws(0).uniform("pixels", range(start, start + n), (1, 8, 8))).floor()
    return ImageData(pixels.to(dtype), levels, None, "noise")


def test_an_image_that_was_swapped_in_is_found_and_one_that_differs_in_a_level_is_not():
    train, test = noise(30), noise(20, start=30)
    assert not identical(test, train).any()
    test.pixels[4], test.pixels[7] = train.pixels[11], train.pixels[11]
    test.pixels[9] = train.pixels[3]
    test.pixels[9, 0, 7, 7] ^= 1
    assert identical(test, train).nonzero().flatten().tolist() == [4, 7]


def test_how_pixels_are_stored_does_not_matter_and_what_they_mean_does():
    ours = noise(12)
    assert identical(ours, noise(12, dtype=torch.int64)).all()
    transposed = ImageData(ours.pixels.transpose(2, 3).contiguous().transpose(2, 3), 17, None, "strided")
    assert identical(ours, transposed).all()
    assert not identical(ours, ImageData(ours.pixels, 256, None, "other levels")).any()
    assert not identical(ours, ImageData(ours.pixels.reshape(12, 1, 4, 16), 17, None, "another shape")).any()


def test_of_images_that_are_alike_the_first_is_distinct():
    pixels = torch.tensor([3, 1, 3, 3, 2, 1]).view(6, 1, 1, 1).expand(6, 1, 2, 2)
    assert distinct(ImageData(pixels, 4, None, "six")).tolist() == [0, 1, 4]


def test_no_digit_is_in_both_splits():
    assert not identical(digits("test"), digits("train")).any()
