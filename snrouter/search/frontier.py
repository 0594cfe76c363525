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


def best(points: Sequence[tuple[float, float]], limit: float) -> int | None:
    """Index of the point with the lowest first coordinate whose second is at most `limit`; None when there is none."""
    allowed = [i for i, (_, second) in enumerate(points) if second <= limit]
    return min(allowed, key=lambda i: (*points[i], i)) if allowed else None
