"""Compact storage: one Parameter of the N active weights in place of the dense Parameters, which saves memory."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.ledger import Ledger
from sparsecore_torch.arrays import active_indices, as_tensor, gather_active, put_entries, scatter
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.momentum import momentum_buffer
from sparsecore_torch.sparse_training.storage.compact_group import CompactGroup, check_alone
from sparsecore_torch.sparse_training.storage.compact_modules import (
    check_modules,
    free_number,
    make_compact,
    make_dense,
)
from sparsecore_torch.sparse_training.storage.compact_optimizer import (
    CompactState,
    OptimizerFingerprint,
    gathered_state,
    in_place,
)
from sparsecore_torch.sparse_training.storage.compact_weights import CompactWeights, resize
from sparsecore_torch.sparse_training.storage.dense_gradients import DenseGradients, KeptGradient, world_size
from sparsecore_torch.sparse_training.storage.plain_state_dicts import PlainModelState, PlainOptimizerState
from sparsecore_torch.sparse_training.storage.storage import ledger_of


@final
class CompactStorage:
    """One Parameter of N values; implements :class:`sparsecore_torch.sparse_training.storage.storage.Storage`.

    Optimizer, schedulers and DistributedDataParallel see one Parameter, whose size never changes. A layer's dense
    weight is made when the layer reads it. It is not kept for the backward pass but made again there, and its gradient
    is gathered to the active entries.

    Args:
        model: the values are registered on it as ``sparse_values``, or with a number behind it.
        tensors: the sparse tensors, in the order of the layout.
        optimizer: trains them; the values replace them in it, with their part of its state.
        topology: the active positions.
        values: their start values, (N,).

    Raises:
        InputError: a module or the optimizer cannot work so; nothing has changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Sequence[NamedParameter],
        optimizer: Optimizer,
        topology: Topology,
        values: Tensor,
    ) -> None:
        model = check_modules(model, tensors)
        dtype = _common_dtype(tensors)
        self._optimizer = optimizer
        self._names = tuple(one.names for one in tensors)
        self._group = CompactGroup.of(optimizer, tensors)
        state = gathered_state(optimizer, tensors, lambda dense: _gathered(dense, topology))
        self._weights = CompactWeights(model, topology, free_number(model))
        make_compact(self._weights, tensors)
        self._fingerprint = OptimizerFingerprint(optimizer, topology, self._weights.topology_name)
        self._group.insert_values(self._weights.register(values.detach().to(dtype, copy=True)), state)
        self._state = CompactState.of(optimizer, self._weights)
        weights = self._weights
        self._kept = KeptGradient(optimizer, lambda: weights.values)

    def values(self) -> Tensor:
        """Return the N values, at least float32, so that the strategies of every backend can compute with them."""
        values = self._weights.values.detach()
        return values.to(torch.promote_types(values.dtype, torch.float32))

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        self._weights.values.copy_(values)

    def enforce(self) -> None:
        """Average the dense gradients over ranks, where these are expected; inactive weights need no clearing."""
        self._fingerprint.carried(self._weights.topology)
        if self._weights.dense_gradients is not None:
            self._weights.dense_gradients.reduce()

    @torch.no_grad()
    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to a new topology and its values; state and gradients follow the weights, zero where a weight grew.

        Raises:
            InputError: the number of weights changes among several processes, or a copy of the model is kept as an
                average; nothing has changed then.
        """
        _check_size(reallocation.before.size, reallocation.after.size)
        self._weights.check_copies()
        values = self._weights.values
        is_new = torch.zeros(reallocation.after.size, dtype=torch.bool, device=values.device)
        is_new[as_tensor(reallocation.grown_slots)] = True
        self._state.carry(reallocation.carry, is_new, as_tensor(reallocation.values))
        buffer = momentum_buffer(self._optimizer, values)
        if buffer is not None and reallocation.momentum is not None:
            put_entries(buffer, as_tensor(reallocation.grown_slots), as_tensor(reallocation.momentum))
        gradient = None if values.grad is None else in_place(values.grad, reallocation.carry(values.grad))
        resize(values, reallocation.after.size)
        values.grad = gradient
        self._weights.move(reallocation.after)
        self._fingerprint.carried(reallocation.after)
        self.set_values(as_tensor(reallocation.values))

    @torch.no_grad()
    def restore(self, topology: Topology) -> None:
        """Take up a saved topology; the model has loaded its values, or will load them.

        The optimizer's state and the gradient follow the weights by position, unless the optimizer has loaded a state
        since the last step. Where a strategy has changed the number of weights, values can be loaded only after this.

        Args:
            topology: the active positions from now on.
        """
        before, values = self._weights.topology, self._weights.values
        carry, is_new = carrier(before, topology)
        if not self._fingerprint.has_loaded:
            self._state.carry(carry, is_new, values.new_zeros(topology.size))
            self._fingerprint.carried(topology)
        gradient = None if values.grad is None else carry(values.grad)
        resize(values, topology.size)
        values.grad = gradient
        self._weights.topology = topology

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:  # noqa: ARG002
        """Check that the values and the optimizer's state belong to the topology, whatever the name.

        Raises:
            InputError: they were loaded from another one.
        """
        self._weights.check()
        self._fingerprint.check(self._weights.topology)

    def nonzero_positions(self) -> Tensor:
        """Raise an error: there is no memory for inactive weights.

        Raises:
            InputError: always.
        """
        raise InputError(
            "compact storage has no memory for weights that are not active, so that there is nothing to adopt: load "
            "the state dict of the training that was saved with the model's, training.load_state_dict(), "
            "or take storage='masked'"
        )

    def expect_gradient(
        self,
        *,
        dense: bool,
        is_step_replaced: bool = False,  # noqa: ARG002
        active: bool = False,
        candidates: Topology | None = None,
    ) -> None:
        """Collect gradients of inactive weights until the next step, or drop them; those of the last are dropped."""
        if self._weights.dense_gradients is not None:
            self._weights.dense_gradients.close()
        self._weights.dense_gradients = None
        has_inactive = dense or candidates is not None
        self._kept.is_expected, self._kept.copy = active or has_inactive, None
        if has_inactive:
            self._weights.dense_gradients = DenseGradients(
                self._weights.values, self._kept, self._weights.topology, candidates
            )

    def active_gradient(self) -> Tensor:
        """Return the gradients of the values in the last step, (N,), at least float32; zeros where none has arrived."""
        values = self._weights.values.detach()
        gradient = torch.zeros_like(values) if self._kept.copy is None else self._kept.copy
        return gradient.to(torch.promote_types(gradient.dtype, torch.float32))

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates in the last step, at least float32.

        Raises:
            RuntimeError: none were expected.
        """
        gradients = self._weights.dense_gradients
        if gradients is None:
            raise RuntimeError("the gradients of candidates have not been collected")
        entries = gradients.of_candidates()
        return entries.to(torch.promote_types(entries.dtype, torch.float32))

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step.

        Args:
            name: of the tensor.

        Returns:
            (D_i,), row-major, scaled as the gradient of the values has been since the backward pass.

        Raises:
            RuntimeError: dense gradients were not expected.
        """
        topology, gradients = self._weights.topology, self._weights.dense_gradients
        if gradients is None:
            raise RuntimeError(f"the dense gradient of {name} has not been collected")
        return gradients.of(topology.layout.index(name))

    def weight_gradient(self) -> Tensor:
        """Return the gradients of the values, (N,), at least float32; zero where none has arrived."""
        values = self._weights.values
        gradient = torch.zeros_like(values) if values.grad is None else values.grad
        return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))

    @torch.no_grad()
    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradients of the values, where one has arrived."""
        if self._weights.values.grad is not None:
            self._weights.values.grad.copy_(weight_gradient)

    def stepped_entries(self, name: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the N values, and where the weights are among them."""
        topology = self._weights.topology
        tensor = topology.layout.index(name)
        slots = torch.searchsorted(active_indices(topology, tensor), indices)
        return self._weights.values, slots + topology.bounds[tensor]

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights, (N_i,), at least float32, or None."""
        buffer = momentum_buffer(self._optimizer, self._weights.values)
        if buffer is None:
            return None
        return buffer[self._weights.topology.slots(name)].to(torch.promote_types(buffer.dtype, torch.float32))

    @torch.no_grad()
    def squash(self) -> None:
        """Put dense Parameters back under their old names, on the model and in the optimizer, with their state.

        Raises:
            InputError: the values were loaded from another topology.
        """
        self._weights.check()
        self._fingerprint.end()
        self._kept.close()
        self.expect_gradient(dense=False)
        values, topology = self._weights.values, self._weights.topology
        states = self._state.scattered(topology)
        dense = make_dense(self._weights.model, self._weights)
        parameters = [dense[index] for index in range(len(topology.layout))]
        if values.grad is not None:
            for index, parameter in enumerate(parameters):
                parameter.grad = _dense(values.grad, index, topology)
        self._group.restore_dense(values, parameters, states)

    def keep_state_dicts_plain(self) -> None:
        """Let the state dicts of model and optimizer be those of dense parameters from now on."""
        check_alone(self._optimizer)
        self._weights.add_state_dict_hook(PlainModelState(self._weights, self._names))
        self._fingerprint.add_state_dict_hook(
            PlainOptimizerState(
                self._group, self._weights.topology_name, lambda: self._state.scattered(self._weights.topology)
            )
        )

    def ledger(self) -> Ledger:
        """Return the bytes of values, positions, gradients and optimizer state, dense parameters included."""
        return ledger_of(self._optimizer, [as_tensor(self._weights.topology.positions)])


def carrier(before: Topology, after: Topology) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Make a function that carries one entry for each weight from one topology to another by position.

    Args:
        before: the topology that the entries belong to.
        after: the topology that they are carried to.

    Returns:
        The function, from (N before,) to (N after,), zero for new weights; and True for each new weight, (N after,).
    """
    old, new = as_tensor(before.positions), as_tensor(after.positions)
    slots = torch.searchsorted(old, new).clamp_(max=before.size - 1)
    found = old[slots] == new

    def carry(entries: Tensor) -> Tensor:
        return torch.where(found, entries[slots], torch.zeros((), dtype=entries.dtype, device=entries.device))

    return carry, ~found


def _check_size(before: int, after: int) -> None:
    if before != after and world_size() > 1:
        raise InputError(
            f"the strategy changes the number of weights from {before} to {after}, and among several processes the one "
            "Parameter of compact storage cannot follow; take storage='masked'"
        )


def _common_dtype(tensors: Sequence[NamedParameter]) -> torch.dtype:
    dtypes = {one.parameter.dtype: one.name for one in tensors}
    if len(dtypes) > 1:
        listed = ", ".join(f"{name} is {str(dtype).removeprefix('torch.')}" for dtype, name in dtypes.items())
        raise InputError(
            f"compact storage trains all sparse tensors as one, so that they must be of one dtype; {listed}"
        )
    return next(iter(dtypes))


def _gathered(dense: Sequence[Tensor], topology: Topology) -> Tensor:
    """Return the N active entries of dense tensors, in the order of the layout."""
    return torch.cat([gather_active(one.detach(), topology, index) for index, one in enumerate(dense)])


def _dense(entries: Tensor, index: int, topology: Topology) -> Tensor:
    """One tensor, dense, of N active entries."""
    slots = entries[topology.bounds[index] : topology.bounds[index + 1]]
    return scatter(slots, active_indices(topology, index), topology.layout.shapes[index])
