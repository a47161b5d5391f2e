"""The N values of a model in compact storage: a layer's dense weight is made when it is read, and not kept."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.autograd import are_transforms_active
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.modules import own_parameters, remove_module_hooks
from sparsecore_torch._torch_internals.tensors import write_count
from sparsecore_torch.arrays import active_indices, as_tensor, gather
from sparsecore_torch.sparse_training.storage.dense_gradients import DenseGradients
from sparsecore_torch.sparse_training.storage.joined_gradients import ForwardPass, GradientMemory, JoinedGradient, split
from sparsecore_torch.sparse_training.storage.lost_writes import LostWrites
from sparsecore_torch.sparse_training.storage.materialization import Remaker, is_dense, scattered, transformable
from sparsecore_torch.sparse_training.storage.saved_tensors import SavedTensors

VALUES = "sparse_values"
"""The name under which the N values are registered on the model; those of further trainings have a number behind it."""
TOPOLOGY = "sparse_topology"
"""The name of their topology's fingerprint in the model's state dict, next to the values."""


def values_name(number: int) -> str:
    """Return the name of the values of the first, second, ... training of a model."""
    return _numbered(VALUES, number)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


_keys = count()
_by_key: "WeakValueDictionary[int, CompactWeights]" = WeakValueDictionary()


def compact_weights(key: int) -> "CompactWeights":
    """Return the weights that have this key."""
    return _by_key[key]


class CompactWeights:
    """The values, a Parameter of the model, and their topology.

    Attributes:
        key: a number by which :func:`compact_weights` finds it.
        model: the module on which the values are registered.
        topology: the positions of the values.
        dense_gradients: collects dense gradients; None in steps that need none.
        values_name: the name of the values in the model.
        topology_name: the name of the topology's fingerprint in state dicts.
    """

    def __init__(self, model: nn.Module, topology: Topology, number: int = 1) -> None:
        self.model = model
        self._number = number
        self.values_name, self.topology_name = values_name(number), _numbered(TOPOLOGY, number)
        self.topology = topology
        self.dense_gradients: DenseGradients | None = None
        self._values_of: Topology | str = topology  # or the fingerprint of one, as it was loaded
        self._copies: WeakSet[CompactWeights] = WeakSet()
        self.key = next(_keys)
        _by_key[self.key] = self
        self._known_version = 0  # of the values of a copy: that of new tensors
        self._lost_writes = LostWrites()
        self._saved = SavedTensors()
        self._memory = GradientMemory()
        self._running = ForwardPass()
        self._hooks: tuple[int, ...] = ()
        # torch.compile compiles the code before and after these, and calls them as they are
        self.dense: Callable[[int, Callable[[Tensor], torch.dtype]], Tensor] = untraced(self._dense)
        self._open: Callable[[], None] = untraced(self._begin)
        self._close: Callable[[], None] = untraced(self._end)

    def register(self, values: Tensor) -> Parameter:
        """Register the values on the model, and hooks around its forward passes.

        Args:
            values: (N,).
        """
        self.model.register_parameter(self.values_name, Parameter(values))
        before = self.model.register_forward_pre_hook(self._before, prepend=True)
        after = self.model.register_forward_hook(self._after, always_call=True)
        model: Any = self.model
        saved = model.register_state_dict_post_hook(partial(_add_fingerprint, self))
        loading = model.register_load_state_dict_pre_hook(self._take_fingerprint)
        self._hooks = (before.id, after.id, saved.id, loading.id)
        return self.values

    def add_state_dict_hook(self, hook: Callable[[nn.Module, dict[str, Any], str, Any], None]) -> None:
        """Add a hook that changes the model's state dicts until the values are removed from it."""
        model: Any = self.model
        self._hooks += (model.register_state_dict_post_hook(hook).id,)

    def unregister(self) -> None:
        """Remove the values and the hooks from the model, also from a copy of the model."""
        own_parameters(self.model).pop(self.values_name, None)
        remove_module_hooks(self.model, self._hooks)

    @property
    def values(self) -> Parameter:
        """The N values; looked up each time, as moving or loading a model may put another Parameter there.

        While ``torch.func.functional_call`` runs, they are the tensor that it was given for them.
        """
        values: Any = own_parameters(self.model)[self.values_name]
        return values  # type: ignore[no-any-return]

    def move(self, topology: Topology) -> None:
        """Take up another topology, whose values are written next.

        Args:
            topology: the positions; those of the present values from now on, which are not moved.
        """
        self.topology = self._values_of = topology

    def check(self) -> None:
        """Check that the values belong to the topology of the training, and that nothing else has been written to.

        Raises:
            InputError: they have been loaded from another one, or the weight that was read last has been written to.
        """
        self._lost_writes.check(self.values_name)
        if self._values_of is self.topology:
            return
        if self.fingerprint != _fingerprint(self.topology):
            raise InputError(
                "the values of the model belong to another topology than that of its training: in compact storage, the "
                "state dicts of model and training that were saved together must both be loaded, in any order: "
                "model.load_state_dict(...) and training.load_state_dict(...)"
            )
        self._values_of = self.topology

    def check_copies(self) -> None:
        """Check that no copy of the model is kept as an average, as weights that move would be mixed up in it.

        Raises:
            InputError: a copy without a gradient has been written to since it was made or has loaded a state.
        """
        for copied in list(self._copies):
            values = own_parameters(copied.model).get(copied.values_name)  # None where the copy is a plain one by now
            if values is not None and values.grad is None and write_count(values) != copied._known_version:
                raise InputError(
                    "weights are about to move, and a copy of the model has been written to as averages of weights are "
                    "(EMA, SWA): in compact storage its entries would be averaged with those of other weights; take "
                    "storage='masked' for averages"
                )

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the topology that the values belong to, whatever the training's topology is now."""
        return _fingerprint(self._values_of)

    def _take_fingerprint(
        self,
        _: nn.Module,
        state: dict[str, Any],
        prefix: str,
        __: Any,
        ___: bool,
        ____: list[str],
        _____: list[str],
        errors: list[str],
    ) -> None:
        """Note the topology of the values that are about to be loaded."""
        name, fingerprint = prefix + self.values_name, prefix + self.topology_name
        saved, values = state.pop(fingerprint, None), state.get(name)
        if values is None:
            return
        if not isinstance(saved, Tensor) or saved.dtype is not torch.uint8 or saved.shape != (32,):
            raise InputError(
                f"the state dict has {name!r} without {fingerprint!r}, which gives their positions; "
                "load everything that model.state_dict() returned"
            )
        if values.shape != self.values.shape:
            errors.append(
                f"{name} has {len(values)} values there and {len(self.values)} here; call "
                "training.load_state_dict() first, with the state that was saved together with them"
            )
            return
        self._values_of = bytes(saved.tolist()).hex()
        self._known_version = write_count(self.values) + 1  # loading writes once

    def _dense(self, index: int, dtype_of: Callable[[Tensor], torch.dtype]) -> Tensor:
        """Return the dense tensor of this index; its gradient is gathered to the values."""
        dtype, device = dtype_of(self.values), as_tensor(self.topology.positions).device
        if self.values.device != device:
            raise InputError(
                f"the model has moved from {device} to {self.values.device} since sparsify was "
                "called; move the model to its device first"
            )
        self.check()
        if are_transforms_active():
            return transformable(self.entries(index), self.topology, index, dtype)
        dense = _materialize(self.entries(index), self, index, dtype)
        if is_dense(self.topology, index) and dtype is self.values.dtype:
            return dense  # the values themselves, which are kept anyway
        dense = self._saved.remade_by(Remaker(self.values.detach(), self.topology, index, dtype), dense)
        if self._running.joined is None:  # layers do not write to what they read
            self._lost_writes.watch(self.topology.layout.names[index], dense)
        return dense

    def plain(self, index: int) -> Tensor:
        """Return a dense tensor, not differentiable, which the caller may write to.

        Args:
            index: of the tensor in the layout.

        Raises:
            InputError: the values belong to another topology, or the model has moved to another device.
        """
        with torch.no_grad():
            dense = self.dense(index, lambda values: values.dtype)
        self._lost_writes.ignore(dense)
        return dense

    def _before(self, *_: Any) -> None:
        # methods, so that hooks of a copied model call those of its own weights
        self._open()

    def _after(self, *_: Any) -> None:
        self._close()

    def _begin(self) -> None:
        """Before a forward pass of the model: split the values once, so that gradients are joined once."""
        self.check()
        if are_transforms_active():  # transforms allow neither functions of our own nor saved-tensor hooks
            self._running.pieces = torch.split(self.values, self.topology.counts.tolist())
            return
        self._running.joined = JoinedGradient(self.topology.bounds, self._memory)
        self._running.pieces = split(self.values, self._running.joined)
        self._saved.install()

    def _end(self) -> None:
        """After a forward pass of the model, also one that has raised."""
        self._running.pieces, self._running.joined = (), None
        self._saved.remove()

    def is_full(self, index: int) -> bool:
        """Return whether the values of a tensor, in float32 on the CPU, are the dense tensor.

        Args:
            index: of the tensor in the layout.
        """
        values = self.values
        return is_dense(self.topology, index) and values.dtype is torch.float32 and values.device.type == "cpu"

    def active_gradient(self, index: int, topology: Topology, gradient: Tensor) -> Tensor:
        """Return the active entries of a dense gradient.

        Args:
            index: of the tensor in the layout.
            topology: at the time of the forward pass.
            gradient: dense, of the tensor's shape.

        Returns:
            (N_i,), in the dtype of the values.

        Raises:
            RuntimeError: weights have moved since the forward pass.
        """
        self.check_topology(topology)
        if self.dense_gradients is not None:
            self.dense_gradients.add(index, gradient)
        if is_dense(topology, index):
            return gradient.reshape(-1).to(self.values.dtype)
        return gather(gradient, active_indices(topology, index)).to(self.values.dtype)

    def check_topology(self, topology: Topology) -> None:
        """Check in a backward pass that weights have not moved since the forward pass.

        Args:
            topology: at the time of the forward pass.

        Raises:
            RuntimeError: they have.
        """
        if topology is not self.topology:
            raise RuntimeError(
                "weights have been reallocated between the forward pass and its backward pass, so that the gradient "
                "would arrive at other weights than it is of; call backward before the optimizer's step"
            )

    def entries(self, index: int) -> Tensor:
        """Return the N_i values of a tensor, differentiable.

        Args:
            index: of the tensor in the layout.

        Returns:
            (N_i,), a view of the values; within a forward pass of the model, a piece of one common split.
        """
        # pieces made without gradients cannot be differentiated; a layer called by itself has none
        if self._running.pieces and (self._running.pieces[index].grad_fn or not torch.is_grad_enabled()):
            return self._running.pieces[index]
        bounds = self.topology.bounds
        return self.values[bounds[index] : bounds[index + 1]]

    def gradient_part(self, index: int) -> NDArray[np.float32] | None:
        """Return memory for the gradient of the entries of a tensor, which is then joined without a copy.

        Args:
            index: of the tensor in the layout.

        Returns:
            Uninitialized, (N_i,); None outside of forward passes, and where it has been given away before.
        """
        return None if self._running.joined is None else self._running.joined.part(index)

    def differentiated(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return what the dense tensors of these indices are made of now, and their gradients are asked for of.

        Args:
            indices: of the tensors in the layout.
        """
        if self._running.pieces and all(piece.grad_fn for piece in self._running.pieces):
            return tuple(self._running.pieces[index] for index in indices)
        return (self.values,)

    def several_entries(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the values of several tensors, differentiable, as :meth:`entries` does for one.

        Args:
            indices: of the tensors in the layout.

        Returns:
            (N_i,) for each, whose gradients are joined once.
        """
        self.check()
        if self._running.pieces:
            return tuple(map(self.entries, indices))
        # a slice of each would make a gradient of all values for each
        pieces = torch.split(self.values, self.topology.counts.tolist())
        return tuple(pieces[index] for index in indices)

    def __reduce_ex__(self, _: Any) -> Any:
        raise InputError(
            "a model in compact storage cannot be pickled: save the state dicts of model, optimizer and training, or "
            "sparsecore_torch.sparse_training.export.squashed_copy(training)"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompactWeights":
        """Copy the weights for a copied model; the state of a running forward pass is not copied."""
        copied = memo[id(self)] = CompactWeights.__new__(CompactWeights)
        copied.__init__(copy.deepcopy(self.model, memo), self.topology, self._number)  # type: ignore[misc]
        copied._hooks = self._hooks  # they have the same identities there
        copied._values_of = self._values_of
        self._copies.add(copied)
        return copied


class _Materialize(torch.autograd.Function):
    """N_i values to a dense tensor; a dense gradient to N_i entries."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: CompactWeights, index: int, dtype: torch.dtype) -> Tensor:
        ctx.weights, ctx.topology, ctx.index = weights, weights.topology, index
        if is_dense(weights.topology, index) and dtype is values.dtype:
            return values.view(weights.topology.layout.shapes[index])
        return scattered(values, weights.topology, index, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.weights.active_gradient(ctx.index, ctx.topology, gradient), None, None, None


_materialize: Callable[[Tensor, CompactWeights, int, torch.dtype], Tensor] = _Materialize.apply


def resize(values: Parameter, size: int) -> None:
    """Change the number of values of the Parameter that the optimizer holds; if it changes, all are zero.

    Args:
        values: changed in place; its gradient is dropped.
        size: the new number of values.
    """
    dtype = values.dtype
    if size == len(values):
        return
    other = torch.float32 if dtype is torch.float64 else torch.float64
    values.grad = None
    # while some loss is alive autograd remembers the old shape, unless there is another dtype in between
    values.data = values.data.new_empty(0, dtype=other)
    values.data = values.data.new_zeros(size, dtype=dtype)


def _add_fingerprint(weights: CompactWeights, _: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
    state[prefix + weights.topology_name] = torch.tensor(list(bytes.fromhex(weights.fingerprint)), dtype=torch.uint8)


def _fingerprint(topology: Topology | str) -> str:
    return topology if isinstance(topology, str) else topology.sha256()
