"""The operations that models are written in, each with its gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.computation import NullTape, Tape, batch_totals, mean_gradient
from sparsecore.host.parameters import CachedArrays
from sparsecore.host.tied_weights import TiedWeight
from sparsecore.host.weights import WeightSource, WeightView
from sparsecore.learning.operations import check_equal_shapes, check_kernel_fits
from sparsecore.learning.protocols import Model, Totals
from sparsecore_numpy import convolution, normalization
from sparsecore_numpy.convolution import KernelWindow
from sparsecore_numpy.normalization import Statistics
from sparsecore_numpy.workspace import Workspace, single_threaded_blas


@attrs.define(eq=False, weakref_slot=False)
class Tensor:
    """An activation, and during the backward pass the loss's gradient for it.

    Attributes:
        data: images (batch, height, width, channels) or vectors (batch, features); never written to again.
        differentiable: False for the network's input, whose gradient is not needed.
        gradient: in the shape of ``data``; None while no operation has contributed. Never written to, because several
            tensors may share it.
    """

    data: NDArray[Any]
    differentiable: bool = True
    gradient: NDArray[Any] | None = None

    @property
    def has_gradient(self) -> bool:
        """Whether an operation has contributed to the gradient."""
        return self.gradient is not None

    def start_gradient(self, gradient: NDArray[Any]) -> None:
        """Begin the backward pass at this tensor."""
        self.gradient = gradient

    def take_gradient(self) -> Any:
        """Return the gradient and forget it, so that its memory can be reused when the caller is done.

        Returns:
            An array in the shape of ``data`` that must not be written to; None where no operation has contributed.
        """
        gradient, self.gradient = self.gradient, None
        return gradient


def rectified(workspace: Workspace, x: NDArray[Any]) -> NDArray[Any]:
    """max(x, 0) in reused memory.

    Args:
        workspace: memory and threads.
        x: activations, batch first; not written to.
    """
    output = workspace.memory.take(*x.shape)
    workspace.by_blocks(lambda block: np.maximum(x[block.rows], 0, out=output[block.rows]), x)
    return output


def where_positive(workspace: Workspace, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """``y`` where ``x`` is positive, else 0: the gradient of relu.

    Args:
        workspace: memory and threads.
        x: the outputs of relu, or its inputs.
        y: the gradient of the outputs, in the shape of ``x``; where it is not finite, the result is NaN in place of 0.
    """
    output = workspace.memory.take(*x.shape)
    # a product with a mask takes a tenth of the time of `where`
    workspace.by_blocks(lambda block: np.multiply(y[block.rows], x[block.rows] > 0, out=output[block.rows]), x)
    return output


def added(workspace: Workspace, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """The sum of two arrays in reused memory.

    Args:
        workspace: memory and threads.
        x: activations, batch first.
        y: an array of the same shape.
    """
    output = workspace.memory.take(*x.shape)
    workspace.by_blocks(lambda block: np.add(x[block.rows], y[block.rows], out=output[block.rows]), x)
    return output


@attrs.frozen(eq=False)
class NumpyOperations:
    """Implements :class:`sparsecore.learning.protocols.Operations`; images are (batch, height, width, channels).

    Attributes:
        workspace: memory and threads.
        tape: records the operations for the backward pass.
        statistics: chooses the moments that batch norm normalizes by.
    """

    workspace: Workspace
    tape: Tape[Tensor]
    statistics: Statistics

    def conv2d(self, x: Tensor, weight: WeightSource, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Cross-correlation without a bias, zero padding on all four sides."""
        check_kernel_fits(x.data.shape[1:3], weight.shape[2:], padding)
        window = KernelWindow(weight.shape[2], weight.shape[3], stride, padding, padding)
        weight.measure_input(lambda: np.square(x.data, dtype=np.float64).sum((0, 1, 2)))
        output = Tensor(convolution.forward(self.workspace, x.data, weight, window))

        def backward(gradient: NDArray[Any]) -> None:
            if x.differentiable:
                self._give(x, convolution.backward(self.workspace, x.data, weight, window, gradient))
            else:
                convolution.backward_weight(self.workspace, x.data, weight, window, gradient)

        return self._recorded(output, backward)

    def batch_norm(
        self, x: Tensor, scale: WeightSource, shift: WeightSource, mean: NDArray[Any], variance: NDArray[Any]
    ) -> Tensor:
        """Normalize each channel (or feature); ``mean`` and ``variance`` are the running statistics."""
        moments = self.statistics(self.workspace, x.data, mean, variance)
        factor = scale.to_array()
        output = Tensor(normalization.forward(self.workspace, x.data, moments, factor, shift.to_array()))

        def backward(gradient: NDArray[Any]) -> None:
            given, by_scale, by_shift = normalization.backward(self.workspace, x.data, moments, factor, gradient)
            scale.add_dense_gradient(by_scale)
            shift.add_dense_gradient(by_shift)
            self._give(x, given)

        return self._recorded(output, backward)

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); the gradient at 0 is 0."""
        output = Tensor(rectified(self.workspace, x.data))

        def backward(gradient: NDArray[Any]) -> None:
            self._give(x, where_positive(self.workspace, output.data, gradient))

        return self._recorded(output, backward)

    def linear(self, x: Tensor, weight: WeightSource, bias: WeightSource | None = None) -> Tensor:
        """x·weightᵀ + bias, for x of (batch, in)."""
        weight.measure_input(lambda: np.square(x.data, dtype=np.float64).sum(0))
        matrix = weight.to_dense(self.workspace.memory, weight.row_major).reshape(weight.shape)
        output = Tensor(np.matmul(x.data, matrix.T, out=self.workspace.memory.take(len(x.data), len(matrix))))
        if bias is not None:
            output.data += bias.to_array().astype(output.data.dtype)

        def backward(gradient: NDArray[Any]) -> None:
            weight.add_dense_gradient(gradient.T @ x.data)
            if bias is not None:
                bias.add_dense_gradient(gradient.sum(axis=0))
            if x.differentiable:
                dense = weight.to_dense(self.workspace.memory, weight.row_major).reshape(weight.shape)
                self._give(x, np.matmul(gradient, dense, out=self.workspace.memory.take(*x.data.shape)))

        return self._recorded(output, backward)

    def global_average_pool(self, x: Tensor) -> Tensor:
        """Return the mean over height and width: (batch, channels)."""
        batch, height, width, channels = x.data.shape
        output = Tensor(x.data.reshape(batch, height * width, channels).mean(axis=1))

        def backward(gradient: NDArray[Any]) -> None:
            given = self.workspace.memory.take(*x.data.shape)
            given[:] = (gradient / (height * width))[:, None, None]
            self._give(x, given)

        return self._recorded(output, backward)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of two tensors of equal shapes."""
        check_equal_shapes(x.data.shape, y.data.shape)
        output = Tensor(added(self.workspace, x.data, y.data))

        def backward(gradient: NDArray[Any]) -> None:
            self._give(x, gradient)
            self._give(y, gradient)

        return self._recorded(output, backward)

    def flatten(self, x: Tensor) -> Tensor:
        """Images as vectors, in the order height, width, channel.

        Returns:
            A view of the same memory, with a gradient of its own.
        """
        output = Tensor(x.data.reshape(len(x.data), -1), x.differentiable)
        return self._recorded(output, lambda gradient: self._give(x, gradient.reshape(x.data.shape)))

    def tied(self, values: WeightSource, shape: tuple[int, ...], key: int) -> TiedWeight:
        """Return a dense weight whose entries share ``values`` by a hash."""
        return TiedWeight(values, shape, key)

    def _recorded(self, output: Tensor, backward: Callable[[NDArray[Any]], None]) -> Tensor:
        self.tape.record(output, lambda recorded: backward(recorded.take_gradient()))
        return output

    def _give(self, x: Tensor, gradient: NDArray[Any]) -> None:
        # what is there already may be another tensor's gradient too, so the sum is a new array
        x.gradient = gradient if x.gradient is None else added(self.workspace, x.gradient, gradient)


class NumpyComputation:
    """Implements :class:`sparsecore.host.computation.Computation` on NumPy alone."""

    def __init__(self, workspace: Workspace) -> None:
        """Keep nothing but memory and threads from one step to the next.

        Args:
            workspace: memory and threads, whose dtype is that of all activations.
        """
        self._workspace = workspace

    def forward_backward(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the batch's mean loss to the parameters' gradients, and return the batch's totals."""
        tape: Tape[Tensor] = Tape()
        ops = NumpyOperations(self._workspace, tape, normalization.of_batch)
        with single_threaded_blas():
            logits = model.forward(ops, parameters, Tensor(images, differentiable=False))
            totals = batch_totals(logits.data, labels)
            tape.backward(logits, mean_gradient(logits.data, labels))
        return totals

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """Logits with running statistics, (batch, classes)."""
        ops = NumpyOperations(self._workspace, NullTape(), normalization.running)
        with single_threaded_blas():
            logits: Tensor = model.forward(ops, parameters, Tensor(images, differentiable=False))
        return logits.data

    def cached_arrays(self, weight: WeightView) -> CachedArrays:
        """Return the indices of its active entries, in the orders in which it was made dense so far."""
        return CachedArrays(weight.indices)
