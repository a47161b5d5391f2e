"""The settings that the tuning of a strategy tries: its learning rate, and the options that its class names.

A strategy names the options to tune in a class attribute, with the values that are worth trying:

    tuning: ClassVar = {"drop_fraction.start": (0.1, 0.6), "start": ["erk", "uniform"]}

A tuple is the range of a number, drawn on a logarithmic scale if it begins above zero, and a whole number if both ends
are. A list has the values to choose from. A dot reaches into an option that is a table, such as a schedule.
"""

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log
from typing import Any, TypeAlias

import attrs

from sparsecore.engine.randomness import Randomness
from sparsecore.errors import PluginError

SearchSpace: TypeAlias = Mapping[str, "Range | Choice"]
"""The settings to tune and their values, by dotted names as for ``--set``."""

LEARNING_RATE = "training.learning_rate"


@attrs.frozen
class Range:
    """A range of numbers.

    Attributes:
        low: the lowest number.
        high: the highest one, above it.
        is_whole: whether the numbers are whole.
    """

    low: float
    high: float
    is_whole: bool = False

    def at(self, share: float) -> float:
        """Return the number at a share of the range, on a logarithmic scale if the range begins above zero.

        Args:
            share: from 0 to below 1.

        Returns:
            A number that share 0 makes the lowest one; rounded to four digits, or to a whole number.
        """
        # each whole number has the part of the range that is rounded to it
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_whole else (self.low, self.high)
        number = exp(log(low) + share * (log(high) - log(low))) if self.low > 0 else low + share * (high - low)
        inside = min(max(number, self.low), self.high)
        return round(inside) if self.is_whole else float(f"{inside:.4g}")


@attrs.frozen
class Choice:
    """Values to choose from.

    Attributes:
        values: numbers, texts or tables.
    """

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the value at a share of the list.

        Args:
            share: from 0 to below 1.
        """
        return self.values[int(share * len(self.values))]


LEARNING_RATE_FACTORS = Range(1 / 3, 3.0)
"""The factors by which tuning multiplies the learning rate of the presets."""


def search_space_of(strategy: Any, name: str) -> dict[str, Range | Choice]:
    """Return the options of a strategy that tuning tries.

    Args:
        strategy: the strategy or its class.
        name: the name that selected it, for errors.

    Returns:
        By the names of its options, without 'strategy.NAME.'; empty if the class has no attribute ``tuning``.

    Raises:
        PluginError: the attribute is not as described above.
    """
    named = getattr(strategy, "tuning", {})
    if not isinstance(named, Mapping) or not all(isinstance(option, str) and option for option in named):
        raise PluginError(
            f"the attribute 'tuning' of the strategy {name!r} is a dict from options to the values to try; it is "
            f"{named!r}"
        )
    return {option: _values(given, f"{name}.tuning[{option!r}]") for option, given in named.items()}


def _values(given: Any, where: str) -> Range | Choice:
    if isinstance(given, list) and given:
        return Choice(tuple(given))
    if isinstance(given, tuple) and len(given) == 2 and all(_is_number(end) for end in given) and given[0] < given[1]:
        return Range(*given, is_whole=all(isinstance(end, int) for end in given))
    raise PluginError(
        f"{where} is a tuple (lowest, highest) of two numbers, or a list of values to choose from; it is {given!r}"
    )


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)


def draw_settings(space: SearchSpace, count: int, random: Randomness) -> list[dict[str, Any]]:
    """Draw settings that are spread over a search space (Latin hypercube sampling, McKay et al. 1979).

    Args:
        space: what is tuned.
        count: the number of settings to draw.
        random: the random numbers; the draws of one name do not depend on the other names.

    Returns:
        ``count`` dicts with a value for each name. Of each range and each list, divided into ``count`` parts of equal
        length, every part has one of the values.
    """
    shares = {name: _spread_shares(count, random.child(name)) for name in space}
    return [{name: values.at(shares[name][number]) for name, values in space.items()} for number in range(count)]


def _spread_shares(count: int, random: Randomness) -> Sequence[float]:
    order = random.generator("order").permutation(count)
    within = random.generator("within").random(count)
    return [float((part + offset) / count) for part, offset in zip(order, within, strict=True)]


def scaled_schedule(schedule: Any, factor: float) -> Any:
    """Multiply a schedule, as settings files have it, by a factor.

    Args:
        schedule: a number, a table of numbers by epoch, or a table of a cosine.
        factor: the factor.

    Returns:
        The same kind of schedule, with numbers of four digits; the end of a cosine's time is not a number of it.
    """
    if not isinstance(schedule, Mapping):
        return float(f"{schedule * factor:.4g}")
    return {key: value if key == "until" else scaled_schedule(value, factor) for key, value in schedule.items()}
