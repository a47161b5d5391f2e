"""The CPU backend's kernels by themselves, on operands of given shapes: what each call computes and how much.

Only the compiled module and NumPy are used, so that the kernels of any build can be called.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
from kernel_operands import FLOAT, Layer, Operands
from numpy.typing import DTypeLike


@attrs.frozen
class Case:
    """A kernel on operands of one shape.

    Attributes:
        kernel: its name.
        shape: in words.
        call: one call of it.
        flops: floating-point operations of a call; a multiply-add is two.
        bytes: that a call reads and writes, each activation, weight and index once.
    """

    kernel: str
    shape: str
    call: Callable[[], object]
    flops: float
    bytes: float

    @property
    def name(self) -> str:
        """The kernel and the shape."""
        return f"{self.kernel}; {self.shape}"


LAYERS = (
    Layer(32, 32, 32),
    Layer(64, 64, 16),
    Layer(128, 128, 8),
    Layer(32, 64, 16, stride=2),
    Layer(64, 64, 16, density=0.02),
    Layer(64, 64, 16, density=1.0),
)
"""The shapes of WRN-28-2 on 32×32 images."""

SIDES = ((32, 32), (128, 8))
"""Channels, and height and width, of the activations that elementwise kernels are called on."""

FUNCTIONS = ("RELU6", "SILU", "GELU")
"""Names of the pointwise functions that are measured: a simple one, one of exp and one of erf."""

INDEX = 2
"""Bytes of a weight's position in a linear layer."""


class Cases:
    """Makes the cases for the kernels of one module.

    Args:
        module: a compiled ``_kernels``.
        images: how many a batch has.
        threads: that compute.
        stored: as what images are stored, float32 or uint16 (bfloat16).
    """

    def __init__(self, module: Any, images: int, threads: int, stored: DTypeLike = np.float32) -> None:
        self._operands = Operands(module, images, stored)
        self._module, self._kernels = module, self._operands.kernels
        self._images, self._threads = images, threads
        self._random = self._operands.random

    @property
    def instruction_set(self) -> str:
        """What the kernels are for."""
        name: str = self._kernels.name
        return name

    def all(self, layers: Sequence[Layer] = LAYERS, sides: Sequence[tuple[int, int]] = SIDES) -> Iterator[Case]:
        """Every kernel on every shape that it is used on."""
        for layer in layers:
            yield from self.convolutions(layer)
        for channels, side in sides:
            yield from self.elementwise(channels, side)
            yield from self.pointwise(channels, side)
            yield from self.products(channels, side)
            yield from self.normalization(channels, side)
            yield from self.pooling(channels, side)
        yield from self.linear()
        yield from self.rows()
        yield from self.lists(100_000)

    def convolutions(self, layer: Layer) -> Iterator[Case]:
        """Forward; the gradients of the weights, of the input, and both in one pass."""
        module, operands, kernels, threads = self._module, self._operands, self._kernels, self._threads
        x, out = (
            operands.image_buffer(layer.inputs, layer.side * layer.stride),
            operands.image_buffer(layer.outputs, layer.side),
        )
        given = operands.image_buffer(layer.inputs, layer.side * layer.stride)
        positions = np.flatnonzero(self._random.random((layer.outputs, layer.inputs, 3, 3)) < layer.density)
        forward, transposed = operands.forward_list(layer, positions), operands.transposed_lists(layer, positions)
        sums, input_sums = np.zeros((layer.outputs, 2)), np.zeros((layer.inputs, 2))
        gradients = np.zeros(len(forward.values), np.float32)
        read, gradient = module.Input.rectified(x, *operands.identity(layer.inputs)), module.Input(out)
        mask = module.Mask(x, *operands.identity(layer.inputs), np.zeros(layer.inputs, np.float32))
        steps = module.Steps(x_step=layer.stride)
        pairs = [(weights.handle, weights.steps) for weights in transposed]

        operations = 2.0 * len(positions) * layer.side**2 * self._images
        inputs = operands.image_bytes(layer.inputs, layer.side * layer.stride)
        outputs = operands.image_bytes(layer.outputs, layer.side)
        weights = len(positions) * (FLOAT + FLOAT)
        yield Case(
            "convolve",
            str(layer),
            lambda: kernels.convolve(read, out, None, forward.handle, steps, sums, threads),
            operations,
            inputs + outputs + weights,
        )
        yield Case(
            "weight_gradient",
            str(layer),
            lambda: kernels.weight_gradient(read, gradient, forward.handle, steps, gradients, threads),
            operations,
            inputs + outputs + weights,
        )
        if layer.stride == 1:
            back, each = pairs[0]
            yield Case(
                "convolve_masked",
                str(layer),
                lambda: kernels.convolve_masked(gradient, given, None, back, each, mask, input_sums, threads),
                operations,
                2 * inputs + outputs + weights,
            )
        yield Case(
            "backward",
            str(layer),
            lambda: kernels.backward(
                read, gradient, forward.handle, layer.stride, gradients, given, None, pairs, mask, input_sums, threads
            ),
            2 * operations,
            3 * inputs + outputs + 2 * weights,
        )

    def elementwise(self, channels: int, side: int) -> Iterator[Case]:
        """The kernels that go over activations pixel by pixel."""
        operands, kernels, threads = self._operands, self._kernels, self._threads
        x, out, other = (operands.image_buffer(channels, side) for _ in range(3))
        scale, shift = operands.identity(channels)
        mask = self._module.Mask(x, scale, shift, shift)
        sums, features = np.zeros((channels, 2)), operands.feature_buffer(channels)
        images = operands.aligned((self._images, side, side, channels), np.float32)
        size, entries = operands.image_bytes(channels, side), float(channels * side**2 * self._images)
        calls: dict[str, tuple[Callable[[], object], float, float]] = {
            "affine": (lambda: kernels.affine(x, out, scale, shift, threads), 2, 2),
            "affine_relu": (lambda: kernels.affine_relu(x, out, scale, shift, threads), 3, 2),
            "combine": (lambda: kernels.combine(x, other, out, None, scale, scale, shift, threads), 4, 3),
            "relu_backward": (lambda: kernels.relu_backward(other, out, mask, sums, threads), 7, 3),
            "moments": (lambda: kernels.moments(x, shift, sums, threads), 4, 1),
            "gradient_sums": (lambda: kernels.gradient_sums(other, x, shift, sums, threads), 4, 2),
            "pool": (lambda: kernels.pool(x, features, threads), 1, 1),
            "pool_backward": (lambda: kernels.pool_backward(features, out, None, threads), 1, 1),
        }
        shape = f"{channels} channels of {side}×{side}"
        for kernel, (call, operations, passes) in calls.items():
            yield Case(kernel, shape, call, operations * entries, passes * size)
        moved = size + images.nbytes
        yield Case("pack", shape, lambda: kernels.pack(images, out, threads), 0, moved)
        yield Case("unpack", shape, lambda: kernels.unpack(out, images, threads), 0, moved)

    def pointwise(self, channels: int, side: int) -> Iterator[Case]:
        """Functions of single entries, each counted as one operation behind a scale and a shift."""
        operands, kernels, threads = self._operands, self._kernels, self._threads
        gradient, x, out = (operands.image_buffer(channels, side) for _ in range(3))
        scale, shift = operands.identity(channels)
        sums = np.zeros((channels, 2))
        size, entries = operands.image_bytes(channels, side), float(channels * side**2 * self._images)
        for name in FUNCTIONS:
            function = getattr(self._module.PointwiseFunction, name)
            shape = f"{name.lower()}, {channels} channels of {side}×{side}"
            before, behind = (function, 0.0, x, out, None, scale, shift), (x, out, None, scale, shift, shift, sums)
            yield Case(
                "pointwise",
                shape,
                lambda before=before: kernels.pointwise(*before, threads),  # type: ignore[misc]
                3 * entries,
                2 * size,
            )
            yield Case(
                "pointwise_backward",
                shape,
                lambda function=function, behind=behind: kernels.pointwise_backward(  # type: ignore[misc]
                    function, 0.0, gradient, *behind, threads
                ),
                8 * entries,
                3 * size,
            )

    def products(self, channels: int, side: int) -> Iterator[Case]:
        """Products and sums of two activations, and dropout."""
        operands, kernels, threads = self._operands, self._kernels, self._threads
        x, y, out = (operands.image_buffer(channels, side) for _ in range(3))
        features, single = operands.feature_buffer(channels), operands.image_buffer(1, side)
        kept = self._random.integers(0, 2, (operands.blocks, side, channels, side, kernels.lanes), np.uint8)
        size, entries = operands.image_bytes(channels, side), float(channels * side**2 * self._images)
        one = operands.image_bytes(1, side)
        calls: dict[str, tuple[Callable[[], object], float, float]] = {
            "multiply": (lambda: kernels.multiply(x, y, out, None, threads), entries, 3 * size),
            "add": (lambda: kernels.add(x, y, out, None, threads), entries, 3 * size),
            "sum_pixels": (lambda: kernels.sum_pixels(x, y, features, threads), 2 * entries, 2 * size),
            "sum_channels": (lambda: kernels.sum_channels(x, y, single, threads), 2 * entries, 2 * size + one),
            "dropout": (lambda: kernels.dropout(x, kept, 2.0, out, None, threads), entries, 2 * size + kept.nbytes),
        }
        for kernel, (call, operations, moved) in calls.items():
            yield Case(kernel, f"{channels} channels of {side}×{side}", call, operations, moved)
        shape = f"features times {channels} channels of {side}×{side}"
        yield Case("multiply", shape, lambda: kernels.multiply(x, features, out, None, threads), entries, 2 * size)

    def normalization(self, channels: int, side: int) -> Iterator[Case]:
        """Layer norm of pixels, and group norm of images with four channels in each group."""
        operands, kernels, threads = self._operands, self._kernels, self._threads
        gradient, x, out = (operands.image_buffer(channels, side) for _ in range(3))
        scale, shift = operands.identity(channels)
        sums = np.zeros((channels, 2))
        size, entries = operands.image_bytes(channels, side), float(channels * side**2 * self._images)
        for name, by_image, groups in (("layer norm", False, 1), ("group norm", True, channels // 4)):
            rows = operands.blocks * (1 if by_image else side**2)
            statistics = operands.aligned((rows, groups, 2, kernels.lanes))
            before = (x, out, scale, shift, statistics, groups, by_image, 1e-5, True)
            behind = (gradient, x, out, None, scale, statistics, groups, by_image, True, sums)
            shape = f"{name}, {channels} channels of {side}×{side}"
            yield Case(
                "normalize",
                shape,
                lambda before=before: kernels.normalize(*before, threads),  # type: ignore[misc]
                8 * entries,
                2 * size,
            )
            yield Case(
                "normalize_backward",
                shape,
                lambda behind=behind: kernels.normalize_backward(*behind, threads),  # type: ignore[misc]
                13 * entries,
                3 * size,
            )

    def pooling(self, channels: int, side: int) -> Iterator[Case]:
        """Pooling over windows of 3×3 with a stride of 2, and what changes shapes."""
        operands, kernels, threads = self._operands, self._kernels, self._threads
        x, given, pooled = (
            *(operands.image_buffer(channels, side) for _ in range(2)),
            operands.image_buffer(channels, -(-side // 2)),
        )
        read, vectors = self._module.Input(x), operands.feature_buffer(channels * side**2)
        first = np.arange(-1, side - 1, 2)
        ends = np.maximum(first, 0).astype(np.int32), np.minimum(first + 3, side).astype(np.int32)
        windows = self._module.Windows(*ends, *ends)
        factors, numbers = np.full(len(first), 1 / 3, np.float32), np.arange(channels, dtype=np.int32)[::-1].copy()
        size, small = operands.image_bytes(channels, side), operands.image_bytes(channels, -(-side // 2))
        entries = float(9 * channels * len(first) ** 2 * self._images)
        shape = f"{channels} channels of {side}×{side}"
        calls: dict[str, tuple[Callable[[], object], float, float]] = {
            "window_sum": (
                lambda: kernels.window_sum(x, pooled, None, windows, factors, factors, False, threads),
                entries,
                size + small,
            ),
            "max_pool": (lambda: kernels.max_pool(read, pooled, windows, threads), entries, size + small),
            "max_pool_backward": (
                lambda: kernels.max_pool_backward(pooled, read, given, None, windows, None, None, threads),
                2 * entries,
                2 * size + small,
            ),
            "gather_channels": (lambda: kernels.gather_channels(x, numbers, given, 0, None, threads), 0, 2 * size),
            "flatten": (lambda: kernels.flatten(x, vectors, True, threads), 0, 2 * size),
            "unflatten": (lambda: kernels.unflatten(vectors, given, None, True, threads), 0, 2 * size),
        }
        for kernel, (call, operations, moved) in calls.items():
            yield Case(kernel, shape, call, operations, moved)

    def linear(self, inputs: int = 512, outputs: int = 512, density: float = 0.1) -> Iterator[Case]:
        """Linear layers: forward; the gradients of the weights, of the input, and both in one pass."""
        module, operands, threads = self._module, self._operands, self._threads
        kernels = module.LinearKernels()
        x, given = (operands.feature_buffer(inputs) for _ in range(2))
        out, gradient = (operands.feature_buffer(outputs) for _ in range(2))
        positions = np.flatnonzero(self._random.random((outputs, inputs)) < density).astype(np.int64)
        pattern = module.SparsityPattern(positions, outputs, inputs)
        values = self._random.standard_normal(len(positions), np.float32)
        gradients, sums = np.zeros(len(positions), np.float32), np.zeros((outputs, 2))
        operations = 2.0 * len(positions) * self._images
        read, made = operands.feature_bytes(inputs), operands.feature_bytes(outputs)
        weights = len(positions) * (FLOAT + INDEX)
        calls: dict[str, tuple[Callable[[], object], float, float]] = {
            "forward": (
                lambda: kernels.forward(x, out, None, pattern, values, sums, threads),
                operations,
                read + made + weights,
            ),
            "weight_gradient": (
                lambda: kernels.weight_gradient(x, gradient, pattern, gradients, threads),
                operations,
                read + made + weights,
            ),
            "input_gradient": (
                lambda: kernels.input_gradient(gradient, pattern, values, given, None, threads),
                operations,
                read + made + weights,
            ),
            "backward": (
                lambda: kernels.backward(x, gradient, pattern, values, gradients, given, None, threads),
                2 * operations,
                2 * read + made + 2 * weights,
            ),
        }
        shape = f"{inputs}→{outputs}, density {density:g}"
        for kernel, (call, count, moved) in calls.items():
            yield Case(f"LinearKernels.{kernel}", shape, call, count, moved)

    def rows(self, channels: int = 32, side: int = 32, density: float = 0.1) -> Iterator[Case]:
        """The convolution of one image, and a copy of it whose rows are contiguous."""
        operands = self._operands
        row = side + 1
        pixels = -(-side * row // 16) * 16
        border = -(-2 * row // 16) * 16
        stride = pixels + border
        memory = operands.aligned((channels * stride + 2 * border,), np.float32)
        made = operands.aligned((channels * stride,), np.float32)
        out, into, down, right = np.nonzero(self._random.random((channels, channels, 3, 3)) < density)
        offsets = (into * stride + (down - 1) * row + right - 1).astype(np.int32)
        pointers = np.searchsorted(out, np.arange(channels + 1)).astype(np.int32)
        values = self._random.standard_normal(len(out), np.float32)
        zeros = np.zeros(channels, np.float32)
        inside = np.resize(np.r_[np.ones(side), 0], pixels).astype(np.float32)
        convolution = self._module.RowConvolution(
            kernels="",
            x=memory,
            x_start=border,
            out=made,
            out_start=0,
            channel_stride=stride,
            add=None,
            pointers=pointers,
            offsets=offsets,
            values=values,
            bias=zeros,
            inside=inside,
            floor=0.0,
        )
        shape = f"one image, {channels}→{channels}, to {side}×{side}, density {density:g}"
        operations = 2.0 * len(out) * side**2
        size = 2.0 * channels * pixels * FLOAT + 8 * len(out)
        yield Case("RowConvolution", shape, lambda: convolution.run(self._threads), operations, size)
        image = self._random.standard_normal((side, side, channels), np.float32).transpose(2, 0, 1)
        copy, shape = np.empty(image.shape, np.float32), f"one image, {channels} channels of {side}×{side}"
        yield Case(
            "copy_pixels",
            shape,
            lambda: self._module.copy_pixels(image, copy, self._threads),
            0,
            2 * image.nbytes,
        )

    def lists(self, count: int) -> Iterator[Case]:
        """What makes lists of weights and fills them."""
        module, operands, threads = self._module, self._operands, self._threads
        keys = self._random.integers(0, 256, count).astype(np.int32)
        order, pointers = np.empty(count, np.int32), np.empty(257, np.int32)
        module.sort_by_bucket(keys, order, pointers)
        entries, listed = operands.aligned((count,), np.float32), operands.aligned((count,), np.float32)
        shape = f"{count:,} weights"
        size = 3.0 * FLOAT * count
        yield Case("sort_by_bucket", shape, lambda: module.sort_by_bucket(keys, order, pointers), 0, size)
        yield Case("gather", shape, lambda: module.gather(entries, order, listed, threads), 0, size)
        yield Case("scatter", shape, lambda: module.scatter(listed, order, entries, threads), 0, size)
