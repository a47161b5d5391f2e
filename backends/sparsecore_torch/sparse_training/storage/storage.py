"""What sparse training of somebody's own model asks of where its weights lie."""

from typing import Protocol

from torch import Tensor

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Ledger


class Storage(Protocol):
    """The weights of the sparse tensors and their optimizer state: the buffers, and all that changes in place.

    After each optimizer step: :meth:`enforce`, then (where the engine needs them) :meth:`values`, and
    :meth:`set_values` or :meth:`reallocate` with what came of them. None of these is recorded by autograd.
    """

    def values(self) -> Tensor:
        """The N values in the order of the topology's positions; a new tensor, or one not to be written to."""
        ...

    def set_values(self, values: Tensor) -> None:
        """Replace the N values (a perturbation); optimizer state stays."""
        ...

    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero, whatever the optimizer did."""
        ...

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; optimizer state is carried along, zero where a weight grew."""
        ...

    def restore(self, topology: Topology) -> None:
        """Take up a topology; the values are those that the model has loaded, or will load, and none is changed."""
        ...

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if something else has written weights that do not belong to the topology.

        Args:
            name: the tensor to look at; all where it is None.
            thoroughly: whether tensors are looked at that have not been written to as far as torch knows.
        """
        ...

    def nonzero_positions(self) -> Tensor:
        """The positions of all nonzero weights, active or not; ascending, int64.

        Raises:
            InputError: the storage has no place for weights that are not active.
        """
        ...

    def await_gradient(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to arrive dense (a strategy asked), or only where weights are."""
        ...

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor in the step just taken: D_i entries, row-major; after a dense wait only."""
        ...

    def squash(self) -> None:
        """End: the model is a plain one again, zeros baked in, and nothing of ours is left on it or its optimizer."""
        ...

    def ledger(self) -> Ledger:
        """Bytes of values, indices, gradients and optimizer state."""
        ...
