"""Sharded storage, experimental: parameters that FSDP2 (``fully_shard``) has spread over the ranks, kept masked.

Each rank masks its own shard, every step. An update gathers one tensor after another, so that every rank has the N
values and decides for itself, and takes back its shard of what came of it.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Ledger
from sparsecore_torch.arrays import scatter
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.copies import values_of
from sparsecore_torch.sparse_training.optimizers.probe import fill
from sparsecore_torch.sparse_training.optimizers.state import OptimizerStates, put_fresh
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask
from sparsecore_torch.sparse_training.storage.masked import gathered, indices_of, ledger_of, mask_of, nonzero_of
from sparsecore_torch.sparse_training.storage.write_tracking import ForeignWrites
from sparsecore_torch.tensors import full_tensor, local_shard, shard_like


@final
class ShardedStorage:
    """Storage of parameters that are sharded; all ranks call :meth:`values` and :meth:`gradient`.

    Parameters are looked up by name whenever they are needed: ``fully_shard`` has other objects in their place while
    it computes. Their gradients reach only hooks that follow the reduction over ranks.

    Args:
        tensors: the sparse tensors, in the order of the layout.
        optimizer: what trains them, made after ``fully_shard``.
        topology: the active positions.
        values: their start values.
    """

    def __init__(
        self, tensors: Sequence[NamedParameter], optimizer: Optimizer, topology: Topology, values: Tensor
    ) -> None:
        self._tensors = {one.name: one for one in tensors}
        self._optimizer = optimizer
        self._states = OptimizerStates(optimizer, self._parameters)
        self._topology = topology
        self._masks = {
            name: BitMask(shard_like(mask_of(topology, name), one.parameter), local_shard(one.parameter))
            for name, one in self._tensors.items()
        }
        self._written = ForeignWrites(
            lambda: {name: local_shard(one) for name, one in self._parameters.items()}, self._masks
        )
        self._dense = False
        self._handles = [
            one.parameter.register_post_accumulate_grad_hook(self._hook(name))  # type: ignore[no-untyped-call]
            for name, one in self._tensors.items()
        ]
        self.set_values(values)
        self._clean()

    def values(self) -> Tensor:
        """The N values, at least float32; gathered tensor by tensor."""
        return gathered(self._parameters, self._topology)

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        for name, parameter in self._parameters.items():
            slots = self._topology.slots(name)
            dense = scatter(values[slots], indices_of(self._topology, name), parameter.shape)
            local_shard(parameter).copy_(shard_like(dense, parameter))
        self._written.note(self._tensors)

    @torch.no_grad()
    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero."""
        for name, parameter in self._parameters.items():
            self._masks[name].fill(local_shard(parameter))
            for content, entry in self._states.entries(name, parameter):
                if entry.is_zeroed:
                    self._masks[name].fill(local_shard(content))
        self._written.note(self._tensors)

    @torch.no_grad()
    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; survivors stay where they are, and so does their state."""
        self._move(reallocation.after)
        self.set_values(reallocation.values)
        self._clean()
        self._states.renew(self._parameters)
        grown = reallocation.grown_weights
        for name, parameter in self._parameters.items():
            self._begin(name, shard_like(mask_of(grown, name), parameter) != 0)

    @torch.no_grad()
    def restore(self, topology: Topology) -> None:
        """Take up a topology; no weight is changed, as the model's may be those of it, or still to be loaded."""
        self._move(topology)
        self._clean_state()
        self._clean_gradients()
        self._states.renew(self._parameters)
        for name, parameter in self._parameters.items():
            for content, entry in self._states.entries(name, parameter):
                if entry.is_kept_apart:
                    bare = values_of(local_shard(content)) == entry.inactive
                    put_fresh(local_shard(content), entry, self._masks[name].active & bare, local_shard(parameter))
        self._written.forget()

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if weights of this rank's shards that are not active are nonzero."""
        names = list(self._tensors) if name is None else [name]
        self._written.check(names if thoroughly else self._written.changed(names))

    def nonzero_positions(self) -> Tensor:
        """The positions of all nonzero weights, active or not, gathered tensor by tensor."""
        return nonzero_of(self._parameters, self._topology)

    def await_gradient(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to stay dense."""
        self._dense = dense

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor in the step just taken, gathered; zeros where none has come."""
        gradient = self._tensors[name].parameter.grad
        if gradient is None:
            layout = self._topology.layout
            return torch.zeros(layout.sizes[layout.index(name)], device=self._topology.positions.device)
        return full_tensor(gradient).reshape(-1)

    @torch.no_grad()
    def squash(self) -> None:
        """End: zeros are baked in, hooks are gone, and inactive weights begin with the state of fresh ones."""
        self._clean()
        self._states.renew(self._parameters)
        for name in self._tensors:
            self._begin(name, ~self._masks[name].active)
        for handle in self._handles:
            handle.remove()

    def ledger(self) -> Ledger:
        """Bytes of this rank: its shards, their masks, gradients and optimizer state, and the positions."""
        masks = [tensor for mask in self._masks.values() for tensor in mask.tensors]
        return ledger_of(self._optimizer, [*masks, self._topology.positions])

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: one.parameter for name, one in self._tensors.items()}

    def _hook(self, name: str) -> Any:
        def arrived(parameter: Tensor) -> None:
            # in a step whose dense gradient is wanted the optimizer may see it whole: what it does is undone after it
            if parameter.grad is not None and not self._dense:
                self._masks[name].fill(local_shard(parameter.grad))

        return arrived

    def _begin(self, name: str, where: Tensor) -> None:
        """Let the state of some weights of this rank's shard begin anew."""
        parameter = self._tensors[name].parameter
        for content, entry in self._states.entries(name, parameter):
            put_fresh(local_shard(content), entry, where, local_shard(parameter))

    def _move(self, topology: Topology) -> None:
        self._topology = topology
        for name, parameter in self._parameters.items():
            self._masks[name].change(shard_like(mask_of(topology, name), parameter))

    def _clean(self) -> None:
        self.enforce()
        self._clean_state()
        self._clean_gradients()

    def _clean_state(self) -> None:
        for name, parameter in self._parameters.items():
            for content, entry in self._states.entries(name, parameter):
                if entry.is_zeroed:
                    self._masks[name].fill(local_shard(content))
                else:
                    fill(local_shard(content), ~self._masks[name].active, entry.inactive)

    def _clean_gradients(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._masks[name].fill(local_shard(parameter.grad))
