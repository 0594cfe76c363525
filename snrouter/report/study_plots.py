"""The plots of a study: a measure of every model with its interval over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snrouter.report.labels import short
from snrouter.report.number import finest, finite
from snrouter.report.study_tables import Told, gain
from snrouter.report.svg import EXPERTS, INK, MUTED, STYLE, canvas, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 4.9
_LEAST = 1e-5
"""Gains below it are rounding."""
_NEAR = 4.0
"""Models that are farther from the baseline than this many times the median are not near it."""


def forest(told: Told, names: Sequence[str], baseline: str, prefix: str) -> str | None:
    """A line a model: the value of each seed, the mean, and its 95 percent interval; the baseline's as a band over all.

    None unless two models have numbers, which are not all the same.
    """
    import matplotlib as mpl

    known = [name for name in names if told.number(name).value is not None]
    numbers = [told.number(name) for name in known]
    levels = [number.value or 0.0 for number in numbers]
    if len(known) < 2 or max(levels) - min(levels) <= finest(numbers):
        return None
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 0.9 + 0.3 * len(known))
        size = told.unit.size
        base = told.interval(baseline)
        if base is not None:
            axes.axvspan(base[0] / size, base[1] / size, color=EXPERTS[0], alpha=0.13, linewidth=0)
        level = told.number(baseline).value
        if level is not None:
            axes.axvline(level / size, color=EXPERTS[0], linewidth=1.2, linestyle=(0, (4, 2)))
        for i, name in enumerate(known):
            colour = EXPERTS[0] if name == baseline else INK
            values = [value / size for one in told.by_model[name].get("values") or [] if (value := finite(one)) is not None]
            _line(axes, i, told.number(name).value, told.interval(name), 1 / size, colour)
            axes.plot(values, [i + 0.24] * len(values), "|", color=MUTED, markersize=6)
        _by_model(axes, known)
        axes.set_xlabel(f"{told.title}{f', {told.better} is better' if told.better else ''}")
        return svg(figure, prefix)


def near(told: Told, names: Sequence[str], baseline: str) -> list[str]:
    """The models that are drawn closer where others are far from the baseline; none where all are near, or hardly any."""
    base = told.number(baseline).value
    away = {name: abs(value - base) for name in names if base is not None and (value := told.number(name).value) is not None}
    others = sorted(far for name, far in away.items() if name != baseline)
    if not others:
        return []
    found = [name for name, far in away.items() if far <= _NEAR * others[len(others) // 2]]
    return found if 2 < len(found) < len(away) else []


def gains(told: Told, names: Sequence[str], baseline: str, prefix: str) -> str | None:
    """A line a model: its relative gain against the baseline in percent, with its 95 percent interval; None where none gains."""
    import matplotlib as mpl

    known = [name for name in names if name != baseline and gain(told, name)[0] is not None]
    if all(abs(gain(told, name)[0] or 0.0) < _LEAST for name in known):
        return None
    with mpl.rc_context(STYLE):
        figure, axes = canvas(_WIDTH, 0.9 + 0.3 * len(known))
        axes.axvline(0, color=EXPERTS[0], linewidth=1.2, linestyle=(0, (4, 2)))
        for i, name in enumerate(known):
            mean, ends = gain(told, name)
            _line(axes, i, mean, ends, 100.0, INK)
        _by_model(axes, known)
        axes.set_xlabel(f"{told.title.partition(',')[0]} against {short(baseline)}, percent")
        return svg(figure, prefix)


def _line(axes: Axes, i: int, mean: float | None, ends: tuple[float, float] | None, scale: float, colour: str) -> None:
    """A mean and its interval, in the axis's unit once scaled."""
    if ends is not None:
        axes.plot([end * scale for end in ends], [i, i], color=colour, linewidth=1.6, solid_capstyle="butt")
    at: Any = ([(mean or 0.0) * scale], [i])
    axes.plot(*at, "o", color=colour, markersize=5)


def _by_model(axes: Axes, known: Sequence[str]) -> None:
    axes.set_yticks(range(len(known)), [short(name) for name in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.locator_params(axis="x", nbins=6)
