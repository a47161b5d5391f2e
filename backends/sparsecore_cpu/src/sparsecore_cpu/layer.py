"""One convolution or linear layer by itself, on memory of the caller's: for the tensors of other frameworks."""

from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import SparsityPattern
from sparsecore_cpu.convolution import LayerKernels
from sparsecore_cpu.linear import SparseLinear, sparsity_pattern
from sparsecore_cpu.runtime import Buffer, Floats, Form, KernelInput, Runtime
from sparsecore_cpu.weight_lists import LayerLists, Taps, WeightList
from sparsecore_cpu.window import Window


@attrs.frozen
class Forms:
    """The forms of the activations that a layer reads and writes.

    Attributes:
        x: the input, with all the border that the layer reads.
        out: the output.
        gradient: the output's gradient, with the border that the input's gradient reads.
        x_gradient: the input's gradient.
    """

    x: Form
    out: Form
    gradient: Form
    x_gradient: Form


class ActiveWeights(Protocol):
    """The active weights of one layer, as the kernels that compute it read them."""

    def kernels(self, kernels: _kernels.Kernels, threads: int) -> LayerKernels | SparseLinear:
        """The kernels of the layer.

        Args:
            kernels: those of one instruction set.
            threads: how many threads compute, 1 to 1024.
        """
        ...

    @property
    def arrays(self) -> Sequence[NDArray[Any]]:
        """All arrays that were made so far."""
        ...


@attrs.frozen(eq=False)
class ListedWeights:
    """The weights of a convolution, in lists.

    Attributes:
        taps: the coordinates of the weights.
        window: stride, padding, dilation and groups.
    """

    taps: Taps
    window: Window
    _made: dict[Any, list[WeightList]] = attrs.field(factory=dict)

    def kernels(self, kernels: _kernels.Kernels, threads: int) -> LayerKernels:
        """The kernels over lists; see :meth:`ActiveWeights.kernels`."""
        return LayerKernels(kernels, LayerLists(self.taps.shape, self.window, threads, lambda: self.taps, self._made))

    @property
    def arrays(self) -> Sequence[NDArray[Any]]:
        """The coordinates, and the lists."""
        taps, lists = self.taps, [one for made in self._made.values() for one in made]
        listed = [array for one in lists for array in (*one.indices, one.values)]
        return [taps.out, taps.into, taps.row, taps.column, *listed]


@attrs.frozen(eq=False)
class MatrixWeights:
    """The weights of a linear layer.

    Attributes:
        pattern: their positions.
    """

    pattern: SparsityPattern

    def kernels(self, kernels: _kernels.Kernels, threads: int) -> SparseLinear:
        """The kernels of linear layers; see :meth:`ActiveWeights.kernels`."""
        return SparseLinear(kernels, self.pattern, threads)

    @property
    def arrays(self) -> Sequence[NDArray[Any]]:
        """The positions, as the kernels read them."""
        return self.pattern.arrays


@attrs.frozen(eq=False)
class Layer:
    """The active weights of one layer, for one topology.

    Values and their gradients are float32, (count,), in the order of the positions. ``threads`` is from 1 to 1024. What
    computes raises a ``ValueError`` where a buffer does not fit the layer, and an ``InputError`` where the images are
    too large for 32-bit offsets.

    Attributes:
        kernels: the kernels of one instruction set.
        shape: the shape of the weight, (out, in / groups, height, width).
        window: stride, padding, dilation and groups.
        weights: the active weights.
    """

    kernels: _kernels.Kernels
    shape: tuple[int, ...]
    window: Window
    weights: ActiveWeights

    @classmethod
    def conv2d(
        cls,
        kernels: _kernels.Kernels,
        shape: tuple[int, ...],
        positions: NDArray[np.integer],
        window: Window,
    ) -> "Layer":
        """A convolution.

        Args:
            kernels: the kernels of one instruction set.
            shape: the shape of the weight, (out, in / groups, height, width).
            positions: its active positions, row-major, ascending, (count,).
            window: stride, padding, dilation and groups; the groups divide ``out``.

        Raises:
            ValueError: a position is outside the shape.
        """
        return cls(kernels, shape, window, ListedWeights(Taps.of(shape, positions, window.groups), window))

    @classmethod
    def linear(cls, kernels: _kernels.Kernels, shape: tuple[int, ...], positions: NDArray[np.integer]) -> "Layer":
        """A linear layer.

        Args:
            kernels: the kernels of one instruction set.
            shape: the shape of the weight, (out, in).
            positions: its active positions, row-major, ascending, (count,).

        Raises:
            ValueError: a position is outside the shape, or they do not ascend.
        """
        return cls(kernels, (*shape, 1, 1), Window(), MatrixWeights(sparsity_pattern(shape, positions)))

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays that were made for the weights so far."""
        return sum(array.nbytes for array in self.weights.arrays)

    def forms(self, images: int, *sides: int) -> Forms:
        """The forms of the activations that this layer reads and writes.

        Args:
            images: the batch size.
            sides: height and width of the images in pixels, without padding; none for vectors.

        Raises:
            ValueError: the number of sides is neither none nor two.
        """
        out, into, *kernel = self.shape
        if not sides:
            x, made = Form.of_features(images, into), Form.of_features(images, out)
            return Forms(x, made, made, x)
        height, width = sides
        outputs = self.window.outputs((height, width), (kernel[0], kernel[1]))
        behind = self.window.border_behind((kernel[0], kernel[1]), outputs, (height, width))
        given = Form(images, height, width, into * self.window.groups, border=0)
        made = Form(images, outputs[0], outputs[1], out, border=0)
        return Forms(
            x=attrs.evolve(given, border=self.window.padding.most),
            out=made,
            gradient=attrs.evolve(made, border=behind),
            x_gradient=given,
        )

    def forward(self, x: Buffer, values: Floats, out: Buffer, threads: int) -> None:
        """Write the output.

        Args:
            x: the input, of the form ``forms().x``.
            values: float32, (count,).
            out: the memory of the output, of the form ``forms().out``.
            threads: how many threads compute.
        """
        self._layer(threads).forward(KernelInput.plain(x), values, out)

    def backward_weight(self, x: Buffer, gradient: Buffer, threads: int) -> Floats:
        """The gradients of the values, float32, (count,), summed over the batch.

        Args:
            x: the input, of the form ``forms().x``.
            gradient: the gradient of the output, of the form ``forms().gradient``.
            threads: how many threads compute.
        """
        return self._layer(threads).backward_weight(KernelInput.plain(x), KernelInput.plain(gradient))

    def backward_input(self, gradient: Buffer, values: Floats, out: Buffer, threads: int) -> None:
        """Write the gradient of the input.

        Args:
            gradient: the gradient of the output, of the form ``forms().gradient``.
            values: float32, (count,).
            out: the memory of the result, of the form ``forms().x_gradient``.
            threads: how many threads compute.
        """
        self._layer(threads).backward_input(KernelInput.plain(gradient), values, out)

    def backward(self, x: Buffer, gradient: Buffer, values: Floats, out: Buffer, threads: int) -> Floats:
        """Write the gradient of the input, and return the gradients of the values.

        Args:
            x: the input, of the form ``forms().x``.
            gradient: the gradient of the output, of the form ``forms().gradient``.
            values: float32, (count,).
            out: the memory of the input's gradient, of the form ``forms().x_gradient``.
            threads: how many threads compute.

        Returns:
            The gradients of the values, float32, (count,), summed over the batch.
        """
        read = KernelInput.plain(x), KernelInput.plain(gradient)
        return self._layer(threads).backward(*read, values, out)[0]

    def _layer(self, threads: int) -> LayerKernels | SparseLinear:
        return self.weights.kernels(self.kernels, threads)


def buffer_of(form: Form, array: Floats) -> Buffer:
    """A buffer over the caller's memory.

    Args:
        form: the form of the activation.
        array: memory of the shape ``form.shape(lanes)`` that starts at a cache line; its border and the lanes beyond
            the batch are zero.

    Raises:
        ValueError: the memory is of another shape, or does not start at a cache line.
    """
    return Buffer(form, array, _kernels.Activation(array, form.border, form.images, form.features))


def kernels() -> _kernels.Kernels:
    """The processor's best kernels, or those that the environment variable selects."""
    return Runtime.of(1).kernels
