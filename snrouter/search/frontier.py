"""The trade-off between two numbers that should both be low, such as bits/dim and a Frechet distance."""

from __future__ import annotations

from collections.abc import Sequence


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point matches or beats in both coordinates, by the first coordinate.

    Of equal points the first is kept.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if not kept or points[i][1] < points[kept[-1]][1]:
            kept.append(i)
    return kept
