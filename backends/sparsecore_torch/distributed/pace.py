"""How often ranks compare their values: as often as costs little."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SHARE = 0.003
"""Of the time of training that comparisons may take."""

_FREE = 0.025
"""Seconds that comparisons may take in any case, so that the first steps are compared one by one."""

_MOST_STEPS = 100
"""Between two comparisons."""


class Pace:
    """Chooses how many steps pass between two comparisons, by what comparisons and steps have taken so far.

    Only rank 0 chooses, since clocks differ; the others hear of it in the verdict.

    Args:
        clock: seconds since any moment.
        work: seconds that this thread has computed; waiting for other ranks is no cost of a comparison.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, work: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._work = clock, work
        self._begin: tuple[float, int] | None = None
        self._spent = 0.0
        self._comparisons = 0

    @contextmanager
    def spending(self) -> Iterator[None]:
        """While the ranks compare."""
        begin = self._work()
        yield
        self._spent += self._work() - begin
        self._comparisons += 1

    def pause(self, step: int) -> int:
        """How many steps from this one the ranks are to compare again."""
        if self._begin is None or self._comparisons == 0:
            self._begin = self._clock(), step
            return 1
        begin, first_step = self._begin
        elapsed = self._clock() - begin
        next_costs = self._spent * (1 + 1 / self._comparisons)
        missing = next_costs - _FREE - _SHARE * elapsed
        if missing <= 0:
            return 1
        seconds_a_step = max(elapsed - self._spent, 1e-9) / max(step - first_step, 1)
        return min(math.ceil(missing / (_SHARE * seconds_a_step)), _MOST_STEPS)
