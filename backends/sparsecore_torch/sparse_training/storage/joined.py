"""The storages of several optimizers as one: each keeps the sparse tensors that its optimizer trains."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsecore.engine.partition import Partition
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training.storage.storage import Storage, ledger_of


@final
class JoinedStorage:
    """Several storages; implements :class:`sparsecore_torch.sparse_training.storage.storage.Storage`.

    Args:
        parts: the storages.
        partition: the tensors of each.
        topology: the active positions of all.
        others: optimizers that train dense parameters alone, whose bytes count as well.
    """

    def __init__(
        self, parts: Sequence[Storage], partition: Partition, topology: Topology, others: Sequence[Optimizer]
    ) -> None:
        self._parts = tuple(parts)
        self._partition = partition
        self._topologies = partition.split(topology)
        self._candidates: tuple[Topology, ...] = ()
        self._others = tuple(others)

    def values(self) -> Tensor:
        """Return the N values, in the widest dtype of all parts."""
        return self._joined([part.values() for part in self._parts], self._topologies)

    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        topology = self._partition.join(self._topologies)
        for part, own in zip(self._parts, self._partition.split_vector(values, topology), strict=True):
            part.set_values(as_tensor(own))

    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero, in all parts."""
        self._each(lambda part: part.enforce())

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to a new topology and its values."""
        for part, own in zip(self._parts, self._partition.split_reallocation(reallocation), strict=True):
            part.reallocate(own)
        self._topologies = self._partition.split(reallocation.after)

    def restore(self, topology: Topology) -> None:
        """Take up a saved topology."""
        self._topologies = self._partition.split(topology)
        for part, own in zip(self._parts, self._topologies, strict=True):
            part.restore(own)

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Check that nothing but the training has written weights that do not belong to the topology."""
        for part in self._parts if name is None else (self._part(name),):
            part.check_written(name, thoroughly=thoroughly)

    def nonzero_positions(self) -> Tensor:
        """Return the positions of all nonzero weights, active or not; ascending, int64."""
        owns = zip(self._parts, self._topologies, strict=True)
        nonzero = [own.at(part.nonzero_positions().to(as_tensor(own.positions).dtype)) for part, own in owns]
        return as_tensor(self._partition.join(nonzero).positions).long()

    def expect_gradient(
        self,
        *,
        dense: bool,
        is_step_replaced: bool = False,
        active: bool = False,
        candidates: Topology | None = None,
    ) -> None:
        """Prepare for the gradients of the next step, in all parts."""
        self._candidates = () if candidates is None else self._partition.split(candidates)
        for index, part in enumerate(self._parts):
            own = self._candidates[index] if self._candidates else None
            part.expect_gradient(dense=dense, is_step_replaced=is_step_replaced, active=active, candidates=own)

    def active_gradient(self) -> Tensor:
        """Return the gradients of the active weights in the last step, in the widest dtype of all parts."""
        return self._joined([part.active_gradient() for part in self._parts], self._topologies)

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates in the last step, in the widest dtype of all parts."""
        return self._joined([part.candidate_gradient() for part in self._parts], self._candidates)

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step, (D_i,)."""
        return self._part(name).gradient(name)

    def weight_gradient(self) -> Tensor:
        """Return the gradients of the active weights, (N,), in the widest dtype of all parts."""
        return self._joined([part.weight_gradient() for part in self._parts], self._topologies)

    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradients of the active weights."""
        topology = self._partition.join(self._topologies)
        for part, own in zip(self._parts, self._partition.split_vector(weight_gradient, topology), strict=True):
            part.set_weight_gradient(as_tensor(own))

    def stepped_entries(self, name: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the tensor's optimizer has some of its weights."""
        return self._part(name).stepped_entries(name, indices)

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights, (N_i,), or None."""
        return self._part(name).momentum(name)

    def squash(self) -> None:
        """Make the model a plain one, and remove every hook from it and its optimizers."""
        self._each(lambda part: part.squash())

    def keep_state_dicts_plain(self) -> None:
        """Let the state dicts of model and optimizers be those of dense parameters."""
        self._each(lambda part: part.keep_state_dicts_plain())

    def ledger(self) -> Ledger:
        """Return the bytes of all that the optimizers train."""
        ledgers = [*(part.ledger() for part in self._parts), *(ledger_of(one, []) for one in self._others)]
        kinds = ("values", "indices", "gradients", "optimizer_state")
        return Ledger(**{kind: _sum([getattr(one, kind) for one in ledgers]) for kind in kinds})

    def _joined(self, vectors: Sequence[Tensor], topologies: Sequence[Topology]) -> Tensor:
        dtype = reduce(torch.promote_types, (one.dtype for one in vectors))
        return as_tensor(self._partition.join_vectors([one.to(dtype) for one in vectors], topologies))

    def _part(self, name: str) -> Storage:
        part, _ = self._partition.places[self._partition.layout.index(name)]
        return self._parts[part]

    def _each(self, act: Callable[[Storage], Any]) -> None:
        for part in self._parts:
            act(part)


def _sum(parts: Sequence[Bytes]) -> Bytes:
    return Bytes(sum(one.theoretical for one in parts), sum(one.measured for one in parts))
