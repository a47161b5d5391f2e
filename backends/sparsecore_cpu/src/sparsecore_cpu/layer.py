"""One convolution or linear layer by itself, on memory that somebody else holds: for other frameworks' tensors."""

from collections.abc import Callable, Iterable

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu import _kernels
from sparsecore_cpu.lists import Strides, Taps, WeightList, Window, border_behind
from sparsecore_cpu.workspace import Buffer, Floats, Form, Runtime

_MOST_LISTS = 16
"""So many are kept for images of different sizes; then all are made anew."""


@attrs.frozen
class Padding:
    """Zeros around an image, in pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def most(self) -> int:
        """On any side."""
        return max(self.top, self.bottom, self.left, self.right)


@attrs.frozen
class Forms:
    """Of what a layer reads and writes.

    Attributes:
        x: the input, with all the border that the layer reads.
        out: the output.
        gradient: the output's, with the border that the input's gradient reads.
        x_gradient: the input's.
    """

    x: Form
    out: Form
    gradient: Form
    x_gradient: Form


@attrs.frozen(eq=False)
class Layer:
    """The weights that exist, of one topology, and what is computed with them.

    Attributes:
        kernels: what computes.
        taps: the weights' coordinates.
        window: stride and padding.
    """

    kernels: _kernels.Kernels
    taps: Taps
    window: Window
    _lists: dict[tuple[str, Strides], list[WeightList]] = attrs.field(factory=dict)

    @classmethod
    def conv2d(
        cls,
        kernels: _kernels.Kernels,
        shape: tuple[int, ...],
        positions: NDArray[np.integer],
        stride: int,
        padding: Padding,
    ) -> "Layer":
        """A convolution.

        Args:
            kernels: what computes.
            shape: of the weight, (out, in, height, width).
            positions: in it, row-major, ascending.
            stride: in pixels.
            padding: of the images.
        """
        # sides with less padding than the others are sides on which the kernel has so many more rows of nothing
        most = padding.most
        out, into, height, width = shape
        above, left = most - padding.top, most - padding.left
        larger = (out, into, above + height + most - padding.bottom, left + width + most - padding.right)
        first, second, row, column = np.unravel_index(positions, shape)
        moved = np.ravel_multi_index((first, second, row + above, column + left), larger)
        return cls(kernels, Taps.of(larger, moved), Window(stride, most))

    @classmethod
    def linear(cls, kernels: _kernels.Kernels, shape: tuple[int, ...], positions: NDArray[np.integer]) -> "Layer":
        """A layer whose weight has the shape (out, in)."""
        return cls(kernels, Taps.of(shape, positions), Window())

    @property
    def nbytes(self) -> int:
        """Of the coordinates, and of the lists that were made so far."""
        taps = self.taps
        lists = [weights for made in self._lists.values() for weights in made]
        arrays = (taps.out, taps.into, taps.row, taps.column)
        return sum(array.nbytes for array in arrays) + sum(
            array.nbytes for one in lists for array in (*one.places, one.values)
        )

    def forms(self, images: int, *sides: int) -> Forms:
        """For a batch of ``images`` of (height, width), or of vectors where there are no sides."""
        out, into, *kernel = self.taps.shape
        if not sides:
            x, made = Form.of_features(images, into), Form.of_features(images, out)
            return Forms(x, made, made, x)
        outputs = [self.window.outputs(side, of) for side, of in zip(sides, kernel, strict=True)]
        behind = max(border_behind(self.window, *of) for of in zip(kernel, outputs, sides, strict=True))
        given = Form(images, sides[0], sides[1], into, border=0)
        made = Form(images, outputs[0], outputs[1], out, border=0)
        return Forms(
            x=attrs.evolve(given, border=self.window.padding),
            out=made,
            gradient=attrs.evolve(made, border=behind),
            x_gradient=given,
        )

    def forward(self, x: Buffer, values: Floats, out: Buffer, threads: int) -> None:
        """Write the output; values in the order of the positions."""
        (weights,) = self._forward(x)
        weights.fill(values, threads)
        self._convolve(x, [weights], out, threads)

    def backward_weight(self, x: Buffer, gradient: Buffer, threads: int) -> Floats:
        """The gradients of the values."""
        (weights,) = self._forward(x)
        listed = np.empty(len(weights.order), np.float32)
        self.kernels.weight_gradient(_read(x), _read(gradient), weights.handle, weights.steps, listed, threads)
        return weights.by_entry(listed, threads)

    def backward_input(self, gradient: Buffer, values: Floats, out: Buffer, threads: int) -> None:
        """Write the gradient of the input."""
        self._convolve(gradient, self._backward(gradient, values, threads), out, threads)

    def backward(self, x: Buffer, gradient: Buffer, values: Floats, out: Buffer, threads: int) -> Floats:
        """Write the gradient of the input; the gradients of the values."""
        if not self.window.keeps(out.form, gradient.form):
            self.backward_input(gradient, values, out, threads)
            return self.backward_weight(x, gradient, threads)
        (weights,), lists = self._forward(x), self._backward(gradient, values, threads)
        behind = [(one.handle, one.steps) for one in lists]
        listed, sums = np.empty(len(weights.order), np.float32), np.zeros((out.form.channels, 2))
        inputs = (_read(x), _read(gradient), weights.handle, self.window.stride, listed)
        self.kernels.backward(*inputs, out.handle, None, behind, None, sums, threads)
        return weights.by_entry(listed, threads)

    def _convolve(self, x: Buffer, lists: Iterable[WeightList], out: Buffer, threads: int) -> None:
        for weights in lists:
            self.kernels.convolve(_read(x), out.handle, None, weights.handle, weights.steps, None, threads)

    def _forward(self, x: Buffer) -> list[WeightList]:
        strides = Strides.of(x.form, self.kernels.lanes)
        return self._made("forward", strides, lambda: [self.taps.forward(self.window, strides)])

    def _backward(self, gradient: Buffer, values: Floats, threads: int) -> list[WeightList]:
        strides = Strides.of(gradient.form, self.kernels.lanes)
        lists = self._made("backward", strides, lambda: self.taps.backward(self.window, strides))
        for weights in lists:
            weights.fill(values, threads)
        return lists

    def _made(self, way: str, strides: Strides, make: Callable[[], Iterable[WeightList]]) -> list[WeightList]:
        key = (way, strides)
        if key not in self._lists:
            if len(self._lists) >= _MOST_LISTS:
                self._lists.clear()
            self._lists[key] = list(make())
        return self._lists[key]


def buffer_of(form: Form, array: Floats) -> Buffer:
    """Somebody's memory, of ``form.shape(lanes)``, from a cache line on, as the kernels take it.

    The border and the lanes beyond the batch are zero.

    Raises:
        ValueError: it is of another shape, or does not start at a cache line.
    """
    return Buffer(form, array, _kernels.Activation(array, form.border, form.images, form.features))


def _read(buffer: Buffer) -> _kernels.Read:
    return _kernels.Read(buffer.handle)


def kernels() -> _kernels.Kernels:
    """The best that this processor has, or those that the environment variable names."""
    return Runtime.of(1).kernels
