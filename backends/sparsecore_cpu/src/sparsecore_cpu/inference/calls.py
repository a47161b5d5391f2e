"""The calls that compute a prediction, each on the number of threads that was measured to be fastest."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from time import perf_counter

import attrs
import numpy as np

from sparsecore_cpu import _kernels

Call = Callable[[], object]

ThreadedCall = Callable[[int], object]
"""A call that takes the number of threads that share its work."""

Counts = tuple[int, ...]
"""The number of threads of each call."""

_MOST_RUNS = 5
"""How often each choice of numbers of threads is measured at most."""

_SECONDS = 0.2
"""About the most that this takes, if one run takes less."""


@attrs.frozen(eq=False)
class CallList:
    """Collects calls in order.

    Attributes:
        calls: the calls.
        is_threaded: for each of them, whether threads can share it; others ignore the number that they are given.
    """

    calls: list[ThreadedCall] = attrs.field(factory=list)
    is_threaded: list[bool] = attrs.field(factory=list)

    def append(self, call: Call) -> None:
        """Append a call for one thread.

        Args:
            call: the call.
        """
        self.calls.append(lambda _: call())
        self.is_threaded.append(False)

    def append_threaded(self, call: ThreadedCall) -> None:
        """Append a call that threads share.

        Args:
            call: takes their number; what it computes does not depend on it.
        """
        self.calls.append(call)
        self.is_threaded.append(True)


class MeasuredCalls:
    """Calls in order, each on as many threads as it took least time on when all were run for the first time.

    To share a small operation can take longer than to compute it on one thread.
    """

    def __init__(self, calls: CallList, threads: int) -> None:
        """Calls that are not measured yet.

        Args:
            calls: the calls; run again, they compute the same from the same input.
            threads: the greatest number of threads.
        """
        self._calls, self._is_threaded = tuple(calls.calls), tuple(calls.is_threaded)
        self._threads = threads if any(calls.is_threaded) else 1
        self._run: Call | None = None

    def run(self) -> None:
        """Run all calls."""
        if self._run is None:
            self._run = self._on(self._fastest())
        self._run()

    def _on(self, counts: Counts) -> Call:
        """What runs all calls on so many threads."""
        calls = [partial(call, count) for call, count in zip(self._calls, counts, strict=True)]
        return partial(_kernels.in_series, max(counts, default=1), partial(_run_all, calls))

    def _fastest(self) -> Counts:
        """For each call the number of threads that is fastest for it, or one number for all if that is faster."""
        choices = [tuple(count if able else 1 for able in self._is_threaded) for count in self._numbers()]
        if len(choices) == 1:
            return choices[0]
        first = sum(self._seconds(choices[-1]))  # which touches memory for the first time
        runs = max(1, min(_MOST_RUNS, int(_SECONDS / first)))
        of_calls = np.min([[self._seconds(counts) for counts in choices] for _ in range(runs)], axis=0)
        fastest = np.argmin(of_calls, axis=0)
        choices.append(tuple(choices[choice][call] for call, choice in enumerate(fastest)))
        in_all = np.min([[sum(self._seconds(counts)) for counts in choices] for _ in range(runs)], axis=0)
        return choices[int(np.argmin(in_all))]

    def _seconds(self, counts: Counts) -> list[float]:
        """The seconds of each call in one run."""
        moments = [perf_counter()]

        def run() -> None:
            for call, count in zip(self._calls, counts, strict=True):
                call(count)
                moments.append(perf_counter())

        _kernels.in_series(max(counts), run)
        return [end - start for start, end in pairwise(moments)]

    def _numbers(self) -> list[int]:
        """1, 2, 4 and so on, up to the greatest number, and that one."""
        return sorted({self._threads, *(1 << power for power in range(self._threads.bit_length()))})


def _run_all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()
