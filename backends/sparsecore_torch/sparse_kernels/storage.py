"""A storage whose layers run through the sparse kernels, whatever they are stored in."""

from collections.abc import Sequence
from typing import final

import attrs
from torch import Tensor

from sparsecore.ledger import Bytes, Ledger
from sparsecore.reallocation import Reallocation
from sparsecore.topology import Topology
from sparsecore_torch.sparse_kernels.modules import Route
from sparsecore_torch.storages.storage import Storage


@final
class RoutedStorage:
    """See :class:`sparsecore_torch.storages.storage.Storage`; all of it is the inner storage's.

    What the routes have to know is passed on to them: where weights are, and whether a dense gradient is wanted. In
    the step that it is wanted for, layers are the inner storage's dense ones.

    Args:
        inner: where the weights lie.
        routes: of the modules, which are taken from now on.
    """

    def __init__(self, inner: Storage, routes: Sequence[Route]) -> None:
        self._inner = inner
        self._routes = tuple(routes)
        for route in self._routes:
            route.enter(check=inner.check_written)

    def values(self) -> Tensor:
        """The N values in the order of the topology's positions."""
        return self._inner.values()

    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        self._inner.set_values(values)

    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero."""
        self._inner.enforce()

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values."""
        self._inner.reallocate(reallocation)
        self._move(reallocation.after)

    def restore(self, topology: Topology) -> None:
        """Take up a saved topology."""
        self._inner.restore(topology)
        self._move(topology)

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if something else has written weights that do not belong to the topology."""
        self._inner.check_written(name, thoroughly=thoroughly)

    def nonzero_positions(self) -> Tensor:
        """The positions of all nonzero weights, active or not."""
        return self._inner.nonzero_positions()

    def await_gradient(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to arrive dense."""
        self._inner.await_gradient(dense=dense)
        for route in self._routes:
            route.expect(dense=dense)

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor in the step just taken."""
        return self._inner.gradient(name)

    def squash(self) -> None:
        """End: modules are of their own classes again, then whatever the inner storage does."""
        for route in self._routes:
            route.leave()
        self._inner.squash()

    def ledger(self) -> Ledger:
        """Bytes of the inner storage; among the indices what the kernels have made of the positions so far."""
        inner, lists = self._inner.ledger(), sum(route.nbytes for route in self._routes)
        indices = Bytes(inner.indices.theoretical + lists, inner.indices.measured + lists)
        return attrs.evolve(inner, indices=indices)

    def _move(self, topology: Topology) -> None:
        for route in self._routes:
            route.move(topology)
