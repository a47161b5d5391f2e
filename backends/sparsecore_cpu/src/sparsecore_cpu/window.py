"""How a convolution's kernel moves over images: strides, zero padding, dilation and groups."""

from functools import lru_cache
from itertools import product

import attrs

from sparsecore.errors import InputError
from sparsecore_cpu.arguments import pair_of
from sparsecore_cpu.runtime import Form


@attrs.frozen
class Padding:
    """Zeros around an image, in pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def most(self) -> int:
        """The largest padding of any side."""
        return max(self.top, self.bottom, self.left, self.right)

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Top, bottom, left and right."""
        return self.top, self.bottom, self.left, self.right

    @classmethod
    def same(cls, kernel: tuple[int, int], dilation: "int | tuple[int, int]" = 1) -> "Padding":
        """The padding with which a stride of 1 keeps height and width; the odd pixel is at the bottom and the right.

        Args:
            kernel: height and width of the kernel, in taps.
            dilation: pixels from one tap to the next, one number or (height, width).
        """
        rows, columns = (step * (taps - 1) for step, taps in zip(pair_of("dilation", dilation), kernel, strict=True))
        return cls(rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)


def _stride(given: "int | tuple[int, int]") -> tuple[int, int]:
    return pair_of("stride", given)


def _dilation(given: "int | tuple[int, int]") -> tuple[int, int]:
    return pair_of("dilation", given)


def _padding(given: "int | tuple[int, int] | Padding") -> Padding:
    if isinstance(given, Padding):
        return given
    rows, columns = pair_of("padding", given, least=0)
    return Padding(rows, rows, columns, columns)


@attrs.frozen
class WindowAxis:
    """The window along the height or the width of images, in pixels.

    Attributes:
        stride: from one output to the next.
        before: zeros above, or to the left.
        after: zeros below, or to the right.
        dilation: from one tap of the kernel to the next.
    """

    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    def outputs(self, side: int, kernel: int) -> int:
        """The output's pixels along a side of ``side`` pixels, for ``kernel`` taps.

        Args:
            side: the input's pixels along the side, without padding.
            kernel: the kernel's taps along the side.

        Returns:
            The number of pixels; zero or negative where the kernel is larger than the padded side.
        """
        return (side + self.before + self.after - self.reach(kernel)) // self.stride + 1

    def reach(self, kernel: int) -> int:
        """The pixels from the first to the last of so many taps."""
        return self.dilation * (kernel - 1) + 1

    def border_behind(self, kernel: int, made: int, side: int) -> int:
        """The zero border that an output gradient needs so that the gradient of all inputs can be computed from it.

        Args:
            kernel: the kernel's taps along the side.
            made: the outputs' pixels along this side.
            side: the inputs' pixels along this side.

        Returns:
            The width of the border in pixels, 0 or more.
        """
        return _border_behind(self, kernel, made, side)


@lru_cache(maxsize=1024)
def _border_behind(axis: WindowAxis, kernel: int, made: int, side: int) -> int:
    reach = [
        ((phase + axis.before - tap * axis.dilation) // axis.stride, -(-(side - phase) // axis.stride))
        for phase, tap in product(range(axis.stride), range(kernel))
        if (phase + axis.before - tap * axis.dilation) % axis.stride == 0 and phase < side
    ]
    return max([0, *(-first for first, _ in reach), *(first + count - made for first, count in reach)])


@attrs.frozen
class Window:
    """Stride, zero padding, dilation and groups of a convolution.

    Attributes:
        stride: pixels from one output to the next, (height, width); one number is both.
        padding: zeros on each side; one number is for all sides, two are for top and bottom, and for left and right.
        dilation: pixels from one tap of the kernel to the next, (height, width); one number is both.
        groups: the input and output channels are split into so many groups, in order, and a group of outputs reads the
            same group of inputs only.

    Raises:
        InputError: a number is too small, or no integer.
    """

    stride: tuple[int, int] = attrs.field(default=(1, 1), converter=_stride)
    padding: Padding = attrs.field(default=Padding(), converter=_padding)
    dilation: tuple[int, int] = attrs.field(default=(1, 1), converter=_dilation)
    groups: int = 1

    def __attrs_post_init__(self) -> None:
        """Check padding and groups."""
        if not all(isinstance(side, int) and side >= 0 for side in self.padding.sides):
            raise InputError(f"the padding of each side must be an integer of at least 0; given {self.padding}")
        if not isinstance(self.groups, int) or self.groups < 1:
            raise InputError(f"the number of groups must be an integer of at least 1; given {self.groups!r}")

    @property
    def rows(self) -> WindowAxis:
        """The window along the height."""
        return WindowAxis(self.stride[0], self.padding.top, self.padding.bottom, self.dilation[0])

    @property
    def columns(self) -> WindowAxis:
        """The window along the width."""
        return WindowAxis(self.stride[1], self.padding.left, self.padding.right, self.dilation[1])

    def outputs(self, sides: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output.

        Args:
            sides: height and width of the input in pixels, without padding.
            kernel: height and width of the kernel in taps.
        """
        return self.rows.outputs(sides[0], kernel[0]), self.columns.outputs(sides[1], kernel[1])

    def border_behind(self, kernel: tuple[int, int], made: tuple[int, int], sides: tuple[int, int]) -> int:
        """The border that an output gradient needs on all sides; see :meth:`WindowAxis.border_behind`.

        Args:
            kernel: height and width of the kernel in taps.
            made: height and width of the output in pixels.
            sides: height and width of the input in pixels, without padding.
        """
        axes = zip((self.rows, self.columns), kernel, made, sides, strict=True)
        return max(axis.border_behind(*of_axis) for axis, *of_axis in axes)

    def keeps(self, x: Form, out: Form) -> bool:
        """Whether one fused kernel computes both gradients.

        Args:
            x: the form of the layer's inputs.
            out: the form of its outputs.

        Returns:
            True for images whose height and width are the outputs' times one stride; False for features.
        """
        rows, columns = self.stride
        sides = (out.height * rows, out.width * columns)
        return not x.features and rows == columns and (x.height, x.width) == sides

    def check_fits(self, shape: tuple[int, ...], x: Form) -> None:
        """Check that a layer can take an input.

        Args:
            shape: the dense shape of the weight, (out, in / groups, height, width), or (out, in).
            x: the form of the input.

        Raises:
            InputError: the input has another number of channels or is no image, the outputs cannot be split into the
                groups, or the kernel is larger than the padded images.
        """
        if shape[1] * self.groups != x.channels or (len(shape) == 2) != x.features:
            grouped = f" and {self.groups} groups" if self.groups > 1 else ""
            raise InputError(f"a layer with weights of shape {shape}{grouped} cannot take a tensor of {x.dense}")
        if shape[0] % self.groups:
            raise InputError(f"{shape[0]} output channels cannot be split into {self.groups} equal groups")
        kernel = _sides(shape)
        if min(self.outputs((x.height, x.width), kernel)) < 1:
            dilated = "" if self.dilation == (1, 1) else f" with a dilation of {self.dilation[0]}×{self.dilation[1]}"
            raise InputError(
                f"a kernel of {kernel[0]}×{kernel[1]}{dilated} does not fit into images of {x.height}×{x.width} pixels "
                f"with a padding of {_described(self.padding)}"
            )


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    height, width = (*shape, 1, 1)[2:4]
    return height, width


def _described(padding: Padding) -> str:
    sides = padding.sides
    return str(sides[0]) if len(set(sides)) == 1 else "{}, {}, {} and {} (top, bottom, left, right)".format(*sides)
