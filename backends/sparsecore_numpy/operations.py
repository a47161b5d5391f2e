"""The operations that models are written in, each with its gradient."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_numpy import convolution, elementwise, normalization
from sparsecore_numpy.machine import Machine
from sparsecore_numpy.normalization import Statistics
from sparsecore_numpy.patches import Window
from sparsecore_numpy.tape import Recorder, Tensor
from sparsecore_numpy.tied import TiedWeight
from sparsecore_numpy.weights import Operand


@attrs.frozen(eq=False)
class NumpyOperations:
    """See :class:`sparsecore.learning.Operations`. Images are (batch, height, width, channels).

    Attributes:
        machine: memory and cores.
        recorder: what becomes of the gradients.
        statistics: what batch norm normalizes by.
    """

    machine: Machine
    recorder: Recorder
    statistics: Statistics

    def conv2d(self, x: Tensor, weight: Operand, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Cross-correlation without a bias, zero padding on all four sides."""
        window = Window(weight.shape[2], weight.shape[3], stride, padding, padding)
        output = Tensor(convolution.forward(self.machine, x.data, weight, window))

        def backward(gradient: NDArray[Any]) -> None:
            if x.differentiable:
                self._give(x, convolution.backward(self.machine, x.data, weight, window, gradient))
            else:
                convolution.backward_weight(self.machine, x.data, weight, window, gradient)

        return self._recorded(output, backward)

    def batch_norm(
        self, x: Tensor, scale: Operand, shift: Operand, mean: NDArray[Any], variance: NDArray[Any]
    ) -> Tensor:
        """Normalize each channel (or feature); ``mean`` and ``variance`` are the running statistics."""
        moments = self.statistics(self.machine, x.data, mean, variance)
        factor = scale.vector()
        output = Tensor(normalization.forward(self.machine, x.data, moments, factor, shift.vector()))

        def backward(gradient: NDArray[Any]) -> None:
            given, by_scale, by_shift = normalization.backward(self.machine, x.data, moments, factor, gradient)
            scale.accumulate(by_scale)
            shift.accumulate(by_shift)
            self._give(x, given)

        return self._recorded(output, backward)

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); the gradient at 0 is 0."""
        output = Tensor(elementwise.rectified(self.machine, x.data))

        def backward(gradient: NDArray[Any]) -> None:
            self._give(x, elementwise.where_positive(self.machine, output.data, gradient))

        return self._recorded(output, backward)

    def linear(self, x: Tensor, weight: Operand, bias: Operand | None = None) -> Tensor:
        """x·weightᵀ + bias, for x of (batch, in)."""
        matrix = weight.dense(self.machine.memory, weight.positions).reshape(weight.shape)
        output = Tensor(np.matmul(x.data, matrix.T, out=self.machine.memory.take(len(x.data), len(matrix))))
        if bias is not None:
            output.data += bias.vector().astype(output.data.dtype)

        def backward(gradient: NDArray[Any]) -> None:
            weight.accumulate(gradient.T @ x.data)
            if bias is not None:
                bias.accumulate(gradient.sum(axis=0))
            if x.differentiable:
                dense = weight.dense(self.machine.memory, weight.positions).reshape(weight.shape)
                self._give(x, np.matmul(gradient, dense, out=self.machine.memory.take(*x.data.shape)))

        return self._recorded(output, backward)

    def global_average_pool(self, x: Tensor) -> Tensor:
        """The mean over height and width: (batch, channels)."""
        batch, height, width, channels = x.data.shape
        output = Tensor(x.data.reshape(batch, height * width, channels).mean(axis=1))

        def backward(gradient: NDArray[Any]) -> None:
            given = self.machine.memory.take(*x.data.shape)
            given[:] = (gradient / (height * width))[:, None, None]
            self._give(x, given)

        return self._recorded(output, backward)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of two tensors of equal shapes."""
        if x.data.shape != y.data.shape:
            raise InputError(f"add takes two tensors of the same shape; given {x.data.shape} and {y.data.shape}")
        output = Tensor(elementwise.added(self.machine, x.data, y.data))

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
        x.gradient = gradient if x.gradient is None else elementwise.added(self.machine, x.gradient, gradient)
