"""The weights of a region's operations: sparse, of masked or compact storage, or dense."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sparsecore.engine.topology import Topology
from sparsecore.host.weights import GradientFactors, WeightView
from sparsecore_cpu.runtime import Buffer
from sparsecore_torch.arrays import active_indices, shortened
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.storage.compact_weights import CompactWeights
from sparsecore_torch.sparse_training.storage.sparse_weights import SparseWeight, find


@attrs.define(eq=False)
class RegionInput:
    """A tensor that a region is given.

    Attributes:
        tensor: the tensor.
        layout: how another region stored it, as whose result it comes; None for other tensors.
        needs_gradient: whether its gradient is asked for.
        shape: as torch sees it.
        buffer: the data in the kernels' layout, of which ``tensor`` then is the memory; None for other tensors.
        gradient: the sum of the gradients of its uses as a weight; None before the backward pass.
    """

    tensor: Tensor
    layout: Layout | None
    needs_gradient: bool
    shape: tuple[int, ...]
    buffer: Buffer | None = None
    gradient: Tensor | None = None


@attrs.frozen(eq=False)
class CompactWeight:
    """A weight of compact storage.

    Attributes:
        source: the active values of this tensor, (N_i,).
        weights: those of the model.
        index: of the tensor in the layout.
    """

    source: RegionInput
    weights: CompactWeights
    index: int

    @property
    def needs_gradient(self) -> bool:
        """Whether the gradients of the values are asked for."""
        return self.source.needs_gradient

    def use(self, shape: tuple[int, ...] | None, *, gives_all_gradients: bool) -> "WeightUse":
        """Return it as an operation reads it, see :func:`weight_use`."""
        weights, topology, index = self.weights, self.weights.topology, self.index
        weights.check()
        owner = _owner_of(topology, index)
        values = self.source.tensor.detach().numpy()
        part = weights.gradient_part(index) if self.needs_gradient else None
        view = _view(self.source, owner.shape if shape is None else shape, owner.positions, values, owner, part)

        def give(entries: Tensor) -> None:
            weights.check_topology(topology)
            self.source.gradient = entries if self.source.gradient is None else self.source.gradient + entries

        if gives_all_gradients and weights.dense_gradients is not None:
            whole = WholeGradient(lambda gradient: give(weights.active_gradient(index, topology, gradient)))
            return WeightUse(attrs.evolve(view, product=whole.add), self.source, give, whole=whole)
        return WeightUse(view, self.source, give)


@attrs.define(eq=False)
class WholeGradient:
    """The gradient of all positions of a matrix, which PyTorch multiplies from what the kernels have stored.

    Attributes:
        give: hands the gradient, (out, in), to the source of the weight.
        total: the sum so far; None where nothing has arrived.
    """

    give: Callable[[Tensor], None]
    total: Tensor | None = None

    def add(self, factors: GradientFactors) -> None:
        """Add the product of two matrices."""
        outputs, inputs = torch.from_numpy(factors.outputs), torch.from_numpy(factors.inputs)
        own = outputs @ inputs.t()
        self.total = own if self.total is None else self.total.add_(own)


@attrs.frozen(eq=False)
class WeightUse:
    """A weight as an operation reads it.

    Attributes:
        view: the active entries, and the sum of their gradients.
        source: the input that stores the values.
        give: adds the gradients of the entries, (count,), to the gradient of the source.
        dense_bytes: the bytes of the dense gradient that this makes of them, 0 where it makes none.
        whole: the gradient of all positions, in place of that of the entries; None in steps that do not ask for it.
    """

    view: WeightView
    source: RegionInput
    give: Callable[[Tensor], None]
    dense_bytes: int = 0
    whole: WholeGradient | None = None

    def reset(self) -> None:
        """Begin a backward pass."""
        self.view.reset_gradient()
        if self.whole is not None:
            self.whole.total = None

    @property
    def has_gradient(self) -> bool:
        """Whether the backward pass has reached the weight."""
        return self.view.has_gradient or (self.whole is not None and self.whole.total is not None)

    def finish(self, *, keep: bool) -> None:
        """Hand the gradient to the source.

        Args:
            keep: whether another backward pass may follow, so that the memory cannot be given away.
        """
        if self.whole is not None and self.whole.total is not None:
            self.whole.give(self.whole.total)
            return
        gradient = self.view.finish_gradient()
        gradient = gradient.copy() if keep else gradient
        self.give(torch.from_numpy(gradient))


def weight_use(
    source: RegionInput | CompactWeight, shape: tuple[int, ...] | None, *, gives_all_gradients: bool
) -> WeightUse:
    """Return what a region is given as a weight, by its active entries where it is sparse.

    Args:
        source: a Parameter, or a weight of compact storage.
        shape: the shape that the operation takes it in; None for its own.
        gives_all_gradients: whether the gradients of all positions are handed out where a strategy asks for them.
    """
    if isinstance(source, CompactWeight):
        return source.use(shape, gives_all_gradients=gives_all_gradients)
    weight = find(source.tensor)
    shape = tuple(source.tensor.shape) if shape is None else shape
    if weight is None:
        return _dense_use(source, shape)
    return _masked_use(source, weight, shape, gives_all_gradients=gives_all_gradients)


def _masked_use(
    source: RegionInput, weight: SparseWeight, shape: tuple[int, ...], *, gives_all_gradients: bool
) -> WeightUse:
    weight.check()
    view = _view(source, shape, weight.indices.numpy(), weight.entries(source.tensor).numpy(), weight)

    def give(entries: Tensor) -> None:
        source.gradient = weight.add_to(source.tensor, source.gradient, entries)

    def give_all(gradient: Tensor) -> None:
        own = gradient.view(source.tensor.shape)
        source.gradient = own if source.gradient is None else source.gradient + own

    if gives_all_gradients and weight.is_gradient_dense:
        whole = WholeGradient(give_all)
        return WeightUse(attrs.evolve(view, product=whole.add), source, give, source.tensor.nbytes, whole)
    return WeightUse(view, source, give, source.tensor.nbytes)


@attrs.frozen(eq=False)
class _Owner:
    """The shape and the active positions of a weight; the kernels' lists live as long as it does."""

    shape: tuple[int, ...]
    positions: NDArray[np.integer]


_compact_owners: WeakKeyDictionary[Topology, dict[int, _Owner]] = WeakKeyDictionary()


def _owner_of(topology: Topology, index: int) -> _Owner:
    owners = _compact_owners.setdefault(topology, {})
    if index not in owners:
        owners[index] = _Owner(topology.layout.shapes[index], shortened(active_indices(topology, index)).numpy())
    return owners[index]


_dense_weights: Any = WeakIdKeyDictionary()


def _dense_use(source: RegionInput, shape: tuple[int, ...]) -> WeightUse:
    tensor = source.tensor
    owner = _dense_weights.get(tensor)
    if owner is None or len(owner.positions) != tensor.numel():
        owner = _dense_weights[tensor] = _Owner(tuple(tensor.shape), np.arange(tensor.numel()))
    view = _view(source, shape, owner.positions, tensor.detach().reshape(-1).numpy(), owner)

    def give(entries: Tensor) -> None:
        own = entries.view(tensor.shape)
        source.gradient = own if source.gradient is None else source.gradient + own

    return WeightUse(view, source, give)


def _view(
    source: RegionInput,
    shape: tuple[int, ...],
    positions: NDArray[Any],
    values: NDArray[Any],
    owner: object,
    gradient: NDArray[np.float32] | None = None,
) -> WeightView:
    gradient = np.empty(len(values), np.float32) if gradient is None else gradient
    return WeightView(shape, positions, values, gradient, owner, is_trained=source.needs_gradient)
