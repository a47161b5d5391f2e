"""The time that each kind of operation takes by itself within a training step, by wrapping the functions that work."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sparsecore.host.parameters import ParameterVectors
from sparsecore_numpy import convolution, normalization, operations

TIMED = [
    (convolution, "forward", "convolution, forward"),
    (convolution, "backward", "convolution, backward: patches and the rest"),
    (convolution, "backward_weight", "convolution, backward: patches and the rest"),
    (convolution._Products, "add", "convolution, backward: weight"),
    (convolution.PatchSum, "onto", "convolution, backward: input"),
    (normalization, "of_batch", "batch norm, forward"),
    (normalization, "forward", "batch norm, forward"),
    (normalization, "backward", "batch norm, backward"),
    (operations, "rectified", "relu, forward"),
    (operations, "where_positive", "relu, backward"),
    (operations, "added", "adding"),
    (ParameterVectors, "optimizer_step", "optimizer"),
]
"""The functions that do the work, and of which kind it is; the time of one within another counts only for itself."""


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Within it, the seconds of each kind are summed up in the dict that it gives. For one thread only."""
    kinds: dict[str, float] = defaultdict(float)
    inner = [0.0]

    def wrapped(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                seconds = time.perf_counter() - start
                kinds[kind] += seconds - inner.pop()
                inner[-1] += seconds

        return wrapper

    multiply, turned = convolution._multiply, convolution._backward_rotated

    def backward_rotated(*arguments: Any) -> Any:
        # the function that also computes the output of a convolution: within this one it is the input's gradient
        with replaced(convolution, "_multiply", wrapped("convolution, backward: input", multiply)):
            return turned(*arguments)

    with ExitStack() as stack:
        for owner, name, kind in TIMED:
            stack.enter_context(replaced(owner, name, wrapped(kind, getattr(owner, name))))
        stack.enter_context(replaced(convolution, "_backward_rotated", backward_rotated))
        yield kinds


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within it, the owner's attribute is ``value``."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
