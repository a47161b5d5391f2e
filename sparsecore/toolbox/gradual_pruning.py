"""Gradual pruning along a cubic (Zhu & Gupta 2017): fast while there are many weights, slowly towards the end."""

from fractions import Fraction
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Counts
from sparsecore.engine.saved_states import weight_counts_error
from sparsecore.engine.schedules import Clock, as_written, total_steps
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError


@attrs.frozen
class CubicPruning:
    """The factor (1 - (t-t₀)/(n·Δt))³ by which a run is still denser than at its end.

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

    def remaining(self, clock: Clock) -> Fraction:
        """Return the factor at this time: 1 until the begin, 0 from the end on.

        Args:
            clock: the finished steps, and how many the run has.

        Returns:
            An exact fraction in [0, 1], so that every backend rounds numbers of weights alike.

        Raises:
            InputError: the clock does not know the number of steps of the run.
        """
        return self.time_left(clock) ** 3

    def time_left(self, clock: Clock) -> Fraction:
        """Return the share of the time from begin to end that is left: 1 until the begin, 0 from the end on.

        Args:
            clock: the finished steps, and how many the run has.

        Returns:
            An exact fraction in [0, 1].

        Raises:
            InputError: the clock does not know the number of steps of the run.
        """
        first, last = self._begin(clock), self.end(clock)
        if clock.step >= last:
            return Fraction(0)
        return 1 - max(Fraction(0), (clock.step - first) / (last - first))

    def end(self, clock: Clock) -> int:
        """Return the step from which on the factor is 0.

        Args:
            clock: any time of the run; its number of steps counts alone.

        Returns:
            A number of finished steps, at least 1 and at most the run's minus 1, so that a step follows the last
            update.

        Raises:
            InputError: the clock does not know the number of steps of the run.
        """
        steps = total_steps(clock)
        return max(1, min(steps - 1, int(as_written(self.until) * steps)))

    def has_begun(self, clock: Clock) -> bool:
        """Return whether the time is t₀ or later.

        Args:
            clock: the finished steps, and how many the run has.

        Raises:
            InputError: the clock does not know the number of steps of the run.
        """
        return clock.step >= self._begin(clock)

    def _begin(self, clock: Clock) -> Fraction:
        return as_written(self.begin) * total_steps(clock)


def check_cubic(strategy: Any, _: object, __: object) -> None:
    """Validate the attributes ``begin`` and ``until`` of a strategy; an attrs validator for the latter of the two.

    Args:
        strategy: the instance that is being made; attrs has set both attributes by then.

    Raises:
        InputError: it is not so that 0 <= begin < until <= 1.
    """
    CubicPruning(strategy.begin, strategy.until)


@attrs.frozen(eq=False)
class PruningTargets:
    """The strategy state of gradual pruning: numbers of weights at the start and at the end.

    Attributes:
        first: at the start, int64; one number a tensor, or a single one for all tensors together.
        last: at the end, likewise.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def loading_error(self, like: "PruningTargets", topology: Topology) -> str | None:
        """Return what is wrong with numbers that were read from a file, as the end of a sentence.

        Args:
            like: those of the training that is to go on with them.
            topology: the active positions in the file.
        """
        return weight_counts_error("first", self.first, like.first, topology) or weight_counts_error(
            "last", self.last, like.last, topology
        )

    def counts(self, remaining: Fraction) -> Counts:
        """Return the numbers of weights where a factor of the way from last to first remains.

        Args:
            remaining: in [0, 1], as :meth:`CubicPruning.remaining` returns it.

        Returns:
            int64, of the shape of ``first``: last + ⌊remaining · (first - last)⌋.
        """
        return self.last + np.array([int(remaining * int(count)) for count in self.first - self.last], np.int64)
