"""Which tensors of the process are weights in sparse training, and where they are active.

Compiled models get their Parameters as arguments, and find the positions of the active weights here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sparsecore_torch.arrays import gather, scatter


@attrs.define(eq=False)
class SparseWeight:
    """A dense Parameter of masked storage, by its active positions.

    Attributes:
        name: the name of the tensor in the layout.
        shape: the dense shape.
        indices: row-major indices of the active weights, ascending, int32 or int64, (N_i,).
        check: raises an error if something else has written weights that are not active.
        is_gradient_dense: whether the gradients of all positions are needed in the present step.
    """

    name: str
    shape: tuple[int, ...]
    indices: Tensor
    check: Callable[[], None]
    is_gradient_dense: bool = False

    def entries(self, stored: Tensor) -> Tensor:
        """Return the active values, (N_i,), of the tensor that stores them."""
        return gather(stored.detach(), self.indices)

    def add_to(self, gradient: Tensor | None, entries: Tensor) -> Tensor:
        """Return the gradient of the tensor that stores the weights.

        Args:
            gradient: the sum so far; None at first.
            entries: the gradients of the active values, (N_i,).
        """
        own = scatter(entries, self.indices.long(), self.shape)
        return own if gradient is None else gradient.add_(own)


_weights: Any = WeakIdKeyDictionary()


def register(parameter: Tensor, weight: SparseWeight) -> None:
    """Declare a Parameter to be a sparse weight, in place of what it was declared to be before."""
    _weights[parameter] = weight


def unregister(parameter: Tensor) -> None:
    """Declare that a Parameter is a plain one; does nothing if it is."""
    _weights.pop(parameter, None)


def find(tensor: Tensor) -> SparseWeight | None:
    """Return what a tensor is declared to be; None for a plain one."""
    found: SparseWeight | None = _weights.get(tensor)
    return found


IS_CUTTING = False
"""Whether a model is running that is compiled into regions; its modules then show their weights to the compiler."""

_lock, _running = threading.Lock(), 0


@contextmanager
def cutting() -> Iterator[None]:
    """Run a model that is compiled into regions; several threads may."""
    _count_running(1)
    try:
        yield
    finally:
        _count_running(-1)


def _count_running(more: int) -> None:
    global IS_CUTTING, _running  # noqa: PLW0603  (torch.compile guards globals, but not context variables)
    with _lock:
        _running += more
        IS_CUTTING = _running > 0
