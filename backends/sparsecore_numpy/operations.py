"""The operations that models are written in, each with its gradient."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.host import loss
from sparsecore.host.network import CachedArrays
from sparsecore.host.tape import Forgetful, Recorder, Tape, Tensor
from sparsecore.host.threads import single_threaded_blas
from sparsecore.host.weights import Operand, TiedWeight, WeightTensor
from sparsecore.learning.protocols import Model, Totals
from sparsecore_numpy import convolution, normalization
from sparsecore_numpy.convolution import Window
from sparsecore_numpy.normalization import Statistics
from sparsecore_numpy.workspace import Workspace


def rectified(workspace: Workspace, x: NDArray[Any]) -> NDArray[Any]:
    """max(x, 0)."""
    output = workspace.memory.take(*x.shape)
    workspace.by_blocks(lambda block: np.maximum(x[block.rows], 0, out=output[block.rows]), x)
    return output


def where_positive(workspace: Workspace, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """``y`` where ``x`` is positive, else 0."""
    output = workspace.memory.take(*x.shape)
    # a product with a mask takes a tenth of the time of `where`
    workspace.by_blocks(lambda block: np.multiply(y[block.rows], x[block.rows] > 0, out=output[block.rows]), x)
    return output


def added(workspace: Workspace, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """The sum of two arrays of equal shapes."""
    output = workspace.memory.take(*x.shape)
    workspace.by_blocks(lambda block: np.add(x[block.rows], y[block.rows], out=output[block.rows]), x)
    return output


@attrs.frozen(eq=False)
class NumpyOperations:
    """See :class:`sparsecore.learning.protocols.Operations`. Images are (batch, height, width, channels).

    Attributes:
        workspace: memory and cores.
        recorder: what becomes of the gradients.
        statistics: what batch norm normalizes by.
    """

    workspace: Workspace
    recorder: Recorder
    statistics: Statistics

    def conv2d(self, x: Tensor, weight: Operand, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Cross-correlation without a bias, zero padding on all four sides."""
        window = Window(weight.shape[2], weight.shape[3], stride, padding, padding)
        output = Tensor(convolution.forward(self.workspace, x.data, weight, window))

        def backward(gradient: NDArray[Any]) -> None:
            if x.differentiable:
                self._give(x, convolution.backward(self.workspace, x.data, weight, window, gradient))
            else:
                convolution.backward_weight(self.workspace, x.data, weight, window, gradient)

        return self._recorded(output, backward)

    def batch_norm(
        self, x: Tensor, scale: Operand, shift: Operand, mean: NDArray[Any], variance: NDArray[Any]
    ) -> Tensor:
        """Normalize each channel (or feature); ``mean`` and ``variance`` are the running statistics."""
        moments = self.statistics(self.workspace, x.data, mean, variance)
        factor = scale.vector()
        output = Tensor(normalization.forward(self.workspace, x.data, moments, factor, shift.vector()))

        def backward(gradient: NDArray[Any]) -> None:
            given, by_scale, by_shift = normalization.backward(self.workspace, x.data, moments, factor, gradient)
            scale.accumulate(by_scale)
            shift.accumulate(by_shift)
            self._give(x, given)

        return self._recorded(output, backward)

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); the gradient at 0 is 0."""
        output = Tensor(rectified(self.workspace, x.data))

        def backward(gradient: NDArray[Any]) -> None:
            self._give(x, where_positive(self.workspace, output.data, gradient))

        return self._recorded(output, backward)

    def linear(self, x: Tensor, weight: Operand, bias: Operand | None = None) -> Tensor:
        """x·weightᵀ + bias, for x of (batch, in)."""
        matrix = weight.dense(self.workspace.memory, weight.positions).reshape(weight.shape)
        output = Tensor(np.matmul(x.data, matrix.T, out=self.workspace.memory.take(len(x.data), len(matrix))))
        if bias is not None:
            output.data += bias.vector().astype(output.data.dtype)

        def backward(gradient: NDArray[Any]) -> None:
            weight.accumulate(gradient.T @ x.data)
            if bias is not None:
                bias.accumulate(gradient.sum(axis=0))
            if x.differentiable:
                dense = weight.dense(self.workspace.memory, weight.positions).reshape(weight.shape)
                self._give(x, np.matmul(gradient, dense, out=self.workspace.memory.take(*x.data.shape)))

        return self._recorded(output, backward)

    def global_average_pool(self, x: Tensor) -> Tensor:
        """The mean over height and width: (batch, channels)."""
        batch, height, width, channels = x.data.shape
        output = Tensor(x.data.reshape(batch, height * width, channels).mean(axis=1))

        def backward(gradient: NDArray[Any]) -> None:
            given = self.workspace.memory.take(*x.data.shape)
            given[:] = (gradient / (height * width))[:, None, None]
            self._give(x, given)

        return self._recorded(output, backward)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of two tensors of equal shapes."""
        if x.data.shape != y.data.shape:
            raise InputError(f"add takes two tensors of the same shape; given {x.data.shape} and {y.data.shape}")
        output = Tensor(added(self.workspace, x.data, y.data))

        def backward(gradient: NDArray[Any]) -> None:
            self._give(x, gradient)
            self._give(y, gradient)

        return self._recorded(output, backward)

    def flatten(self, x: Tensor) -> Tensor:
        """Images as vectors, in the order height, width, channel."""
        output = Tensor(x.data.reshape(len(x.data), -1), x.differentiable)
        return self._recorded(output, lambda gradient: self._give(x, gradient.reshape(x.data.shape)))

    def tied(self, values: Operand, shape: tuple[int, ...], key: int) -> TiedWeight:
        """A weight of this shape whose entries are those of ``values``, by a hash."""
        return TiedWeight(values, shape, key)

    def _recorded(self, output: Tensor, backward: Any) -> Tensor:
        self.recorder.record(output, backward)
        return output

    def _give(self, x: Tensor, gradient: NDArray[Any]) -> None:
        # what is there already may be another tensor's gradient too, so the sum is a new array
        x.gradient = gradient if x.gradient is None else added(self.workspace, x.gradient, gradient)


class Computation(Protocol):
    """What computes a network's outputs and gradients for a learner that keeps its parameters in flat vectors.

    Parameters are :class:`sparsecore.host.weights.WeightTensor`, and arrays for running statistics; images are
    normalized, (batch, height, width, channels).
    """

    def forward_backward(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the mean loss to the parameters'; the sums over the batch."""
        ...

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """With running statistics, (batch, classes)."""
        ...

    def cached_arrays(self, weight: WeightTensor) -> CachedArrays:
        """What it keeps of a weight from one step to the next."""
        ...


class NumpyComputation:
    """With nothing but NumPy."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def forward_backward(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """See :class:`Computation`."""
        tape = Tape()
        ops = NumpyOperations(self._workspace, tape, normalization.of_batch)
        with single_threaded_blas():
            logits = model.forward(ops, parameters, Tensor(images, differentiable=False))
            totals = measured(logits.data, labels)
            tape.backward(logits, loss.mean_gradient(logits.data, labels))
        return totals

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """See :class:`Computation`."""
        ops = NumpyOperations(self._workspace, Forgetful(), normalization.running)
        with single_threaded_blas():
            logits: Tensor = model.forward(ops, parameters, Tensor(images, differentiable=False))
        return logits.data

    def cached_arrays(self, weight: WeightTensor) -> CachedArrays:
        """Where its entries lie, in the orders in which it was made dense so far."""
        return CachedArrays(weight.indices)


def measured(logits: NDArray[Any], labels: NDArray[np.int64]) -> Totals:
    """The sums over some examples."""
    losses = loss.cross_entropy(logits, labels)
    return Totals(float(losses.sum(dtype=np.float64)), loss.hits(logits, labels), len(labels))
