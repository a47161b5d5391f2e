"""The parameters of a network in training, end to end in flat vectors: values, gradients, optimizer steps, memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Topology
from sparsecore.host.weights import WeightView
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd
from sparsecore.learning.parameters import Parameter

MOMENTUM = "momentum"
"""The name of SGD's buffer."""


@attrs.frozen(eq=False)
class ParameterVectors:
    """The flat vectors of some tensors, with one entry for each active weight.

    Attributes:
        values: the weights, (count,).
        gradient: the loss's gradient for them, (count,).
        buffers: the optimizer's state by name, each (count,).
    """

    values: NDArray[Any]
    gradient: NDArray[Any]
    buffers: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, values: NDArray[Any], buffers: Mapping[str, NDArray[Any]]) -> "ParameterVectors":
        """Copies of these values and optimizer buffers, all in the dtype of the values.

        Args:
            values: (count,).
            buffers: the optimizer's state by name, each (count,).
        """
        copies = {name: buffer.astype(values.dtype) for name, buffer in buffers.items()}
        return cls(values.copy(), np.zeros_like(values), copies)

    @classmethod
    def start(cls, values: NDArray[Any], rule: Optimizer) -> "ParameterVectors":
        """A copy of these values, with the optimizer's state before the first step.

        Args:
            values: (count,).
            rule: the optimizer.
        """
        return cls.of(values, {name: np.zeros_like(values) for name in _RULES[type(rule)].buffers})

    def view(self, shape: tuple[int, ...], slots: slice, positions: NDArray[np.intp]) -> WeightView:
        """The tensor of this dense shape whose active entries are at these slots of the vectors.

        Args:
            shape: the dense shape.
            slots: the slots of its active entries, (count,) of them.
            positions: the row-major positions of these entries, ascending, (count,).
        """
        return WeightView(shape, positions, self.values[slots], self.gradient[slots])

    def optimizer_step(self, rule: Optimizer, learning_rate: float, count: int) -> None:
        """Take one step of the update rule in place; the gradient is overwritten.

        Args:
            rule: the optimizer.
            learning_rate: η.
            count: the number of this step, from 1.
        """
        _RULES[type(rule)].step(self, rule, learning_rate, count)


@attrs.frozen
class _Rule:
    buffers: tuple[str, ...]
    step: Callable[[ParameterVectors, Any, float, int], None]


def _sgd(vectors: ParameterVectors, rule: Sgd, learning_rate: float, _: int) -> None:
    values, momentum, direction = vectors.values, vectors.buffers[MOMENTUM], vectors.gradient
    direction += rule.weight_decay * values
    momentum *= rule.momentum
    momentum += direction
    step = direction + rule.momentum * momentum if rule.nesterov else momentum
    values -= learning_rate * step


def _adam(vectors: ParameterVectors, rule: Adam, learning_rate: float, count: int) -> None:
    vectors.gradient[:] += rule.weight_decay * vectors.values
    _by_moments(vectors, rule, learning_rate, count)


def _adamw(vectors: ParameterVectors, rule: AdamW, learning_rate: float, count: int) -> None:
    vectors.values[:] *= 1 - learning_rate * rule.weight_decay
    _by_moments(vectors, rule, learning_rate, count)


def _by_moments(vectors: ParameterVectors, rule: Adam | AdamW, learning_rate: float, count: int) -> None:
    first, second, gradient = vectors.buffers["first_moment"], vectors.buffers["second_moment"], vectors.gradient
    beta1, beta2 = rule.betas
    first += (1 - beta1) * (gradient - first)
    second *= beta2
    gradient *= gradient
    second += (1 - beta2) * gradient
    # the bias corrections are Python floats, so that vectors in single precision stay so
    divisor = np.sqrt(second, out=gradient)
    divisor /= math.sqrt(1 - beta2**count)
    divisor += rule.epsilon
    vectors.values[:] -= learning_rate / (1 - beta1**count) * (first / divisor)


_RULES: Mapping[type[Optimizer], _Rule] = {
    Sgd: _Rule((MOMENTUM,), _sgd),
    Adam: _Rule(("first_moment", "second_moment"), _adam),
    AdamW: _Rule(("first_moment", "second_moment"), _adamw),
}


@attrs.frozen(eq=False)
class SparseParameters:
    """The sparse tensors: their flat vectors have N entries, in the order of the topology's positions.

    Attributes:
        topology: the active positions.
        vectors: values, gradients and optimizer state, each (N,).
        tensors: the tensors by name, as views of the vectors.
    """

    topology: Topology
    vectors: ParameterVectors
    tensors: Mapping[str, WeightView]

    @classmethod
    def of(cls, topology: Topology, vectors: ParameterVectors) -> "SparseParameters":
        """The tensors of a topology, as views of flat vectors.

        Args:
            topology: the N active positions.
            vectors: N entries each, in the order of the positions; not copied.
        """
        layout = topology.layout
        tensors = {
            name: vectors.view(shape, topology.slots(name), topology.local(name))
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        }
        return cls(topology, vectors, tensors)


@attrs.frozen(eq=False)
class DenseParameters:
    """The other trained parameters, one after another in flat vectors.

    Attributes:
        vectors: values, gradients and optimizer state, each (total size,).
        tensors: the parameters by name, as views of the vectors.
    """

    vectors: ParameterVectors
    tensors: Mapping[str, WeightView]

    @classmethod
    def of(cls, parameters: Sequence[Parameter], vectors: ParameterVectors) -> "DenseParameters":
        """The tensors of these parameters, as views of flat vectors.

        Args:
            parameters: the parameters, in the order of their entries.
            vectors: one entry for each entry of each parameter, row-major; not copied.
        """
        tensors = {
            parameter.name: vectors.view(parameter.shape, slots, np.arange(slots.stop - slots.start))
            for parameter, slots in _slots(parameters)
        }
        return cls(vectors, tensors)

    def copies(self) -> dict[str, NDArray[Any]]:
        """Copies of their values by name, in their shapes."""
        return {name: tensor.values.reshape(tensor.shape).copy() for name, tensor in self.tensors.items()}


@attrs.frozen(eq=False)
class RunningStatistics:
    """Running means and variances, one after another in a flat vector.

    Attributes:
        values: (total size,).
        tensors: the statistics by name, (channels,) each, as views of the vector; batch norm moves them in place.
    """

    values: NDArray[Any]
    tensors: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, parameters: Sequence[Parameter], values: NDArray[Any]) -> "RunningStatistics":
        """The statistics of these parameters, as views of a vector.

        Args:
            parameters: the parameters that are not trained, in the order of their entries.
            values: (total size,); not copied.
        """
        tensors = {parameter.name: values[slots].reshape(parameter.shape) for parameter, slots in _slots(parameters)}
        return cls(values, tensors)


def _slots(parameters: Iterable[Parameter]) -> Iterator[tuple[Parameter, slice]]:
    first = 0
    for parameter in parameters:
        last = first + math.prod(parameter.shape)
        yield parameter, slice(first, last)
        first = last


def concatenated(
    parameters: Sequence[Parameter], values: Mapping[str, NDArray[np.float64]], dtype: str
) -> NDArray[Any]:
    """The values of these parameters in one vector of this dtype, (total size,).

    Args:
        parameters: the parameters, in this order.
        values: their values by name, float64, in their shapes.
        dtype: the dtype of the result.
    """
    return np.concatenate([np.zeros(0), *(np.ravel(values[parameter.name]) for parameter in parameters)]).astype(dtype)


@attrs.frozen(eq=False)
class CachedArrays:
    """Arrays that a computation keeps for one weight from one step to the next, in addition to the flat vectors.

    Attributes:
        indices: index arrays of its active entries.
        values: copies of its values.
    """

    indices: tuple[NDArray[Any], ...]
    values: tuple[NDArray[Any], ...] = ()


def ledger(
    sparse: SparseParameters, dense: DenseParameters, cached_arrays: Callable[[WeightView], CachedArrays]
) -> Ledger:
    """The memory of all trained parameters, in bytes.

    Theoretically the sparse tensors' positions are the only indices, and the flat vectors the only values; what is
    measured also counts what the computation caches for each weight.

    Args:
        sparse: the sparse tensors.
        dense: the other trained parameters.
        cached_arrays: returns what the computation caches for a weight.
    """
    both = (sparse.vectors, dense.vectors)
    weights, size = sum(len(vectors.values) for vectors in both), sparse.vectors.values.itemsize
    states = [buffer for vectors in both for buffer in vectors.buffers.values()]
    cached = [cached_arrays(weight) for weight in (*sparse.tensors.values(), *dense.tensors.values())]
    copies = [array for one in cached for array in one.values]
    indices = [array for one in cached for array in one.indices]
    return Ledger(
        values=Bytes(weights * size, _nbytes([*(vectors.values for vectors in both), *copies])),
        indices=Bytes(
            sparse.topology.size * sparse.topology.layout.position_dtype.itemsize,
            _nbytes([sparse.topology.host_positions, *indices]),
        ),
        gradients=Bytes(weights * size, _nbytes(vectors.gradient for vectors in both)),
        optimizer_state=Bytes(len(states) // len(both) * weights * size, _nbytes(states)),
    )


def _nbytes(arrays: Iterable[NDArray[Any]]) -> int:
    """The memory behind these arrays; the base of several views counts once."""
    bases = {id(base): base for base in map(_base, arrays)}
    return sum(base.nbytes for base in bases.values())


def _base(array: NDArray[Any]) -> NDArray[Any]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
