"""Becoming sparser along a cubic (Zhu & Gupta 2017): fast while there is much to lose, slowly towards the end."""

from fractions import Fraction
from typing import Any

import attrs

from sparsecore.engine.schedules import Clock, total_steps
from sparsecore.engine.settings import as_written
from sparsecore.errors import InputError


@attrs.frozen
class Cubic:
    """(1 - (t-t₀)/(n·Δt))³, what is left of the way from the first sparsity to the last.

    Attributes:
        begin: t₀ as a fraction of the run.
        until: the end t₀ + n·Δt as a fraction of the run; the last step at the latest that another one follows.
    """

    begin: float
    until: float

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.begin < self.until <= 1:
            raise InputError(
                "weights are pruned from a fraction of the run until a later one, 0 <= begin < until <= 1; "
                f"given begin = {self.begin}, until = {self.until}"
            )

    def left(self, clock: Clock) -> Fraction:
        """From 1 at the begin to 0 at the end and after it."""
        first, last = self._begin(clock), self.end(clock)
        if clock.step >= last:
            return Fraction(0)
        return (1 - max(Fraction(0), (clock.step - first) / (last - first))) ** 3

    def end(self, clock: Clock) -> int:
        """The step after which nothing is left."""
        steps = total_steps(clock)
        return max(1, min(steps - 1, int(as_written(self.until) * steps)))

    def has_begun(self, clock: Clock) -> bool:
        """Whether the time is t₀ or later."""
        return clock.step >= self._begin(clock)

    def _begin(self, clock: Clock) -> Fraction:
        return as_written(self.begin) * total_steps(clock)


def check_cubic(strategy: Any, _: object, __: object) -> None:
    """Validate the attributes ``begin`` and ``until`` of a strategy, at the latter."""
    Cubic(strategy.begin, strategy.until)
