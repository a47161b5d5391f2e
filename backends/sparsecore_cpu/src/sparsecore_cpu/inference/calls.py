"""The calls that compute a prediction, each on the number of threads that was measured to be fastest."""

from collections.abc import Callable, Iterator, Sequence
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

_MEASURED_AGAIN = 16
"""The number of runs after which they are measured once more; then after four times as many each time."""


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
    """Calls in order, each on as many threads as it took least time on.

    To share a small operation can take longer than to compute it on one thread. The numbers of threads are measured
    before the first run and, as other programs may have been busy then, again by later runs.
    """

    def __init__(self, calls: CallList, threads: int) -> None:
        """Calls that are not measured yet.

        Args:
            calls: the calls; run again, they compute the same from the same input.
            threads: the greatest number of threads.
        """
        self._calls, self._is_threaded = tuple(calls.calls), tuple(calls.is_threaded)
        self._threads = threads if any(calls.is_threaded) else 1
        self._runs, self._measured_again = 0, _MEASURED_AGAIN
        self._measuring_runs: Iterator[bool] = iter(())
        self._run_fastest: Call = lambda: None

    def run(self) -> None:
        """Run all calls."""
        if not self._runs:
            for _ in self._measure():
                pass
        elif self._runs == self._measured_again:
            self._measuring_runs = self._measure()
        self._runs += 1
        if not next(self._measuring_runs, False):
            self._run_fastest()

    def _measure(self) -> Iterator[bool]:
        """Run all calls on other numbers of threads at each step, and at the end choose those that were fastest.

        That is the fastest number for each call, or one number for all if that was faster.
        """
        choices = [tuple(count if able else 1 for able in self._is_threaded) for count in self._numbers()]
        if len(choices) > 1:
            first = sum(self._seconds(choices[-1]))  # which touches memory for the first time
            yield True
            runs = max(1, min(_MOST_RUNS, int(_SECONDS / first)))
            of_calls = []
            for counts in choices * runs:
                of_calls.append(self._seconds(counts))
                yield True
            least = np.min(np.reshape(of_calls, (runs, len(choices), -1)), axis=0)
            choices.append(tuple(choices[choice][call] for call, choice in enumerate(np.argmin(least, axis=0))))
            in_all = []
            for counts in choices * runs:
                in_all.append(sum(self._seconds(counts)))
                yield True
            choices = [choices[int(np.argmin(np.min(np.reshape(in_all, (runs, -1)), axis=0)))]]
        self._run_fastest = self._on(choices[0])
        self._measured_again = max(_MEASURED_AGAIN, 4 * self._runs)

    def _on(self, counts: Counts) -> Call:
        """What runs all calls on so many threads."""
        calls = [partial(call, count) for call, count in zip(self._calls, counts, strict=True)]
        return partial(_kernels.in_series, max(counts, default=1), partial(_run_all, calls))

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
