"""Metrics of pairs: torchmetrics' numbers pair by pair, on pixels as such numbers are published, and finite where images agree."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from snrouter.data.base import ImageData, from_levels
from snrouter.draws import Draws
from snrouter.errors import SpecError
from snrouter.gamma import GammaInterval
from snrouter.metrics.base import Context
from snrouter.metrics.pairs import BLOCK, PSNR, SSIM
from snrouter.solvers.ode import ODE


def levels(n, shape=(3, 16, 16), count=256, purpose="pixels"):
    return (count * Draws(0).uniform(purpose, range(n), shape)).to(torch.uint8)


def near(pixels, count=256, by=9):
    """The same images, each level moved at random by up to `by`."""
    move = ((2 * by + 1) * Draws(0).uniform("move", range(len(pixels)), pixels.shape[1:])).floor() - by
    return (pixels + move).clamp(0, count - 1)


def context(pixels=None, count=256):
    data = None if pixels is None else ImageData(pixels, count, None, "noise")
    return Context(GammaInterval(-8.0, 4.0), ODE(), data, None, 0)


def continuous(values):
    return context()._replace(data=ImageData(values, None, None, "continuous"))


def summary(metric, ours, others, count=256):
    measured = {"images": from_levels(ours, count, torch.float64), "others": from_levels(others, count, torch.float64)}
    return metric.summarise(context(levels(len(ours), tuple(ours.shape[1:]), count), count), measured)


def test_they_are_torchmetrics_of_each_pair_on_levels_over_255():
    ours = levels(BLOCK + 3)
    others = near(ours)
    x, y = ours.double() / 255, others / 255
    ssim = [structural_similarity_index_measure(a[None], b[None], data_range=1.0) for a, b in zip(x, y, strict=True)]
    psnr = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)]
    for metric, wanted in ((SSIM(), torch.stack(ssim)), (PSNR(), torch.stack(psnr))):
        found = summary(metric, ours, others)
        torch.testing.assert_close(found.influence + found.value, wanted, rtol=1e-9, atol=1e-9)
        assert found.value == pytest.approx(float(wanted.mean()), rel=1e-9)
        assert found.standard_error == pytest.approx(float(wanted.std()) / math.sqrt(len(wanted)), rel=1e-9)


def test_psnr_of_one_level_everywhere_is_that_of_8_bits():
    ours = levels(4, (1, 8, 8)) // 2
    assert summary(PSNR(), ours, ours.double() + 1).value == pytest.approx(20 * math.log10(255))


@pytest.mark.parametrize("error", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_images_off_their_levels_have_the_psnr_of_their_error(error):
    """However near they come, as with `final: none`."""
    original = from_levels(levels(5, (1, 8, 8), 17), 17)
    measured = {"images": original + error * (2 * (levels(5, (1, 8, 8), 2, "sign") > 0) - 1), "others": original}
    found = PSNR().summarise(context(levels(5, (1, 8, 8), 17), 17), measured)
    assert found.value == pytest.approx(-20 * math.log10(error / 2 * 17 / 16), abs=0.02)
    assert found.columns["identical"] == 0


def test_identical_images_off_their_levels_count_as_float32s_rounding_and_no_less_than_near_ones():
    original = from_levels(levels(3, (1, 8, 8), 17), 17) + 0.001
    others = original.double()
    others[1] += 1e-9  # what float32 cannot tell
    others[2] += 1e-6
    found = PSNR().summarise(context(levels(3, (1, 8, 8), 17), 17), {"images": original, "others": others})
    cap, near = 20 * math.log10(2**24), -20 * math.log10(1e-6 / 2 * 17 / 16)
    torch.testing.assert_close(found.influence + found.value, torch.tensor([cap, cap, near], dtype=torch.float64))
    assert found.columns["identical"] == 2


def test_identical_images_count_as_one_value_a_level_off_and_are_told():
    """The least that images on their levels can differ by; so no finite PSNR is cut."""
    ours = levels(3, (1, 8, 8), 17) // 2
    others = ours.double()
    others[2, 0, 3, 3] += 1
    found = summary(PSNR(), ours, others, 17)
    values = found.influence + found.value
    torch.testing.assert_close(values, torch.full((3,), 10 * math.log10(16**2 * 64), dtype=torch.float64))
    assert found.columns["identical"] == 2
    assert found.protocol["identical_images"] == "as if one value were one level off; off levels, 144.5"
    assert summary(SSIM(), ours[:2], others[:2], 17).value == pytest.approx(1)


@pytest.mark.parametrize(("side", "window"), [(8, 7), (7, 7), (11, 11), (16, 11)])
def test_the_window_is_11_or_the_largest_that_the_image_holds(side, window):
    ours = levels(3, (1, side, side))
    found = summary(SSIM(), ours, near(ours))
    assert found.protocol["window"] == window
    assert found.value == summary(SSIM(window=window), ours, near(ours)).value


@pytest.mark.parametrize("window", range(3, 43, 2))
def test_torchmetrics_makes_the_window_that_was_asked_for(window, monkeypatch):
    """It derives the side from the standard deviation; a delta image shows how far the window reaches."""
    seen = []
    from torchmetrics.functional.image import ssim as theirs

    kernel = theirs._gaussian_kernel_2d
    monkeypatch.setattr(theirs, "_gaussian_kernel_2d", lambda c, side, *rest: seen.append(side) or kernel(c, side, *rest))
    images = torch.zeros(1, 1, 44, 44, dtype=torch.float64)
    SSIM(window=window).compare(images, images, 256)
    assert seen == [[window, window]]


def test_a_rows_columns_say_what_was_compared():
    ours = levels(4)
    assert summary(SSIM(), ours, near(ours)).columns == {"pairs": "reconstruction", "identical": 0}
    told = summary(SSIM(pairs="same_noise", against="quality"), ours, near(ours)).columns
    assert told == {"pairs": "same_noise", "against": "quality", "identical": 0}


def test_only_the_pairs_asked_for_count():
    ours = levels(6)
    first, all_of_them = (summary(PSNR(images=images), ours, near(ours)) for images in (4, None))
    torch.testing.assert_close(first.influence + first.value, (all_of_them.influence + all_of_them.value)[:4])


def test_how_many_pairs():
    data = context(levels(30))
    assert PSNR().count(data) == 30
    assert PSNR(images=7).count(data) == 7
    assert PSNR(pairs="same_noise", against="a").count(context()) == 2000
    assert PSNR(pairs="same_noise", against="a", images=70).count(data) == 70  # samples there are as many as one wants


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PSNR(pairs="same_noise"), "pairs: same_noise needs the route to compare with; add e.g. against: quality"),
        (lambda: PSNR(against="quality"), "against: quality: .*leave it out, or set pairs: same_noise"),
        (lambda: PSNR(images=0), "images: expected at least 1, got 0"),
        (lambda: PSNR(images=31).count(context(levels(30))), "images: expected 1 to 30, the size of the data; got 31"),
        (lambda: PSNR().count(context()), "needs the spec's `data`"),
        (lambda: PSNR().count(continuous(torch.tensor([[-5.0, 3]]))), r"continuous: values from -5 to 3; .* in \[-1, 1\], map"),
        (lambda: PSNR().count(continuous(torch.tensor([[0, math.nan]]))), "continuous: values from nan to nan"),
        (lambda: PSNR(pairs="same_noise", against="a").count(continuous(torch.tensor([[2.0]]))), "values from 2 to 2"),
        (lambda: SSIM(pairs="same_noise", against="a").count(context()._replace(shape=(1, 2, 8))), "do not hold a window of 3"),
        (lambda: SSIM(window=8), "window: expected an odd number from 3 to 41, got 8"),
        (lambda: SSIM(window=9).count(context(levels(3, (1, 8, 8)))), r"\[1, 8, 8\] do not hold a window of 9; .* up to 8"),
        (lambda: SSIM().count(context(levels(3, (1, 2, 8)))), r"\[1, 2, 8\] do not hold a window of 3; expected a larger image"),
        (lambda: summary(SSIM(window=13), levels(2, (1, 9, 9)), levels(2, (1, 9, 9))), "do not hold a window of 13"),
    ],
)
def test_what_cannot_be_compared_is_refused_when_jobs_are_planned(make, message):
    with pytest.raises(SpecError, match=message):
        make()
