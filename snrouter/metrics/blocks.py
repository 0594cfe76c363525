"""All pairs of two sets of rows, a block at a time, in float64 on the device that computes: never more than a block is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

BLOCK, BLOCK_NUMBERS = 2048, 2**23
"""The most rows of either set in a block, and the most numbers in them."""

ROUNDING = 1e-12
"""The part of |x|^2 + |y|^2 below which a squared distance is rounding, and zero."""


class Rows(Protocol):
    """Rows of numbers [n, F]: a tensor, or what reads some of them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> Tensor: ...


class Pairs(NamedTuple):
    """Some rows of two sets, each with each.

    Attributes:
        rows: which of the first set.
        columns: which of the second.
        x: these rows, float64 [r, F], on `device()`.
        y: those, float64 [c, F].
    """

    rows: slice
    columns: slice
    x: Tensor
    y: Tensor


_on_cpu = False


def device() -> torch.device:
    """Where metrics compute: an accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() and not _on_cpu else "cpu")


@contextmanager
def on_cpu() -> Iterator[None]:
    """Keep off accelerators for a while, e.g. in a process that has not been given its own yet."""
    global _on_cpu
    before, _on_cpu = _on_cpu, True
    try:
        yield
    finally:
        _on_cpu = before


def pairs(x: Rows, y: Rows) -> Iterator[Pairs]:
    """All pairs of rows [n, F] and [m, F]; the second set is read once, the first for each block of it."""
    size = max(1, min(BLOCK, BLOCK_NUMBERS // y[:1].shape[1]))
    for columns in _slices(len(y), size):
        theirs = y[columns].to(device(), torch.float64)
        for rows in _slices(len(x), size):
            yield Pairs(rows, columns, x[rows].to(device(), torch.float64), theirs)


def squared_distances(x: Rows, y: Rows) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks |x|^2 + |y|^2 - 2 x.y [r, c] of all squared distances, seen from the middle of y, where they lose the fewest digits.

    Equal rows are at zero.
    """
    middle = y[:BLOCK].to(device(), torch.float64).mean(0)
    for rows, columns, ours, theirs in pairs(x, y):
        a, b = ours - middle, theirs - middle
        lengths = a.square().sum(1, keepdim=True) + b.square().sum(1)
        block = torch.addmm(lengths, a, b.T, alpha=-2)
        yield rows, columns, block.masked_fill_(block < ROUNDING * lengths, 0)


def nearest(x: Rows, y: Rows, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances of each row of x [n, F] to its k nearest rows of y [m, F], ascending, float64 [n, k], and which they are.

    Of fewer than k rows, all. A row of a set in itself is its own nearest.
    """
    k = min(k, len(y))
    squares = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    which = torch.zeros(len(x), k, dtype=torch.long)
    for rows, columns, block in squared_distances(x, y):
        best = block.topk(min(k, block.shape[1]), largest=False)
        both = torch.cat([squares[rows], best.values.cpu()], 1)
        places = torch.cat([which[rows], best.indices.cpu() + columns.start], 1)
        squares[rows], order = both.topk(k, largest=False)
        which[rows] = places.gather(1, order)
    return squares, which


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
