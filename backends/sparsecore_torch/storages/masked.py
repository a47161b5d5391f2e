"""Dense storage: parameters stay plain parameters, and what is inactive in them is kept at zero."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import final
from weakref import finalize

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.ledger import Ledger
from sparsecore.reallocation import Reallocation
from sparsecore.topology import Topology
from sparsecore_torch.materialize import gather, places, scatter
from sparsecore_torch.sparsifying.optimizer_state import state_tensors
from sparsecore_torch.sparsifying.parameters import NamedParameter
from sparsecore_torch.storages.arrival import Arrival
from sparsecore_torch.storages.bits import Bits
from sparsecore_torch.storages.dense_ledger import ledger_of
from sparsecore_torch.storages.foreign_writes import ForeignWrites
from sparsecore_torch.storages.shards import whole


@final
class MaskedStorage:
    """See :class:`sparsecore_torch.storages.storage.Storage`.

    A tensor hook takes the gradients of inactive positions away as they arrive, so that accumulation, clipping, loss
    scaling and the reduction over ranks see what belongs to weights that exist.

    Args:
        tensors: the sparse tensors, in the order of the layout.
        optimizer: what trains them.
        topology: the active positions.
        values: their start values.
    """

    def __init__(
        self, tensors: Sequence[NamedParameter], optimizer: Optimizer, topology: Topology, values: Tensor
    ) -> None:
        self._optimizer = optimizer
        self._topology = topology
        self._parameters = {one.name: one.parameter for one in tensors}
        self._bits = {name: Bits(mask_of(topology, name), parameter) for name, parameter in self._parameters.items()}
        self._arrival = Arrival(optimizer, self._parameters, self._bits)
        self._written = ForeignWrites(lambda: self._parameters, self._bits)
        # parameters that outlive their training are plain ones again
        finalize(self, self._arrival.end).atexit = False
        self.set_values(values)
        self._clean()

    def values(self) -> Tensor:
        """The N values, at least float32, so that every backend's strategies can compute with them."""
        return gathered(self._parameters, self._topology)

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        for name, parameter in self._parameters.items():
            slots = self._topology.slots(name)
            parameter.copy_(scatter(values[slots], indices_of(self._topology, name), parameter.shape))
        self._written.note()

    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero."""
        for name, parameter in self._parameters.items():
            self._bits[name].fill(parameter)
        self._clean_state()
        self._written.note()

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; survivors stay where they are, and so does their state."""
        self._forget(reallocation.after.at(reallocation.grown_positions))
        self._move(reallocation.after)
        self.set_values(reallocation.values)
        self._clean()

    def restore(self, topology: Topology) -> None:
        """Take up a topology; no weight is changed, as the model's may be those of it, or still to be loaded."""
        self._move(topology)
        self._clean_state()
        self._clean_gradients()
        self._written.forget()

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if weights that are not active are nonzero."""
        self._written.check(name, thoroughly=thoroughly)

    def nonzero_positions(self) -> Tensor:
        """The positions of all nonzero weights, active or not."""
        return nonzero_of(self._parameters, self._topology)

    def await_gradient(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to arrive dense."""
        self._arrival.expect(dense=dense)

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor in the step just taken."""
        return self._arrival.gradient(name)

    def squash(self) -> None:
        """End: zeros are baked in, hooks are gone."""
        self.enforce()
        self._arrival.end()

    def ledger(self) -> Ledger:
        """Bytes of values, masks and positions, gradients and optimizer state, dense parameters included."""
        masks = [tensor for bits in self._bits.values() for tensor in bits.tensors]
        return ledger_of(self._optimizer, [*masks, self._topology.positions])

    def _forget(self, grown: Topology) -> None:
        """No state where a weight has grown: one that was pruned in the same update has left some."""
        for name, parameter in self._parameters.items():
            old = Bits(~mask_of(grown, name), parameter)
            for state in state_tensors(self._optimizer, parameter):
                old.fill(state)

    def _move(self, topology: Topology) -> None:
        self._topology = topology
        for name, bits in self._bits.items():
            bits.change(mask_of(topology, name))

    def _clean(self) -> None:
        self.enforce()
        self._clean_gradients()

    def _clean_state(self) -> None:
        for name, parameter in self._parameters.items():
            for state in state_tensors(self._optimizer, parameter):
                self._bits[name].fill(state)

    def _clean_gradients(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._bits[name].fill(parameter.grad)


def gathered(parameters: Mapping[str, Tensor], topology: Topology) -> Tensor:
    """The N values that lie in dense tensors, in their common dtype, at least float32."""
    dtype = reduce(torch.promote_types, (parameter.dtype for parameter in parameters.values()), torch.float32)
    return torch.cat(
        [gather(whole(parameter), indices_of(topology, name)).to(dtype) for name, parameter in parameters.items()]
    )


def nonzero_of(parameters: Mapping[str, Tensor], topology: Topology) -> Tensor:
    """The positions in the layout of the nonzero entries of dense tensors, ascending, int64."""
    offsets = zip(parameters.values(), topology.layout.offsets, strict=False)
    return torch.cat([whole(parameter).reshape(-1).nonzero().view(-1) + offset for parameter, offset in offsets])


def indices_of(topology: Topology, name: str) -> Tensor:
    """Where the weights of a tensor lie within it, row-major."""
    return places(topology, topology.layout.index(name))


def mask_of(topology: Topology, name: str) -> Tensor:
    """-1 where a weight is, 0 elsewhere; int8."""
    inside = indices_of(topology, name)
    minus_one = inside.new_full((len(inside),), -1, dtype=torch.int8)
    return scatter(minus_one, inside, topology.layout.shapes[topology.layout.index(name)])
