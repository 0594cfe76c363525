"""ImageData: hash, statistics and protocol computed once and right; datasets of torch become one."""

import hashlib
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from snrouter.data import base
from snrouter.data.base import ImageData, from_levels
from snrouter.errors import DataError


def levels(count: int, shape=(3, 4, 4), top: int = 256) -> torch.Tensor:
    return torch.randint(top, (count, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_the_hash_is_of_all_bytes_whatever_the_chunks(monkeypatch):
    pixels, labels = levels(7), torch.arange(7)
    whole = hashlib.sha256(b"[7, 3, 4, 4] torch.uint8 256" + pixels.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    monkeypatch.setattr(base, "CHUNK", 3 * 48)
    assert ImageData(pixels, 256, labels, "x").content_hash() == whole
    strided = pixels.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    assert ImageData(strided, 256, labels, "x").content_hash() == whole


def test_images_are_the_centres_whatever_the_chunks(monkeypatch):
    data = ImageData(levels(7), 256, None, "x")
    monkeypatch.setattr(base, "CHUNK", 3 * 48)
    for indices in (slice(None), [4, 0], slice(0, 0), range(2, 7)):
        assert torch.equal(data.images(indices), from_levels(data.pixels[indices], 256))
    assert data.images([0], torch.float64).dtype == torch.float64


def test_hash_and_statistics_are_computed_once_and_travel(monkeypatch):
    data = ImageData(levels(5), 256, None, "x", {"source": "here"})
    told = data.content_hash(), data.statistics
    monkeypatch.setattr(torch, "split", None)  # a second pass over the pixels would call it
    assert (data.content_hash(), data.statistics) == told
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.content_hash(), copy.statistics, copy.protocol) == (*told, {"source": "here"})


def test_a_histogram_counts_every_pixel_of_each_channel_whatever_the_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 3 * 48)
    data = ImageData(levels(10, top=17), 18, None, "x")
    histogram = data.level_histogram()
    assert histogram.tolist() == [[int((channel == k).sum()) for k in range(18)] for channel in data.pixels.transpose(0, 1)]
    assert histogram.sum(1).tolist() == [160] * 3
    with pytest.raises(DataError, match="dataset x: continuous pixels have no histogram of levels; expected level indices"):
        ImageData(data.images(), None, None, "x").level_histogram()


def test_statistics_are_those_of_the_images(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 3 * 48)
    pixels = levels(10, top=17)
    pixels[:, 1] = 3
    data = ImageData(pixels, 17, None, "x")
    images = data.images(dtype=torch.float64)
    assert data.statistics["mean"] == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.statistics["standard_deviation"] == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    assert data.statistics["standard_deviation"][1] == 0
    assert (data.statistics["min"], data.statistics["max"]) == (int(pixels.min()), int(pixels.max()))
    continuous = ImageData(images * 3, None, None, "x").statistics
    assert continuous["mean"] == pytest.approx((3 * images.mean((0, 2, 3))).tolist(), abs=1e-6)
    assert continuous["max"] == pytest.approx(3 * float(images.max()))


class Items:
    """A map-style dataset that never raises IndexError, as many do not."""

    def __init__(self, make, count=4):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


PIXELS = levels(4)
FORMS = {
    "levels": lambda i: PIXELS[i],
    "wide levels": lambda i: PIXELS[i].to(torch.int32),
    "to tensor": lambda i: PIXELS[i].float() / 255,
    "half": lambda i: PIXELS[i].double() / 255 + 9e-5 * math.cos(i),
    "PIL": lambda i: Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()),
    "pairs": lambda i: (PIXELS[i].float() / 255, 5 - i),
    "pairs of tensors": lambda i: [PIXELS[i], torch.tensor(5 - i)],
    "pairs of numpy": lambda i: (PIXELS[i], np.int64(5 - i)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_torch_dataset_gives_its_levels(form):
    data = ImageData.from_dataset(Items(FORMS[form]), name="mine")
    assert torch.equal(data.pixels.long(), PIXELS.long())
    assert data.levels == 256
    assert data.name == "mine"
    assert torch.allclose(data.images(), from_levels(PIXELS, 256))
    if "pairs" in form:
        assert data.labels.tolist() == [5, 4, 3, 2]
        assert data.labels.dtype == torch.int64
    else:
        assert data.labels is None


def test_torch_datasets_of_other_levels_and_gray_images():
    gray = ImageData.from_dataset(Items(lambda i: Image.fromarray(PIXELS[i, 0].numpy())))
    assert torch.equal(gray.pixels, PIXELS[:, :1])
    few = levels(4, top=17)
    assert torch.equal(ImageData.from_dataset(Items(lambda i: few[i].float() / 16), levels=17).pixels, few)
    subset = torch.utils.data.Subset(torch.utils.data.TensorDataset(PIXELS, torch.arange(4)), [3, 1])
    assert torch.equal(ImageData.from_dataset(subset).pixels, PIXELS[[3, 1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: PIXELS[i] / 127.5 - 1, r"item 0 spans \[-0\.9.*\] .* leave Normalize"),
        (lambda i: PIXELS[i] / 256, "off the levels k/255"),
        (lambda i: PIXELS[i] / 255 * (torch.nan if i == 2 else 1), "item 2 .* off the levels"),
        (lambda i: PIXELS[i, 0], r"torch.uint8 \[4, 4\]; expected a PIL image or a tensor \[C, H, W\]"),
        (lambda i: PIXELS[i].numpy(), "is ndarray; expected a PIL image or a tensor"),
        (lambda i: Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()).convert("P"), "mode 'P'; expected RGB or L"),
        (lambda i: PIXELS[i, :, : 4 - i // 3], r"item 3 is \[3, 3, 4\], item 0 \[3, 4, 4\]"),
        (lambda i: (PIXELS[i], 0.5), "item 0 has the label 0.5; expected a whole number"),
        (lambda i: (PIXELS[i], torch.arange(2)), "expected a whole number"),
        (lambda i: (PIXELS[i], 1, 2), "item 0 has 3 parts"),
        (lambda i: (PIXELS[i], 1) if i else PIXELS[i], "3 of 4 items have a label"),
        (lambda i: PIXELS[i].int() + 256 * (i == 2) if i else PIXELS[i], "item 2 has levels from 2.. to"),
        (lambda i: PIXELS[i].int() - 1, "item 2 has levels from -1 to .*, expected 0 to 255"),
    ],
)
def test_a_torch_dataset_that_has_no_levels_is_refused(make, message):
    with pytest.raises(DataError, match=message) as caught:
        ImageData.from_dataset(Items(make), name="mine")
    assert "dataset mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_torch_dataset_is_refused():
    with pytest.raises(DataError, match="no items"):
        ImageData.from_dataset(Items(FORMS["levels"], 0))
