"""Dense storage: parameters stay plain parameters, and what is inactive in them is kept at zero."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import final
from weakref import WeakMethod, finalize

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore_torch.arrays import gather, places, scatter
from sparsecore_torch.sparse_training.model.parameters import NamedParameter
from sparsecore_torch.sparse_training.optimizers.copies import values_of
from sparsecore_torch.sparse_training.optimizers.probe import fill
from sparsecore_torch.sparse_training.optimizers.state import OptimizerStates, put_fresh
from sparsecore_torch.sparse_training.optimizers.wrapped import others_of, tensors_in
from sparsecore_torch.sparse_training.storage.gradient_masks import BitMask, GradientMasker
from sparsecore_torch.sparse_training.storage.nonzero_roots import NonzeroRoots
from sparsecore_torch.sparse_training.storage.write_tracking import ForeignWrites, Watch
from sparsecore_torch.tensors import allocated_bytes, entry_bytes, full_tensor


def ledger_of(optimizer: Optimizer, indices: Sequence[Tensor]) -> Ledger:
    """All that the optimizer trains, dense; ``indices`` are what says where weights are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    states = [content for parameter in parameters for content in tensors_in(optimizer.state.get(parameter, {}), set())]
    return Ledger(
        values=Bytes(entry_bytes(parameters), allocated_bytes(parameters)),
        indices=Bytes(entry_bytes(indices), allocated_bytes(indices)),
        gradients=Bytes(entry_bytes(trained), allocated_bytes(gradients)),
        optimizer_state=Bytes(entry_bytes(states), allocated_bytes(states)),
    )


@final
class MaskedStorage:
    """See :class:`sparsecore_torch.sparse_training.storage.storage.Storage`.

    Gradients of inactive positions are taken away as they are accumulated, so that clipping, loss scaling and the
    reduction over ranks see what belongs to active weights. After a step, what the optimizer has done to inactive
    weights and to their state is undone. Where it keeps zero at zero and nothing else has written to a tensor, there is
    nothing to undo, and nothing is done.

    Args:
        tensors: the sparse tensors, in the order of the layout.
        optimizer: what trains them.
        topology: the active positions.
        values: their start values.

    Raises:
        InputError: it cannot be found out what the optimizer keeps for each weight; nothing has changed then.
    """

    def __init__(
        self, tensors: Sequence[NamedParameter], optimizer: Optimizer, topology: Topology, values: Tensor
    ) -> None:
        self._optimizer = optimizer
        self._topology = topology
        self._parameters = {one.name: one.parameter for one in tensors}
        self._states = OptimizerStates(optimizer, self._parameters)
        self._masks = {
            name: BitMask(mask_of(topology, name), parameter) for name, parameter in self._parameters.items()
        }
        self._watch = Watch(optimizer, self._masks)
        self._roots = NonzeroRoots(optimizer, self._parameters, self._masks)
        self._masker = GradientMasker(optimizer, self._parameters, self._masks, _before_step(self._watch, self._roots))
        self._written = ForeignWrites(lambda: self._parameters, self._masks)
        revive = WeakMethod(self._revive)
        self._handles: list[RemovableHandle] = [optimizer.register_load_state_dict_post_hook(lambda _: _call(revive))]
        self._handles += [*self._masker.handles, *self._roots.handles]
        for handle in self._handles:  # parameters that outlive their training are plain ones again
            finalize(self, handle.remove).atexit = False
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
            self._watch.wrote(name)
        self._written.note(self._parameters)

    @torch.no_grad()
    def enforce(self) -> None:
        """Make inactive weights and their optimizer state exactly zero."""
        quiet = self._watch.quiet()
        others = [name for name in self._parameters if name not in quiet]
        for name in others:
            self._clear(name)
        self._written.note(name for name in others if not self._watch.knows(name))

    @torch.no_grad()
    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; survivors stay where they are, and so does their state."""
        self._move(reallocation.after)
        self.set_values(reallocation.values)
        self._clean()
        self._states.renew(self._parameters)
        grown = reallocation.grown_weights
        for name, parameter in self._parameters.items():
            if len(indices_of(grown, name)):  # one that was pruned in the same update has left some state
                self._begin(name, parameter, mask_of(grown, name) != 0)

    @torch.no_grad()
    def restore(self, topology: Topology) -> None:
        """Take up a topology; no weight is changed, as the model's may be those of it, or still to be loaded."""
        self._move(topology)
        for name in self._parameters:
            self._clear_state(name)
        self._clean_gradients()
        self._states.renew(self._parameters)
        self._revive()
        self._written.forget()

    def check_written(self, name: str | None = None, *, thoroughly: bool = False) -> None:
        """Raise an :class:`InputError` if weights that are not active are nonzero."""
        names = list(self._parameters) if name is None else [name]
        if not thoroughly and not (name is None and self._watch.is_disturbed()):
            names = self._written.changed(one for one in names if not self._watch.knows(one))
        self._written.check(names)

    def nonzero_positions(self) -> Tensor:
        """The positions of all nonzero weights, active or not."""
        return nonzero_of(self._parameters, self._topology)

    def await_gradient(self, *, dense: bool) -> None:
        """Whether the gradients of the next step are to arrive dense."""
        self._masker.expect(dense=dense)

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor in the step just taken."""
        return self._masker.gradient(name)

    @torch.no_grad()
    def squash(self) -> None:
        """End: zeros are baked in, hooks are gone, and inactive weights begin with the state of fresh ones."""
        self._clean()
        self._states.renew(self._parameters)
        for name, parameter in self._parameters.items():
            self._begin(name, parameter, ~self._masks[name].active)
        for handle in self._handles:
            handle.remove()

    def ledger(self) -> Ledger:
        """Bytes of values, masks and positions, gradients and optimizer state, dense parameters included."""
        masks = [tensor for mask in self._masks.values() for tensor in mask.tensors]
        return ledger_of(self._optimizer, [*masks, self._topology.positions])

    def _clear(self, name: str) -> None:
        """Make the inactive entries of a tensor zero, and so its state."""
        parameter, mask = self._parameters[name], self._masks[name]
        mask.fill(parameter)
        for content, entry in self._states.entries(name, parameter):
            if entry.is_zeroed:
                mask.fill(content)
        self._see(name, parameter)

    def _see(self, name: str, parameter: Tensor) -> None:
        if self._states.profile(name).keeps_zero and not others_of(self._optimizer):
            self._watch.see(name, parameter)

    def _begin(self, name: str, parameter: Tensor, where: Tensor) -> None:
        """Let the state of some weights of a tensor begin anew."""
        for content, entry in self._states.entries(name, parameter):
            put_fresh(content, entry, where, parameter.detach())
        self._see(name, parameter)

    @torch.no_grad()
    def _revive(self) -> None:
        """Let the state of active weights begin that has none yet, where to have none is not to be zero."""
        for name, parameter in self._parameters.items():
            active = self._masks[name].active
            for content, entry in self._states.entries(name, parameter):
                if entry.is_kept_apart:
                    put_fresh(content, entry, active & (values_of(content) == entry.inactive), parameter.detach())

    def _move(self, topology: Topology) -> None:
        self._roots.restore()
        self._topology = topology
        for name, mask in self._masks.items():
            mask.change(mask_of(topology, name))
        self._watch.masks_changed()

    def _clean(self) -> None:
        self._roots.restore()
        for name, parameter in self._parameters.items():
            self._masks[name].fill(parameter)
            self._clear_state(name)
            self._see(name, parameter)
        self._written.note(self._parameters)
        self._clean_gradients()

    def _clear_state(self, name: str) -> None:
        """Make the state of inactive weights what it is to be, codes included."""
        parameter, mask = self._parameters[name], self._masks[name]
        for content, entry in self._states.entries(name, parameter):
            if entry.is_zeroed:
                mask.fill(content)
            else:
                fill(content, ~mask.active, entry.inactive)

    def _clean_gradients(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._masks[name].fill(parameter.grad)


def _before_step(watch: Watch, roots: NonzeroRoots) -> Callable[[], None]:
    """What the gradient hooks call, which must not hold on to the storage."""

    def prepare() -> None:
        roots.restore()
        watch.before_step()
        roots.lift(watch.untouched)

    return prepare


def _call(method: WeakMethod[Callable[[], None]]) -> None:
    act = method()
    if act is not None:
        act()


def gathered(parameters: Mapping[str, Tensor], topology: Topology) -> Tensor:
    """The N values that lie in dense tensors, in their common dtype, at least float32."""
    dtype = reduce(torch.promote_types, (parameter.dtype for parameter in parameters.values()), torch.float32)
    return torch.cat(
        [gather(full_tensor(parameter), indices_of(topology, name)).to(dtype) for name, parameter in parameters.items()]
    )


def nonzero_of(parameters: Mapping[str, Tensor], topology: Topology) -> Tensor:
    """The positions in the layout of the nonzero entries of dense tensors, ascending, int64."""
    offsets = zip(parameters.values(), topology.layout.offsets, strict=False)
    return torch.cat([full_tensor(parameter).reshape(-1).nonzero().view(-1) + offset for parameter, offset in offsets])


def indices_of(topology: Topology, name: str) -> Tensor:
    """Where the weights of a tensor lie within it, row-major."""
    return places(topology, topology.layout.index(name))


def mask_of(topology: Topology, name: str) -> Tensor:
    """-1 where a weight is, 0 elsewhere; int8."""
    inside = indices_of(topology, name)
    minus_one = inside.new_full((len(inside),), -1, dtype=torch.int8)
    return scatter(minus_one, inside, topology.layout.shapes[topology.layout.index(name)])
