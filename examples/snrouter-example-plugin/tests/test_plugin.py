"""The contract suite of snrouter on each extension, and what is particular to each."""

import pytest
import torch
from snrouter.errors import SpecError
from snrouter.experts.gaussian import Gaussian
from snrouter.testing import DatasetContract, ExpertContract, MetricContract, PolicyContract, SolverContract

from snrouter_example_plugin.midpoint import Midpoint
from snrouter_example_plugin.sandwich import Sandwich
from snrouter_example_plugin.sharpness import Sharpness, sharpness
from snrouter_example_plugin.stripes import stripes
from snrouter_example_plugin.wiener import Wiener


class TestWiener(ExpertContract):
    shape = (2, 6, 5)

    def make(self):
        return Wiener(exponent=2.0, mean=0.1)


class TestSandwich(PolicyContract):
    def make(self):
        return Sandwich(inner="a", outer="b", lo=-5.0, hi=1.0)


class TestMidpoint(SolverContract):
    order, tolerance = 2, 2e-2

    def make(self, steps):
        return Midpoint(steps)


class TestStripes(DatasetContract):
    def make(self):
        return stripes(count=20)


class TestSharpness(MetricContract):
    def make(self):
        return Sharpness(samples=12)


def test_wiener_is_the_gaussian_with_its_spectrum():
    expert, basis = Wiener(exponent=3.0, mean=0.2, standard_deviation=0.4), torch.eye(20, dtype=torch.float64)
    columns = torch.fft.fft2(basis.reshape(20, 1, 4, 5)) * expert.spectrum(basis.reshape(20, 1, 4, 5))
    covariance = torch.fft.ifft2(columns).real.reshape(20, 20)
    assert covariance.diagonal().sqrt() == pytest.approx([0.4] * 20)
    oracle = Gaussian(torch.full((1, 4, 5), 0.2, dtype=torch.float64), covariance)
    z = torch.randn(7, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gamma in (-10.0, 0.0, 6.0):
        for got, wanted in zip(expert(z, gamma)[:2], oracle(z, gamma)[:2], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_a_sandwich_upside_down_is_refused():
    with pytest.raises(SpecError, match="lo below hi"):
        Sandwich(inner="a", outer="b", lo=1.0, hi=-5.0)


def test_stripes_are_constant_along_their_direction_and_keyed_by_index():
    data = stripes(count=20)
    down, across = (data.images().diff(dim=axis).abs().amax((1, 2, 3)) for axis in (2, 3))
    assert torch.equal(torch.where(data.labels == 1, down, across), torch.zeros(20))
    assert torch.equal(stripes(count=5).pixels, data.pixels[:5])


def test_sharpness_of_a_checkerboard_and_of_a_plain_image():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((rows + columns) % 2).double()
    assert sharpness(torch.stack([board, 0 * board])[:, None]).tolist() == [1.0, 0.0]
