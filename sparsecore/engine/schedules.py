"""What hyperparameters are made of: schedules, which are functions of the clock, and amounts of weights."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any, Protocol

import attrs

from sparsecore.errors import InputError


@attrs.frozen
class Clock:
    """How far a run has come; schedules are functions of it.

    Attributes:
        step: optimizer steps that are finished.
        steps_per_epoch: steps an epoch.
        total_steps: steps of the whole run; None where the end is not known.
        updates: reallocations that are finished.
    """

    step: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    steps_per_epoch: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    total_steps: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    updates: int = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, counted from 0."""
        return self.step // self.steps_per_epoch

    @property
    def has_ended(self) -> bool:
        """Whether no step follows."""
        return self.total_steps is not None and self.step >= self.total_steps

    def tick(self) -> "Clock":
        """Return the clock one optimizer step later."""
        return Clock(self.step + 1, self.steps_per_epoch, self.total_steps, self.updates)

    def updated(self) -> "Clock":
        """Return the clock one update later."""
        return attrs.evolve(self, updates=self.updates + 1)


class Schedule(Protocol):
    """A number as a function of the clock, such as :class:`Piecewise` and :class:`Cosine`."""

    @property
    def lowest(self) -> float:
        """The lowest number of the whole run, or below it."""
        ...

    @property
    def highest(self) -> float:
        """The highest number of the whole run, or above it."""
        ...

    def __call__(self, clock: Clock) -> float:
        """Return the number at this time."""
        ...


def _as_pieces(given: Mapping[Any, Any] | Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    pairs = given.items() if isinstance(given, Mapping) else given
    return tuple((_as_epoch(epoch), as_number(value)) for epoch, value in pairs)


def _as_epoch(given: object) -> int:
    # the keys of a settings file are strings
    if isinstance(given, str) and given.isdecimal():
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise InputError(f"a piecewise schedule is {{epoch = value, ...}} with whole epochs; given the epoch {given!r}")


def as_number(given: object) -> float:
    """Return a setting that is an int or a float.

    Raises:
        InputError: it is anything else.
    """
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InputError(f"a number was expected, given {given!r}")
    return given


@attrs.frozen
class Piecewise:
    """A number that changes at given epochs and is constant between them: ``Piecewise({0: 0.1, 60: 0.02})``.

    Attributes:
        pieces: (epoch, value) pairs; the first epoch is 0, the epochs ascend.
    """

    pieces: tuple[tuple[int, float], ...] = attrs.field(converter=_as_pieces)

    def __attrs_post_init__(self) -> None:
        epochs = [epoch for epoch, _ in self.pieces]
        if not epochs or epochs[0] != 0 or any(a >= b for a, b in pairwise(epochs)):
            raise InputError(f"a piecewise schedule starts at epoch 0 and its epochs ascend; given the epochs {epochs}")
        for _, value in self.pieces:
            _check_finite(value)

    @property
    def lowest(self) -> float:
        """The lowest piece."""
        return min(value for _, value in self.pieces)

    @property
    def highest(self) -> float:
        """The highest piece."""
        return max(value for _, value in self.pieces)

    def __str__(self) -> str:
        """The number, if it is constant, or the numbers by epoch."""
        return str(self.pieces[0][1]) if len(self.pieces) == 1 else str(dict(self.pieces))

    def __call__(self, clock: Clock) -> float:
        """Return the value of the latest piece that has begun."""
        return [value for epoch, value in self.pieces if epoch <= clock.epoch][-1]


@attrs.frozen
class Cosine:
    """A number that falls from ``start`` along half a cosine to ``end``, and is constant from ``until`` on.

    f(t) = end + (start - end)/2 · (1 + cos(π·t/T)), T = until · total steps (RigL's α/2·(1+cos) with end 0).

    Attributes:
        start: the number at the first step.
        end: the number from ``until`` on.
        until: a fraction of the run, in (0, 1].
    """

    start: float
    end: float = 0.0
    until: float = 1.0

    def __attrs_post_init__(self) -> None:
        for value in (self.start, self.end):
            _check_finite(value)
        if not 0.0 < self.until <= 1.0:
            raise InputError(f"a cosine ends at a fraction of the run in (0, 1]; given until = {self.until}")

    @property
    def lowest(self) -> float:
        """The lower end."""
        return min(self.start, self.end)

    @property
    def highest(self) -> float:
        """The higher end."""
        return max(self.start, self.end)

    def __call__(self, clock: Clock) -> float:
        """Return the value at this step.

        Raises:
            InputError: the clock does not know the total number of steps.
        """
        progress = min(1.0, clock.step / (self.until * total_steps(clock)))
        return self.end + (self.start - self.end) / 2 * (1 + math.cos(math.pi * progress))


def as_schedule(given: "float | Mapping[Any, Any] | Piecewise | Cosine") -> Schedule:
    """Return the schedule that a setting describes.

    Args:
        given: a number, which is constant; ``{0: 0.1, 60: 0.02}``, which is piecewise from these epochs on;
            ``{"start": 0.3, "end": 0.0, "until": 0.75}``, which is a cosine; or a schedule.

    Raises:
        InputError: the setting has none of these forms.
    """
    match given:
        case Piecewise() | Cosine():
            return given
        case Mapping() if "start" in given:
            _check_keys(given)
            return Cosine(**{key: as_number(value) for key, value in given.items()})
        case Mapping():
            return Piecewise(given)
        case _:
            return Piecewise({0: given})


@attrs.frozen
class Every:
    """The steps at which updates are due: every so many steps or epochs, but never before the first step.

    Attributes:
        steps: steps between updates, constant or changing over the run: an update is due when the number of finished
            steps is a multiple of it.
        epochs: epochs between updates, instead of ``steps``.
        times: the number of updates in all, instead of both: they are evenly spread, the last one at ``until`` or
            after the last step but one.
        until_epoch: no update in this epoch (counted from 0) or later.
        until: no update from this fraction of the run on.
    """

    steps: Schedule | None = attrs.field(default=None, converter=attrs.converters.optional(as_schedule))
    epochs: int | None = None
    until_epoch: int | None = None
    until: float | None = None
    times: int | None = None

    def __attrs_post_init__(self) -> None:
        intervals = {"steps": self.steps, "epochs": self.epochs, "times": self.times}
        given = [name for name, value in intervals.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "a schedule of updates needs either steps, epochs or times, one of the three; given "
                f"{' and '.join(given) or 'none'}, with the defaults. A table such as schedule={{steps=100}} replaces "
                "the whole schedule"
            )
        if self.times is not None and (self.times < 1 or self.times != int(self.times)):
            raise InputError(f"the number of updates must be a whole number of at least 1; given times = {self.times}")
        if self.epochs is not None and (self.epochs < 1 or self.epochs != int(self.epochs)):
            raise InputError(f"epochs between updates must be a whole number of at least 1; given {self.epochs}")
        if isinstance(self.steps, Piecewise) and any(n < 1 or n != int(n) for _, n in self.steps.pieces):
            raise InputError(f"steps between updates must be whole numbers of at least 1; given {self.steps.pieces}")
        if self.times is not None and self.until_epoch is not None:
            raise InputError("a number of updates ends at a fraction of the run, until; until_epoch is not for it")
        if self.steps is not None and self.steps.lowest < 1:
            raise InputError(f"steps between updates must be at least 1; given {self.steps}")
        if self.until_epoch is not None and self.until_epoch < 0:
            raise InputError(f"updates end at an epoch of at least 0; given until_epoch = {self.until_epoch}")
        if self.until is not None and not 0.0 <= self.until <= 1.0:
            raise InputError(f"updates end at a fraction of the run in [0, 1]; given until = {self.until}")

    def __call__(self, clock: Clock) -> bool:
        """Return whether an update is due now.

        Raises:
            InputError: the schedule needs the total number of steps, and the clock does not know it.
        """
        if self.times is not None:
            return self._is_one_of(self.times, clock)
        if clock.step == 0 or self._is_over(clock):
            return False
        if self.steps is not None:
            return clock.step % int(self.steps(clock)) == 0
        return self.epochs is not None and clock.step % (self.epochs * clock.steps_per_epoch) == 0

    def _is_one_of(self, times: int, clock: Clock) -> bool:
        steps = total_steps(clock)
        end = min(steps - 1, int(as_written(1.0 if self.until is None else self.until) * steps))
        return 0 < clock.step <= end and clock.step * times // end > (clock.step - 1) * times // end

    def _is_over(self, clock: Clock) -> bool:
        if self.until_epoch is not None and clock.epoch >= self.until_epoch:
            return True
        return self.until is not None and clock.step >= self.until * total_steps(clock)


def total_steps(clock: Clock) -> int:
    """Return the number of steps of the whole run.

    Raises:
        InputError: the clock does not know it.
    """
    if clock.total_steps is None:
        raise InputError("this schedule needs the end of the run; give the total number of steps (total_steps)")
    return clock.total_steps


def _check_keys(given: Mapping[Any, Any]) -> None:
    if not set(given) <= {"start", "end", "until"}:
        raise InputError(f"a cosine schedule has the keys end, start, until; given {', '.join(map(str, given))}")


def _check_finite(value: float) -> None:
    if not math.isfinite(value):
        raise InputError(f"a schedule's values must be finite; given {value}")


def as_written(number: float) -> Fraction:
    """Return a number exactly as its decimal is written, not its binary neighbour: 1.15·100 is 115, not 114.99.

    Args:
        number: finite.

    Returns:
        The shortest decimal that reads as this float, as a fraction; products with whole numbers are then exact.
    """
    return Fraction(repr(float(number)))


@attrs.frozen
class Amount:
    """A number of weights: absolute, or a share of all weights.

    Attributes:
        given: a whole number of at least 1, or a percentage of all weights such as '10%'.
    """

    given: int | str

    def __attrs_post_init__(self) -> None:
        if isinstance(self.given, str):
            share = self._share()
            if not 0.0 < share < 1.0:
                raise InputError(f"a share of all weights is between 0% and 100%; given {self.given!r}")
        elif isinstance(self.given, bool) or not isinstance(self.given, int) or self.given < 1:
            raise InputError(f"a number of weights is a whole number of at least 1 or like '10%'; given {self.given!r}")

    def of_all(self, weights: int) -> int:
        """Return the number, at least 1, where there are ``weights`` in all.

        Args:
            weights: N, of which a percentage is taken and rounded to the nearest whole number; a tie goes to the even
                one.
        """
        return max(1, round(self._share() * weights)) if isinstance(self.given, str) else self.given

    def _share(self) -> float:
        try:
            number, percent, rest = str(self.given).partition("%")
            if percent and not rest:
                return float(number) / 100
        except ValueError:
            pass
        raise InputError(f"a number of weights is a whole number or a share such as '10%'; given {self.given!r}")


def as_amount(given: Amount | int | str) -> Amount:
    """Return the amount that a setting describes; an amount is returned as it is.

    Args:
        given: a whole number of weights, at least 1, or a percentage of all such as '10%', between 0% and 100%.

    Raises:
        InputError: it is neither.
    """
    return given if isinstance(given, Amount) else Amount(given)
