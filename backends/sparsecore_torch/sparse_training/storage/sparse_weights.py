"""Which tensors of the process are weights in sparse training, and where they are active.

Compiled models get their Parameters as arguments, and find the positions of the active weights here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from sparsecore.engine.topology import Topology
from sparsecore_torch._torch_internals.tensors import storage_identity, write_count
from sparsecore_torch.arrays import active_indices, flat_memory, gather, memory_offsets, shortened
from sparsecore_torch.tensors import is_non_overlapping_and_dense

_weakly: Callable[[torch.UntypedStorage], Any] = StorageWeakRef


@attrs.define(eq=False)
class SparseWeight:
    """A dense Parameter of masked storage, by its active positions.

    The entries are read and written where they lie in memory, so that no copy of a weight in channels last is made.

    Attributes:
        name: the name of the tensor in the layout.
        topology: the active positions.
        check: raises an error if something else has written weights that are not active.
        is_gradient_dense: whether the gradients of all positions are needed in the present step.
    """

    name: str
    topology: Topology
    check: Callable[[], None]
    is_gradient_dense: bool = False
    _indices: Tensor | None = attrs.field(default=None, init=False, repr=False)
    _offsets: dict[tuple[int, ...], Tensor] = attrs.field(factory=dict, init=False, repr=False)
    _made: tuple[Any, int] | None = attrs.field(default=None, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense shape."""
        return self.topology.layout.shapes[self._number]

    @property
    def count(self) -> int:
        """The number of active weights."""
        return int(self.topology.counts[self._number])

    @property
    def indices(self) -> Tensor:
        """Row-major indices of the active weights, ascending, int32 or int64, (N_i,); made when they are first read."""
        if self._indices is None:
            self._indices = shortened(active_indices(self.topology, self._number))
        return self._indices

    @property
    def index_tensors(self) -> list[Tensor]:
        """All indices that have been made so far."""
        return [one for one in (self._indices, *self._offsets.values()) if one is not None]

    def entries(self, stored: Tensor) -> Tensor:
        """Return the active values, (N_i,), of the tensor that stores them."""
        plain = stored.detach()
        if not is_non_overlapping_and_dense(plain):
            return gather(plain, self.indices)
        return flat_memory(plain).index_select(0, self._offsets_in(plain))

    def add_to(self, stored: Tensor, gradient: Tensor | None, entries: Tensor) -> Tensor:
        """Return the gradient of the tensor that stores the weights.

        Args:
            stored: that tensor.
            gradient: the sum so far, which is added to in place; None at first.
            entries: the gradients of the active values, (N_i,).

        Returns:
            The dense gradient, zero at inactive positions, in the memory format of the tensor.
        """
        if gradient is None:
            gradient = torch.zeros_like(stored, dtype=entries.dtype, requires_grad=False)
            flat_memory(gradient).index_copy_(0, self._offsets_in(gradient).long(), entries)
        else:
            flat_memory(gradient).index_add_(0, self._offsets_in(gradient), entries)
        self._made = (_weakly(gradient.untyped_storage()), write_count(gradient))
        return gradient

    def has_made(self, gradient: Tensor) -> bool:
        """Return whether a gradient is the latest of :meth:`add_to`, and has not been written to since.

        Writes that torch does not count are missed.

        Args:
            gradient: a strided tensor.
        """
        if self._made is None:
            return False
        storage, writes = self._made
        # a weak reference keeps the number of a storage from being given to another one
        return bool(storage.cdata == storage_identity(gradient)) and write_count(gradient) == writes

    @property
    def _number(self) -> int:
        return self.topology.layout.index(self.name)

    def _offsets_in(self, tensor: Tensor) -> Tensor:
        """Return where the active entries lie in the memory of a tensor of these strides."""
        strides = tensor.stride()
        if strides not in self._offsets:
            self._offsets[strides] = memory_offsets(self.indices, tensor)
        return self._offsets[strides]


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
