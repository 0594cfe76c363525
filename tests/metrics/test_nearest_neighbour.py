"""Nearest neighbours: found exactly, in blocks; copies, near copies and leaked test images are told from honest ones."""

import math

import pytest
import torch
from torch import nn

from snrouter.data.base import ImageData, from_levels
from snrouter.data.digits import digits
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics import blocks, nearest_neighbour
from snrouter.metrics.base import Context
from snrouter.metrics.nearest_neighbour import NearestNeighbour, nearest
from snrouter.metrics.references import drawn
from snrouter.solvers.ode import ODE

TRAIN, TEST = digits("train"), digits("test")


def context(data=TEST, reference=TRAIN):
    return Context(GammaInterval(-8.0, 4.0), ODE(), data, reference, 0)


def of_digits(images, data=TEST, **arguments):
    return NearestNeighbour(**arguments).summarise(context(data), {"images": images})


def moved(images, by, purpose="move"):
    return images + by * Draws(1).normal(purpose, range(len(images)), images.shape[1:]).float()


class TestSearch:
    @pytest.fixture
    def sets(self):
        draws = Draws(0)
        return draws.normal("x", range(50), (12,)), draws.normal("y", range(83), (12,))

    @pytest.mark.parametrize(("block", "numbers"), [(1024, 2**23), (7, 12 * 9), (64, 1)])
    def test_it_is_brute_force_whatever_the_blocks(self, sets, block, numbers, monkeypatch):
        monkeypatch.setattr(blocks, "BLOCK", block)
        monkeypatch.setattr(blocks, "BLOCK_NUMBERS", numbers)
        x, y = sets
        wanted = (x[:, None] - y).square().mean(2).sqrt().sort(1)
        got = nearest(x, y)
        assert got.which.tolist() == wanted.indices[:, 0].tolist()
        torch.testing.assert_close(got.distance, wanted.values[:, 0])
        torch.testing.assert_close(got.ratio, wanted.values[:, 0] / wanted.values[:, 9])

    def test_distances_to_copies_do_not_cancel(self, sets):
        """Far from the origin |x|^2 + |y|^2 - 2 x.y keeps none of a difference of 1e-9; the distance does."""
        _, y = sets
        y = y + 1000
        x = y.clone()
        x[1, 0] += 1e-9
        got = nearest(x, y)
        assert got.which.tolist() == list(range(83))
        assert float(got.distance[0]) == 0
        assert float(got.distance[1]) == pytest.approx(float((x[1, 0] - y[1, 0]) / math.sqrt(12)), rel=1e-9)

    def test_of_fewer_than_ten_the_last_stands_in(self, sets):
        x, y = sets
        got = nearest(x, y[:4])
        wanted = (x[:, None] - y[:4]).square().mean(2).sqrt().sort(1).values
        torch.testing.assert_close(got.ratio, wanted[:, 0] / wanted[:, 3])
        assert not nearest(x, y[:1]).is_copy.any()
        assert nearest(y[:1], y[:1]).is_copy.all()


class TestSamples:
    def test_the_value_is_the_mean_distance_with_its_error(self):
        found = of_digits(TEST.images())
        pixels = (TEST.images().double().flatten(1)[:, None] - TRAIN.images().double().flatten(1)).square().mean(2).sqrt()
        each = pixels.min(1).values
        assert found.value == pytest.approx(float(each.mean()), rel=1e-9)
        assert found.standard_error == pytest.approx(float(each.std()) / 20, rel=1e-9)
        torch.testing.assert_close(found.influence, each - each.mean())

    def test_training_images_are_exact_copies(self):
        found = of_digits(TRAIN.images()[:300])
        assert found.value == 0
        assert found.columns["exact_copies"] == 300
        assert found.columns["near_copies"] == 0
        assert found.columns["copies"] == 1

    def test_perturbed_training_images_are_near_copies(self):
        found = of_digits(moved(TRAIN.images()[:300], 0.06))
        assert found.columns["exact_copies"] == 0
        assert found.columns["near_copies"] >= 297
        assert found.columns["copies"] == 1
        assert found.value == pytest.approx(0.06, rel=0.02)

    def test_honest_images_are_no_copies_but_for_the_percentile_of_them(self):
        found = of_digits(TEST.images()[200:], ImageData(TEST.pixels[:200], 17, None, "half"))
        assert (found.columns["exact_copies"], found.columns["near_copies"]) == (0, 0)
        assert found.columns["copies"] < 0.04
        difference = found.value - found.columns["test_distance"]
        assert abs(difference) < 4 * math.hypot(found.standard_error, found.columns["test_standard_error"])

    def test_a_few_copies_among_honest_images_are_counted_and_shown_first(self):
        images = TEST.images().clone()
        images[[17, 80]] = TRAIN.images()[[5, 900]]
        images[33] = moved(TRAIN.images()[7:8], 0.03)[0]
        found = of_digits(images)
        assert (found.columns["exact_copies"], found.columns["near_copies"]) == (2, 1)
        assert found.columns["copies"] == pytest.approx(3 / 400 + 0.01, abs=0.003)
        shown = found.pictures["samples beside their nearest training images"]
        assert shown.shape == (8, 2, 1, 8, 8)
        for column, wanted in ((0, images[[17, 80, 33]]), (1, TRAIN.images()[[5, 900, 7]])):
            torch.testing.assert_close(shown[:3, column], wanted)

    @pytest.mark.parametrize("times", [1, 2, 9, 10, 20])
    @pytest.mark.parametrize("features", [None, nn.Flatten()])
    def test_copies_of_images_that_the_training_set_holds_several_times_are_seen(self, times, features):
        pixels = torch.cat([TRAIN.pixels[:7].repeat_interleave(times, 0), TRAIN.pixels[7:]])
        measured = {"images": moved(TRAIN.images()[:7], 0.03)}
        again = context(reference=ImageData(pixels, 17, None, "again"))
        found = NearestNeighbour(features=features).summarise(again, measured)
        assert found.columns["exact_copies"] + found.columns["near_copies"] == 7
        assert found.columns["near_copies"] > 3
        (shown,) = found.pictures.values()
        assert float((shown[:, 0] - shown[:, 1]).abs().max()) < 0.2  # each beside its own

    @pytest.mark.parametrize("features", [None, nn.Flatten()])
    def test_samples_are_compared_with_some_reference_images_where_asked(self, features):
        (left_out,) = {*range(1397)} - {*drawn(TRAIN, 1396, 0).tolist()}  # which 500 leave out too
        images = torch.cat([TEST.images()[:20], TRAIN.images()[[left_out]]])
        of_digits(images, features=features)  # whose distances of the data are others
        found = of_digits(images, features=features, reference_samples=500)
        ours, unseen = (
            (some.flatten(1)[:, None] - TRAIN.images(drawn(TRAIN, 500, 0).tolist()).flatten(1))
            .square()
            .mean(2)
            .sqrt()
            .min(1)
            .values.double()
            for some in (images, TEST.images())
        )
        torch.testing.assert_close(found.influence + found.value, ours)
        assert found.columns["test_distance"] == pytest.approx(float(unseen.mean()))
        assert found.columns["exact_copies"] == 1  # which are looked for among all
        assert found.protocol["reference_n"] == 500

    def test_only_the_samples_asked_for_count(self):
        whole, part = of_digits(TEST.images()), of_digits(TEST.images(), samples=50)
        torch.testing.assert_close(part.influence + part.value, (whole.influence + whole.value)[:50])

    def test_without_data_copies_are_still_counted(self):
        found = of_digits(TRAIN.images()[:5], None)
        assert found.columns == {"features": "pixels", "exact_copies": 5, "near_copies": 0}
        assert "unseen" not in found.protocol


class TestLeaks:
    def test_a_test_image_that_is_in_train_is_told_and_is_not_unseen(self):
        leaked = ImageData(torch.cat([TRAIN.pixels[40:43], TEST.pixels]), 17, None, "leaked")
        clean, found = (of_digits(TEST.images()[:20], data).columns for data in (TEST, leaked))
        assert (clean["overlap_exact"], clean["overlap_near"]) == (0, 0)
        assert (found["overlap_exact"], found["overlap_near"]) == (3, 0)
        assert found["test_distance"] == pytest.approx(clean["test_distance"])

    def test_a_nearly_identical_one_is_near(self):
        pixels = TRAIN.pixels[60:62].clone()
        pixels[:, 0, 3] = torch.where(pixels[:, 0, 3] > 8, pixels[:, 0, 3] - 1, pixels[:, 0, 3] + 1)
        found = of_digits(TEST.images()[:20], ImageData(torch.cat([pixels, TEST.pixels]), 17, None, "nearly")).columns
        assert (found["overlap_exact"], found["overlap_near"]) == (0, 2)

    def test_where_the_data_are_the_training_images_nothing_is_unseen(self):
        found = of_digits(TEST.images()[:20], TRAIN).columns
        assert found["overlap_exact"] == len(TRAIN)
        assert not {"test_distance", "copies"} & found.keys()

    def test_the_datas_side_is_computed_once_for_all_routes(self, monkeypatch):
        calls = []
        monkeypatch.setattr(nearest_neighbour, "_UNSEEN", {})
        monkeypatch.setattr(nearest_neighbour, "nearest", lambda *sets: calls.append(len(sets[0])) or nearest(*sets))
        for samples in (11, 12):
            of_digits(TEST.images()[:samples])
        assert sorted(calls) == [11, 12, 400]


class Halves(nn.Module):
    """Means of the upper and the lower half."""

    def forward(self, images):
        return images.unflatten(2, (2, -1)).mean((1, 3, 4))


def test_distances_are_measured_in_features_where_asked():
    network = Halves().eval()
    found = of_digits(TEST.images(), features=network)
    ours, theirs = (network(data.images().double()) for data in (TEST, TRAIN))
    wanted = (ours[:, None] - theirs).square().mean(2).sqrt().min(1).values
    assert found.value == pytest.approx(float(wanted.mean()), rel=1e-4)
    assert found.columns["features"] != "pixels"
    assert found.protocol["distance"] == "root mean square over features"


def test_samples_between_levels_are_exact_copies_by_their_nearest_level():
    images = from_levels(TRAIN.pixels[:4], 17) + 0.02  # what `final: none` gives of them
    assert of_digits(images).columns["exact_copies"] == 4


@pytest.mark.parametrize(
    ("arguments", "changed", "message"),
    [
        ({"samples": 0}, {}, "samples: expected at least 1, got 0"),
        ({}, {"reference": None}, "needs the spec's `reference`"),
        ({"sha256": "00"}, {}, "pixels need no network; leave it out, or name features"),
        ({"features": "inception"}, {}, "features: inception are read from a file"),
        ({}, {"data": ImageData(torch.zeros(2, 3, 8, 8), 17, None, "colour")}, r"data .*: images \[3, 8, 8\] and \[1, 8, 8\]"),
        ({}, {"shape": (3, 8, 8)}, r"samples and reference: images \[3, 8, 8\] and \[1, 8, 8\]; expected one shape"),
        ({"reference_samples": 1398}, {}, "reference_samples: expected 1 to 1397, the size of the reference; got 1398"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(arguments, changed, message):
    with pytest.raises(SpecError, match=message):
        NearestNeighbour(**arguments).count(context()._replace(**changed))
