"""Masked storage: parameters stay dense parameters, whose inactive entries are kept at zero."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import final
from weakref import WeakMethod, finalize, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Ledger
from sparsecore_torch.arrays import as_tensor, gather, put_entries, scatter
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.copies import values_of
from sparsecore_torch.sparse_training.optimizers.momentum import (
    momentum_buffer,
    start_momentum,
    start_momentum_of_shards,
)
from sparsecore_torch.sparse_training.optimizers.profile import fill, put_fresh
from sparsecore_torch.sparse_training.optimizers.state import OptimizerStates
from sparsecore_torch.sparse_training.optimizers.wrapped import others_of
from sparsecore_torch.sparse_training.storage import sparse_weights
from sparsecore_torch.sparse_training.storage.dense_entries import gathered, indices_of, mask_at, mask_of
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask, GradientMasker, Gradients
from sparsecore_torch.sparse_training.storage.nonzero_roots import NonzeroRoots, roots_of
from sparsecore_torch.sparse_training.storage.sharded_gradients import ShardedGradientMasker
from sparsecore_torch.sparse_training.storage.storage import ledger_of
from sparsecore_torch.sparse_training.storage.write_tracking import WriteTracker
from sparsecore_torch.tensors import full_tensor, is_sharded, local_shard, shard_like


@final
class MaskedStorage:
    """Dense parameters with masks; implements :class:`sparsecore_torch.sparse_training.storage.storage.Storage`.

    Gradients of inactive positions are masked as they are accumulated, so that clipping, loss scaling and the reduction
    over ranks see only those of active weights. After a step, what the optimizer has done to inactive weights and to
    their state is undone. Where it keeps zero at zero and nothing else has written to a tensor, nothing is done.

    Of parameters that FSDP2 (``fully_shard``) has sharded, which is experimental, each rank masks its own shard after
    every step. An update gathers one tensor after another, so that every rank has the N values, decides for itself, and
    takes its shard of the result. Then :meth:`values` and :meth:`gradient` are collective.

    Args:
        tensors: the sparse tensors, in the order of the layout.
        optimizer: trains them; made after ``fully_shard``.
        topology: the active positions.
        values: their start values, (N,).

    Raises:
        InputError: it cannot be found out what the optimizer keeps for each weight; nothing has changed then.
    """

    def __init__(
        self, tensors: Sequence[NamedParameter], optimizer: Optimizer, topology: Topology, values: Tensor
    ) -> None:
        self._optimizer = optimizer
        self._topology = topology
        self._tensors = {one.name: one for one in tensors}
        self._is_sharded = any(is_sharded(one.parameter) for one in tensors)
        self._shard: Callable[[Tensor], Tensor] = local_shard if self._is_sharded else lambda tensor: tensor
        self._plain = {one.name: one.parameter for one in tensors}
        self._states = OptimizerStates(optimizer, self._plain)
        self._masks = {
            name: BitMask(shard_like(mask_of(topology, name), parameter), self._shard(parameter))
            for name, parameter in self._plain.items()
        }
        self._tracker = WriteTracker(optimizer, _shards_of(self._tensors, self._plain, self._is_sharded), self._masks)
        self._roots = None if self._is_sharded else roots_of(optimizer, self._plain, self._masks)
        self._gradients: Gradients = (
            ShardedGradientMasker(optimizer, self._tensors, self._masks)
            if self._is_sharded
            else GradientMasker(optimizer, self._plain, self._masks, _before_step(self._tracker, self._roots))
        )
        start_state = WeakMethod(self._start_state)
        self._handles: list[RemovableHandle] = [
            optimizer.register_load_state_dict_post_hook(lambda _: _call(start_state))
        ]
        self._handles += [*self._gradients.handles, *(self._roots.handles if self._roots else [])]
        self._declared: dict[str, sparse_weights.SparseWeight] = {}
        self._latest: Callable[[], Tensor | None] = lambda: None  # what values() has returned, while it is alive
        self._declare()
        # parameters that outlive their training are plain ones again
        undeclare = [_undeclare(name, one, self._declared) for name, one in self._plain.items()]
        for restore in [handle.remove for handle in self._handles] + undeclare:
            finalize(self, restore).atexit = False
        self.set_values(values)
        self._clean()

    def values(self) -> Tensor:
        """Return the N values, at least float32, so that the strategies of every backend can compute with them."""
        values = gathered(self._parameters, self._topology)
        self._latest = ref(values)
        return values

    @torch.no_grad()
    def set_values(self, values: Tensor) -> None:
        """Replace the N values; optimizer state stays."""
        for name, parameter in self._parameters.items():
            own, indices = values[self._topology.slots(name)], indices_of(self._topology, name)
            if self._is_sharded:
                dense = scatter(own, indices, parameter.shape)
                self._shard(parameter).copy_(shard_like(dense, parameter))
            else:  # no dense copy is made
                self._masks[name].fill(parameter)
                put_entries(parameter, indices, own)
        self._tracker.note(self._tensors)

    @torch.no_grad()
    def enforce(self) -> None:
        """Set inactive weights and their optimizer state to zero, of the tensors where they may be nonzero."""
        zero = self._tracker.still_zero()
        others = [name for name in self._tensors if name not in zero]
        for name in others:
            if not self._masks[name].is_full:
                self._clear(name)
        self._tracker.note(others)

    @torch.no_grad()
    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to a new topology and its values; surviving weights keep their entries, and so does their state."""
        if self._is_sharded:
            self._reallocate_shards(reallocation)
            return
        self._restore_roots()
        after, pruned, grown = reallocation.after, reallocation.pruned_weights, reallocation.grown_weights
        given, grown_values = reallocation.given_values, as_tensor(reallocation.grown_values)
        are_kept = given is not None and self._latest() is given
        are_zero = grown_values.device.type == "cpu" and not bool(grown_values.any())
        self._topology = after
        self._tracker.masks_changed()
        self._declare()
        # what was inactive is zero already, after enforce(): only what was pruned and what grows is written to
        for name, parameter in self._parameters.items():
            gone, new = indices_of(pruned, name), indices_of(grown, name)
            self._masks[name].move(gone, new)
            put_entries(parameter, gone, 0.0)
            self._clear_state(name, gone)
            if not are_kept:
                put_entries(parameter, indices_of(after, name), as_tensor(reallocation.values)[after.slots(name)])
            elif not are_zero:
                put_entries(parameter, new, grown_values[grown.slots(name)])
            self._gradients.clean(name, gone)
        self._states.renew(self._parameters)
        for name, parameter in self._parameters.items():
            new = indices_of(grown, name)
            if parameter.grad is not None and self._gradients.is_kept_in_place:
                put_entries(parameter.grad, new, 0.0)
            self._start_afresh(name, parameter, new)
            start_momentum(self._optimizer, name, parameter, reallocation)
            self._note_state(name, parameter)
        self._tracker.note(self._tensors)

    def _reallocate_shards(self, reallocation: Reallocation) -> None:
        self._move(reallocation.after)
        self.set_values(as_tensor(reallocation.values))
        self._clean()
        self._states.renew(self._parameters)
        grown = reallocation.grown_weights
        for name, parameter in self._parameters.items():
            if len(indices_of(grown, name)):  # one that was pruned in the same update has left some state
                self._start_afresh_where(name, parameter, shard_like(mask_of(grown, name), parameter) != 0)
                start_momentum_of_shards(self._optimizer, name, parameter, reallocation)

    @torch.no_grad()
    def restore(self, topology: Topology) -> None:
        """Take up a topology; no weight is changed, as the model has loaded its weights or is still to load them."""
        self._move(topology)
        for name in self._tensors:
            self._clear_state(name)
        self._clean_gradients()
        self._states.renew(self._parameters)
        self._start_state()
        self._tracker.forget()

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Check that weights that are not active are zero, of sharded tensors in this rank's shards."""
        names = list(self._tensors) if name is None else [name]
        if not thoroughly and not (name is None and self._tracker.is_disturbed()):
            names = self._tracker.changed(names)
        self._tracker.check(names)

    def nonzero_positions(self) -> Tensor:
        """Return the positions of all nonzero weights, active or not; ascending, int64."""
        offsets = zip(self._parameters.values(), self._topology.layout.offsets, strict=False)
        return torch.cat([full_tensor(one).reshape(-1).nonzero().view(-1) + offset for one, offset in offsets])

    def expect_gradient(
        self,
        *,
        dense: bool,
        is_step_replaced: bool = False,
        active: bool = False,
        candidates: Topology | None = None,
    ) -> None:
        """Keep the gradients of the next step dense, or mask them."""
        # what is wrapped around the optimizer may read them nevertheless
        is_read_once = dense and is_step_replaced and not self._is_sharded and not others_of(self._optimizer)
        self._gradients.expect(
            dense=dense, in_place=is_read_once, active=self._topology if active else None, candidates=candidates
        )
        for weight in self._declared.values():
            weight.is_gradient_dense = dense or candidates is not None

    def active_gradient(self) -> Tensor:
        """Return the gradients of the active weights in the last step, (N,), at least float32."""
        return self._gradients.active_gradient()

    def candidate_gradient(self) -> Tensor:
        """Return the gradients at the candidates in the last step, at least float32."""
        return self._gradients.candidate_gradient()

    def gradient(self, name: str) -> Tensor:
        """Return the dense gradient of a tensor in the last step, (D_i,); zeros where none has arrived."""
        return self._gradients.gradient(name)

    def weight_gradient(self) -> Tensor:
        """Return the gradients of the active weights, (N,), at least float32; zero where none has arrived."""
        gradients = {
            name: torch.zeros_like(one) if one.grad is None else one.grad.detach()
            for name, one in self._parameters.items()
        }
        return gathered(gradients, self._topology)

    @torch.no_grad()
    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradients of the active weights, of the tensors at which one has arrived."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                own = weight_gradient[self._topology.slots(name)]
                put_entries(parameter.grad, indices_of(self._topology, name), own)

    def stepped_entries(self, name: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tensor's Parameter and the indices themselves."""
        return self._parameters[name], indices

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights, (N_i,), at least float32, or None."""
        buffer = momentum_buffer(self._optimizer, self._parameters[name])
        return None if buffer is None else gathered({name: buffer}, self._topology)

    @torch.no_grad()
    def squash(self) -> None:
        """Set inactive weights to zero for good, remove all hooks, and give inactive weights the state of new ones."""
        self._clean()
        self._states.renew(self._parameters)
        for name, parameter in self._parameters.items():
            self._start_afresh_where(name, parameter, ~self._masks[name].active)
        for handle in self._handles:
            handle.remove()
        for parameter in self._plain.values():
            sparse_weights.unregister(parameter)

    def keep_state_dicts_plain(self) -> None:
        """Do nothing: the state dicts are those of dense parameters anyway."""

    def ledger(self) -> Ledger:
        """Return the bytes of values, masks and positions, gradients and optimizer state; of shards, on this rank."""
        masks = [mask.bits for mask in self._masks.values()]
        indices = [made for weight in self._declared.values() for made in weight.index_tensors]
        return ledger_of(self._optimizer, [*masks, as_tensor(self._topology.positions), *indices])

    @property
    def _parameters(self) -> Mapping[str, nn.Parameter]:
        # fully_shard has other objects in the place of the parameters while the model computes
        return {name: one.parameter for name, one in self._tensors.items()} if self._is_sharded else self._plain

    def _clear(self, name: str) -> None:
        """Set the inactive entries of a tensor to zero, and those of its state that zero is meant to be in."""
        parameter, mask = self._parameters[name], self._masks[name]
        mask.fill(self._shard(parameter))
        for content, entry in self._states.entries(name, parameter):
            if entry.is_zeroed:
                mask.fill(self._shard(content))
        self._note_state(name, parameter)

    def _clear_state(self, name: str, indices: Tensor | None = None) -> None:
        """Give the state of inactive weights the values that they are to have, tensors of other classes included.

        Args:
            name: of the tensor.
            indices: row-major indices of the inactive weights whose state may be nonzero, int64; None for all.
        """
        parameter, mask = self._parameters[name], self._masks[name]
        for content, entry in self._states.entries(name, parameter):
            if entry.is_zeroed and indices is not None:
                put_entries(content, indices, 0.0)
            elif entry.is_zeroed:
                mask.fill(self._shard(content))
            else:
                fill(self._shard(content), ~mask.active, entry.inactive)

    def _start_afresh(self, name: str, parameter: Tensor, indices: Tensor) -> None:
        """Give the weights of a tensor at these row-major indices, int64, the state of new ones."""
        for content, entry in self._states.entries(name, parameter):
            if entry.is_zeroed and not entry.is_kept_apart:
                continue  # inactive entries are zero, and so are those that have just been pruned
            if entry.is_plain:
                fresh = gather(parameter.detach(), indices) if entry.follows_weight else entry.fresh or 0.0
                put_entries(content, indices, fresh)
            elif len(indices):
                put_fresh(content, entry, mask_at(indices, parameter.shape) != 0, parameter.detach())

    def _start_afresh_where(self, name: str, parameter: Tensor, where: Tensor) -> None:
        """Give some weights of a tensor the state of new ones."""
        for content, entry in self._states.entries(name, parameter):
            put_fresh(self._shard(content), entry, where, self._shard(parameter.detach()))
        self._note_state(name, parameter)

    @torch.no_grad()
    def _start_state(self) -> None:
        """Give active weights without state that of new ones, in the optimizers for which no state is not zero."""
        for name, parameter in self._parameters.items():
            active = self._masks[name].active
            for content, entry in self._states.entries(name, parameter):
                if entry.is_kept_apart:
                    shard = self._shard(content)
                    is_bare = active & (values_of(shard) == entry.inactive)
                    put_fresh(shard, entry, is_bare, self._shard(parameter.detach()))

    def _note_state(self, name: str, parameter: Tensor) -> None:
        if not self._is_sharded and self._states.profile(name).keeps_zero and not others_of(self._optimizer):
            self._tracker.note_state(name, parameter)

    def _restore_roots(self) -> None:
        if self._roots:
            self._roots.restore()

    def _move(self, topology: Topology) -> None:
        self._restore_roots()
        self._topology = topology
        for name, parameter in self._parameters.items():
            self._masks[name].change(shard_like(mask_of(topology, name), parameter))
        self._tracker.masks_changed()
        self._declare()

    def _declare(self) -> None:
        """Declare the Parameters to be sparse weights, for models that are compiled for the kernels of the CPU."""
        if self._is_sharded or any(one.device.type != "cpu" for one in self._plain.values()):
            return
        check = WeakMethod(self.check_written)
        for name, parameter in self._plain.items():
            weight = sparse_weights.SparseWeight(name, self._topology, partial(_call, check, name))
            self._declared[name] = weight
            sparse_weights.register(parameter, weight)

    def _clean(self) -> None:
        self._restore_roots()
        for name, parameter in self._parameters.items():
            self._masks[name].fill(self._shard(parameter))
            self._clear_state(name)
            self._note_state(name, parameter)
        self._tracker.note(self._tensors)
        self._clean_gradients()

    def _clean_gradients(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._masks[name].fill(self._shard(parameter.grad))


def _shards_of(
    tensors: Mapping[str, NamedParameter], plain: Mapping[str, Tensor], is_sharded: bool
) -> Callable[[], Mapping[str, Tensor]]:
    """Return a function that returns this rank's part of each tensor; it must not keep the storage alive."""
    if is_sharded:
        return lambda: {name: local_shard(one.parameter) for name, one in tensors.items()}
    return lambda: plain


def _before_step(tracker: WriteTracker, roots: NonzeroRoots | None) -> Callable[[], None]:
    """Return a function for the hooks of the optimizer, which must not keep the storage alive."""
    if roots is None:
        return tracker.before_step

    def prepare() -> None:
        roots.restore()
        tracker.before_step()
        roots.lift(tracker.untouched)

    return prepare


def _call(method: WeakMethod[Callable[..., None]], *arguments: str) -> None:
    act = method()
    if act is not None:
        act(*arguments)


def _undeclare(name: str, parameter: Tensor, declared: Mapping[str, sparse_weights.SparseWeight]) -> Callable[[], None]:
    """Return a function that must not keep the parameter alive.

    It does nothing where another training has declared the parameter since.
    """
    reference = ref(parameter)

    def undeclare() -> None:
        alive = reference()
        if alive is not None and sparse_weights.find(alive) is declared.get(name):
            sparse_weights.unregister(alive)

    return undeclare
