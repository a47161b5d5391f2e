"""Scales of axes: from numbers to places in a drawing, ticks at round numbers, and numbers as short texts."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil, floor, isfinite, log10

import attrs

_MOST_TICKS = 6
_HUGE, _TINY = 1e300, 1e-300
"""Differences of larger numbers may be infinite, and parts of smaller ones zero."""
_MOST_LABELS = 11
"""Labels of given numbers that have room side by side."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@attrs.frozen
class Axis:
    """An axis of a panel.

    Attributes:
        label: what it shows, with the unit in brackets.
        low: where it begins, if no number is lower; None for the lowest number.
        high: where it ends, if no number is higher; None for the highest number.
        is_logarithmic: whether the scale is logarithmic, around all numbers above zero.
        is_whole: whether only whole numbers are labelled.
        labelled: the numbers with a label, ascending, as far as there is room; round numbers if there are none.
        categories: names of the positions 0, 1, ...; an axis with names has no numbers.
        symbols: number of symbols one below another in the row of a name.
        is_sparse: whether only some names are shown where all have no room.
    """

    label: str
    low: float | None = None
    high: float | None = None
    is_logarithmic: bool = False
    is_whole: bool = False
    labelled: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    symbols: int = 1
    is_sparse: bool = False

    def has_place(self, number: float) -> bool:
        """Return whether a number can be drawn: it is finite, not huge, and above zero on a logarithmic scale."""
        return abs(number) < _HUGE and (number > _TINY or not self.is_logarithmic)

    def limits(self, numbers: Iterable[float]) -> tuple[float, float]:
        """Return where the axis begins and ends, which are never the same.

        Args:
            numbers: what is drawn; those that are not finite do not count.
        """
        if self.categories:
            return -0.5, len(self.categories) - 0.5
        finite = [number for number in numbers if self.has_place(number)]
        lowest, highest = min(finite, default=1.0), max(finite, default=1.0)
        if self.is_logarithmic:
            return lowest * 0.93, highest * 1.07
        margin = 0.05 * (highest - (lowest if self.low is None else min(self.low, lowest)))
        low = lowest - margin if self.low is None else min(self.low, lowest)
        high = highest + margin if self.high is None else max(self.high, highest)
        if low < high:
            return low, high
        around = 0.1 * abs(low) or 1.0
        return (low - around if self.low is None else low), high + around

    def ticks(self, low: float, high: float) -> list[float]:
        """Return the numbers that are labelled, for an axis without names.

        Args:
            low: where the axis begins.
            high: where it ends.
        """
        if self.labelled:
            return _apart(self.labelled, (high - low) / _MOST_LABELS)
        if self.is_logarithmic:
            return _logarithmic_ticks(low, high)
        return _linear_ticks(low, high, 1.0 if self.is_whole else 0.0)

    def scale(self, low: float, high: float, start: float, end: float) -> Callable[[float], float]:
        """Return the function from numbers to places.

        Args:
            low: number at the start.
            high: number at the end.
            start: place of the start.
            end: place of the end.
        """
        if self.is_logarithmic:
            width = log10(high) - log10(low)
            return lambda number: start + (end - start) * (log10(number) - log10(low)) / width
        return lambda number: start + (end - start) * (number - low) / (high - low)


def _apart(numbers: Sequence[float], distance: float) -> list[float]:
    """Return the numbers without those that are too near to the one before."""
    kept: list[float] = []
    for number in numbers:
        if not kept or number - kept[-1] >= distance:
            kept.append(number)
    return kept


def _linear_ticks(low: float, high: float, least: float) -> list[float]:
    rough = max(_TINY, (high - low) / _MOST_TICKS)
    power = 10.0 ** floor(log10(rough))
    step = max(least, next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9)))
    if least:
        step = ceil(step)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    every = ceil(len(powers) / (_MOST_TICKS + 1))
    decades = [10.0**power for power in powers if power % every == 0 and low <= 10.0**power <= high]
    if len(decades) > 2:
        return decades
    finer = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    found = [number for number in finer if low <= number <= high]
    return found if len(found) > 1 else _linear_ticks(low, high, 0.0)


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Return the labels of ticks, short and each different from the others."""
    for digits in range(3, 16):
        texts = [short_number(tick, digits) for tick in ticks]
        exact = all(
            abs(float(text.replace(",", "")) - tick) <= 1e-9 * abs(tick)
            for text, tick in zip(texts, ticks, strict=True)
        )
        if exact and len(set(texts)) == len(texts):
            return texts
    return [f"{tick:g}" for tick in ticks]


def short_number(number: float, digits: int = 6) -> str:
    """Return a number with some significant digits, with commas between thousands: '1,234.5', '0.001', '2e-07'.

    Args:
        number: any number, also one that is not finite.
        digits: the most significant digits; whole numbers below 10^15 have all of theirs.
    """
    if isfinite(number) and number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    text = f"{number:,.{digits}g}"
    return text if "e" not in text or abs(number) < 1 else f"{number:,.0f}" if abs(number) < 1e15 else text
