"""Numbers: a value with its standard error, and how a column of them is written.

The digits of a column follow its errors, two digits of the median one, but no more than six of its values: what is beyond them is
rounding. A column of tiny or of huge numbers is told in a power of
ten that its heading names, so that 0.00123 +- 0.00020 is 1.23 +- 0.20 in 10^-3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"
"""What stands for a number that is not there."""

SIGNIFICANT = 2.0
"""A difference counts as one when it exceeds this many of its standard errors."""

_NEGATIVE = re.compile(r"(?<![^\s(\[])-(?=\d)")
_DIGITS = 6
_TINY, _HUGE = 1e-2, 1e6
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def minus(text: str) -> str:
    """With minus signs for the hyphens before numbers."""
    return _NEGATIVE.sub("\N{MINUS SIGN}", text)


@dataclass(frozen=True)
class Number:
    """A value and its standard error; None where unknown."""

    value: float | None = None
    error: float | None = None

    @property
    def sign(self) -> int | None:
        """Of a difference: -1 or 1 beyond `SIGNIFICANT` errors, 0 within, None when either number is unknown."""
        if self.value is None or self.error is None:
            return None
        return 0 if abs(self.value) <= SIGNIFICANT * self.error else (1 if self.value > 0 else -1)

    def text(self, decimals: int | None = None, signed: bool = False) -> str:
        """E.g. "1.818 ± 0.014", to two digits of the error unless `decimals` are given."""
        if self.value is None:
            return MISSING
        shown = places([self]) if decimals is None else decimals
        rounded = round(self.value, shown) + 0.0  # no minus before a zero
        value = f"{rounded:{'+' if signed else ''},.{shown}f}"
        return value if self.error is None else f"{value} ± {self.error:,.{shown}f}"

    def over(self, unit: float) -> Number:
        """The same in another unit."""
        if unit == 1:
            return self
        return Number(None if self.value is None else self.value / unit, None if self.error is None else self.error / unit)


@dataclass(frozen=True)
class Unit:
    """What a column's numbers are told in.

    Attributes:
        size: one unit.
        name: for the heading, e.g. "in 10⁻³"; "" for one.
        finest: what is less than this, itself not in this unit, is rounding and not told; None where the numbers told decide.
    """

    size: float = 1.0
    name: str = ""
    finest: float | None = None


ONE = Unit()


def finite(value: Any) -> float | None:
    """A number that is one, else None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def finest(numbers: Iterable[Number]) -> float:
    """The last of the digits that are told of numbers of the size of the median one; 0 where all are zero."""
    sizes = sorted(abs(n.value) for n in numbers if n.value)
    return 10.0 ** (math.floor(math.log10(sizes[len(sizes) // 2])) + 1 - _DIGITS) if sizes else 0.0


def places(numbers: Sequence[Number], least: float | None = None) -> int:
    """Decimals that show two digits of the median error, or without errors four digits of the largest value; none below `least`."""
    errors = sorted(n.error for n in numbers if n.error)
    if errors:
        digits, size = 1, errors[len(errors) // 2]
    else:
        digits, size = 3, max((abs(n.value) for n in numbers if n.value), default=1.0)
    least = finest(numbers) if least is None else least
    most = -round(math.log10(least)) if least else digits
    return max(min(digits - math.floor(math.log10(size)), most), 0)


def aligned(numbers: Sequence[Number], signed: bool = False, unit: Unit = ONE) -> list[str]:
    """A column of numbers with the same decimals."""
    told = [number.over(unit.size) for number in numbers]
    shown = places(told, None if unit.finest is None else unit.finest / unit.size)
    return [number.text(shown, signed) for number in told]


def power(numbers: Sequence[Number]) -> Unit:
    """The power of a thousand that a column of tiny or huge numbers is told in; else one."""
    least = finest(numbers)
    largest = max((abs(n.value) for n in numbers if n.value), default=1.0)
    if _TINY <= largest < _HUGE:
        return Unit(finest=least)
    exponent = 3 * math.floor(math.log10(largest) / 3)
    return Unit(10.0**exponent, f"in 10{str(exponent).translate(_RAISED)}", least)


def memory(sizes: Iterable[float]) -> Unit:
    """The unit of bytes in which the largest of them is told."""
    largest = max(sizes, default=0.0)
    step = min(int(math.log2(largest) // 10), len(_BYTES) - 1) if largest >= 1 else 0
    return Unit(1024.0**step, _BYTES[step])


def duration(seconds: Iterable[float]) -> Unit:
    """The unit of time in which the largest of them is told."""
    largest = max(seconds, default=1.0)
    return Unit(1.0, "s") if largest >= 1 else Unit(1e-3, "ms") if largest >= 1e-3 else Unit(1e-6, "µs")
