"""All cores for the parts of an operation: threads of our own, while BLAS keeps to one.

NumPy lets go of the interpreter's lock while it copies, adds and multiplies matrices. So a thread that takes some
images through all passes of an operation keeps them in its core's cache, and the passes that BLAS has no part in run
on all cores too. How the work is divided depends on its size alone, never on the machine: results do not depend on
the number of cores.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import attrs

from sparsecore.extras import require

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")

MOST_PARTS = 8


@attrs.frozen(eq=False)
class WorkerPool:
    """Threads that share out the parts of one operation.

    Attributes:
        count: how many threads work at the same time, the calling one included.
    """

    count: int
    _pool: ThreadPoolExecutor | None = attrs.field(init=False, repr=False)

    @_pool.default
    def _start(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self.count - 1, "sparsecore-numpy") if self.count > 1 else None

    def each(self, function: Callable[[Part], None], parts: Sequence[Part]) -> None:
        """Call the function on every part; return when all are done."""
        waiting = deque(parts)

        def work() -> None:
            while waiting:
                try:
                    part = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                function(part)

        helpers = self._helpers(work, len(parts))
        try:
            work()
        finally:
            for helper in helpers:
                helper.exception()  # waits for it: no part may still be at work on arrays that the caller lets go of
        for helper in helpers:
            helper.result()

    def _helpers(self, work: Callable[[], None], parts: int) -> list[Future[None]]:
        if self._pool is None:
            return []
        # with the caller's context, which holds NumPy's settings about floating-point errors
        return [self._pool.submit(copy_context().run, work) for _ in range(min(self.count, parts) - 1)]


def divided(count: int, work: float, grain: float) -> list[slice]:
    """``count`` things in equal runs, one for each ``grain`` of the whole ``work``, at most ``MOST_PARTS``."""
    parts = max(1, min(MOST_PARTS, count, int(work / grain)))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


@cache
def worker_pool() -> WorkerPool:
    """The threads of this process: as many as BLAS was told to use."""
    threads = [library["num_threads"] for library in _blas().info()]
    return WorkerPool(max(threads, default=os.cpu_count() or 1))


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Within it, each call of BLAS keeps to the thread that makes it; afterwards BLAS is as it was."""
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> "ThreadpoolController":
    require("threadpoolctl", extra="cli", purpose="training on the processor")
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
