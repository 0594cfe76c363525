"""All pairs in blocks: what a whole matrix gives, whatever the size of a block, and copies at no distance."""

import pytest
import torch
from torch import Tensor

from snrouter.metrics import blocks
from snrouter.metrics.blocks import device, nearest, on_cpu, pairs, squared_distances


def normal(n: int, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[7, 2048])
def size(request, monkeypatch) -> int:
    monkeypatch.setattr(blocks, "BLOCK", request.param)
    return request.param


@pytest.mark.usefixtures("size")
def test_distances_are_those_of_all_pairs():
    x, y = normal(20) + 1e6, normal(33, seed=1) + 1e6  # far from zero, where |x|^2 would take all digits
    found = torch.full((20, 33), torch.nan, dtype=torch.float64)
    for rows, columns, block in squared_distances(x, y):
        found[rows, columns] = block
    torch.testing.assert_close(found, torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square(), rtol=1e-9, atol=0)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_nearest_are_those_of_a_sorted_row(k):
    x, y = normal(20), normal(33, seed=1)
    squares, which = nearest(x, y, k)
    wanted = torch.cdist(x, y).square().sort(1)
    torch.testing.assert_close(squares, wanted.values[:, :k])
    assert torch.equal(which, wanted.indices[:, :k])


def test_copies_are_at_no_distance():
    rows = normal(40, 64).repeat(3, 1)
    squares, _ = nearest(rows, rows, 4)
    assert bool((squares[:, :3] == 0).all())
    assert bool((squares[:, 3] > 0).all())


def test_wide_rows_come_in_smaller_blocks_and_float32_is_computed_in_float64(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_NUMBERS", 40)
    found = [(pair.x.shape, pair.y.shape, pair.x.dtype) for pair in pairs(normal(15).float(), normal(12))]
    assert found == [((10, 4), (10, 4), torch.float64), ((5, 4), (10, 4), torch.float64)] + [
        ((n, 4), (2, 4), torch.float64) for n in (10, 5)
    ]


def test_an_accelerator_can_be_kept_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device().type == "cuda"
    with on_cpu():
        assert device().type == "cpu"
    assert device().type == "cuda"
