"""A metric of images by itself."""

import math

import pytest
import torch
from torch import Tensor, nn

import snrouter
from snrouter.data.base import ImageData
from snrouter.errors import DataError, SpecError
from snrouter.metrics.bits_per_dim import BitsPerDim
from snrouter.metrics.frechet import Frechet, frechet_distance
from snrouter.metrics.nearest_neighbour import NearestNeighbour
from snrouter.metrics.pairs import PSNR


def images(n: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) - 1


def test_a_network_and_two_sets_of_images_are_enough():
    found = snrouter.measure(Frechet(features=nn.Flatten()), images(50), images(60, 1))
    assert found.value == pytest.approx(frechet_distance(images(50).flatten(1), images(60, 1).flatten(1))[0], rel=1e-12)
    assert found.protocol["reference_n"] == 60
    levels = torch.randint(256, (60, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    data = ImageData(levels.to(torch.uint8), 256, None, "levels")
    assert snrouter.measure(Frechet(features=nn.Flatten()), data, data).value == pytest.approx(0, abs=1e-12)


def test_pairs_are_images_beside_the_data():
    found = snrouter.measure(PSNR(), images(5), data=0.9 * images(5))
    assert len(found.influence) == 5
    with pytest.raises(DataError, match="give pairs"):
        snrouter.measure(PSNR(images=4), images(3), data=images(4))


def test_what_would_be_measured_wrongly_is_refused():
    with pytest.raises(DataError, match=r"images: expected floats \[n, C, H, W\] in \[-1, 1\], got torch.uint8"):
        snrouter.measure(Frechet(features=nn.Flatten()), torch.zeros(3, 1, 2, 2, dtype=torch.uint8), images(5))
    with pytest.raises(DataError, match="reference: expected floats"):
        snrouter.measure(Frechet(features=nn.Flatten()), images(5), 255 * images(5))
    with pytest.raises(DataError, match="images: NaN or infinite pixels"):
        snrouter.measure(PSNR(), ImageData(math.nan * images(5), None, None, "nan"), data=images(5))
    with pytest.raises(DataError, match=r"data: expected floats .* from -\d+\.\d+ to \d+"):
        snrouter.measure(PSNR(), images(5), data=ImageData(9 * images(5), None, None, "wide"))
    with pytest.raises(SpecError, match=r"samples and reference: images \[1, 2, 2\] and \[1, 2, 1\]; expected one shape"):
        snrouter.measure(NearestNeighbour(), images(5), images(5)[..., :1])
    with pytest.raises(SpecError, match="measure: 50 images, of which the metric takes 40"):
        snrouter.measure(Frechet(features=nn.Flatten(), samples=40), images(50), images(50))
    with pytest.raises(SpecError, match="needs the spec's `reference`"):
        snrouter.measure(Frechet(features=nn.Flatten()), images(50))
    with pytest.raises(SpecError, match="BitsPerDim measures an expert or a route"):
        snrouter.measure(BitsPerDim(), images(5))
