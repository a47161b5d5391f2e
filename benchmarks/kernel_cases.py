"""The CPU backend's kernels by themselves, on operands of given shapes: what each call computes and how much.

Only the compiled module and NumPy are used, so that the kernels of any build can be called.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

FLOAT, CACHE_LINE = 4, 64
BORDER = 1
GROUP = 16
"""Weights of an output channel in each block of input channels, about; see ``sparsecore_cpu``'s lists."""


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


@attrs.frozen
class Layer:
    """A convolution with a kernel of 3×3 pixels and padding 1.

    Attributes:
        inputs: channels.
        outputs: channels.
        side: height and width of the outputs, in pixels.
        stride: in pixels.
        density: of the weights.
    """

    inputs: int
    outputs: int
    side: int
    stride: int = 1
    density: float = 0.1

    def __str__(self) -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.inputs}→{self.outputs}, to {self.side}×{self.side}{stride}, density {self.density:g}"


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


class Cases:
    """Makes the cases for the kernels of one module.

    Args:
        module: a compiled ``_kernels``.
        images: how many a batch has.
        threads: that compute.
        stored: as what images are stored, float32 or uint16 (bfloat16).
    """

    def __init__(self, module: Any, images: int, threads: int, stored: DTypeLike = np.float32) -> None:
        self._module, self._images, self._threads = module, images, threads
        self._stored = np.dtype(stored)
        self._kernels = module.Kernels()
        self._lanes = self._kernels.lanes
        self._random = np.random.default_rng(0)

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
            yield from self.pooling(channels, side)
        yield from self.rows()
        yield from self.lists(100_000)

    def convolutions(self, layer: Layer) -> Iterator[Case]:
        """Forward; the gradients of the weights, of the input, and both in one pass."""
        module, kernels, threads = self._module, self._kernels, self._threads
        x, out = self._activation(layer.inputs, layer.side * layer.stride), self._activation(layer.outputs, layer.side)
        given = self._activation(layer.inputs, layer.side * layer.stride)
        positions = np.flatnonzero(self._random.random((layer.outputs, layer.inputs, 3, 3)) < layer.density)
        forward, transposed = self._forward(layer, positions), self._transposed(layer, positions)
        sums, input_sums = np.zeros((layer.outputs, 2)), np.zeros((layer.inputs, 2))
        gradients = np.zeros(len(forward.values), np.float32)
        read, gradient = module.Input.rectified(x, *self._affine(layer.inputs)), module.Input(out)
        mask = module.Mask(x, *self._affine(layer.inputs), np.zeros(layer.inputs, np.float32))
        steps = module.Steps(x_step=layer.stride)
        pairs = [(weights.handle, weights.steps) for weights in transposed]

        operations = 2.0 * len(positions) * layer.side**2 * self._images
        inputs = self._bytes(layer.inputs, layer.side * layer.stride)
        outputs = self._bytes(layer.outputs, layer.side)
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
        kernels, threads = self._kernels, self._threads
        x, out, other = (self._activation(channels, side) for _ in range(3))
        scale, shift = self._affine(channels)
        mask = self._module.Mask(x, scale, shift, shift)
        sums, features = np.zeros((channels, 2)), self._features(channels)
        images = self._aligned((self._images, side, side, channels), np.float32)
        size, entries = self._bytes(channels, side), float(channels * side**2 * self._images)
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

    def pooling(self, channels: int, side: int) -> Iterator[Case]:
        """Pooling over windows of 3×3 with a stride of 2, and what changes shapes."""
        kernels, threads = self._kernels, self._threads
        x, given, pooled = (
            *(self._activation(channels, side) for _ in range(2)),
            self._activation(channels, -(-side // 2)),
        )
        read, vectors = self._module.Input(x), self._features(channels * side**2)
        first = np.arange(-1, side - 1, 2)
        ends = np.maximum(first, 0).astype(np.int32), np.minimum(first + 3, side).astype(np.int32)
        windows = self._module.Windows(*ends, *ends)
        factors, numbers = np.full(len(first), 1 / 3, np.float32), np.arange(channels, dtype=np.int32)[::-1].copy()
        size, small = self._bytes(channels, side), self._bytes(channels, -(-side // 2))
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

    def rows(self, channels: int = 32, side: int = 32, density: float = 0.1) -> Iterator[Case]:
        """The convolution of one image."""
        row = side + 1
        pixels = -(-side * row // 16) * 16
        border = -(-2 * row // 16) * 16
        stride = pixels + border
        memory = self._aligned((channels * stride + 2 * border,), np.float32)
        made = self._aligned((channels * stride,), np.float32)
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

    def lists(self, count: int) -> Iterator[Case]:
        """What makes lists of weights and fills them."""
        module, threads = self._module, self._threads
        keys = self._random.integers(0, 256, count).astype(np.int32)
        order, pointers = np.empty(count, np.int32), np.empty(257, np.int32)
        module.sort_by_bucket(keys, order, pointers)
        entries, listed = self._aligned((count,), np.float32), self._aligned((count,), np.float32)
        shape = f"{count:,} weights"
        size = 3.0 * FLOAT * count
        yield Case("sort_by_bucket", shape, lambda: module.sort_by_bucket(keys, order, pointers), 0, size)
        yield Case("gather", shape, lambda: module.gather(entries, order, listed, threads), 0, size)
        yield Case("scatter", shape, lambda: module.scatter(listed, order, entries, threads), 0, size)

    def _forward(self, layer: Layer, positions: NDArray[np.integer]) -> "_Weights":
        out, into, down, right = np.unravel_index(positions, (layer.outputs, layer.inputs, 3, 3))
        row, channel = self._strides(layer.inputs, layer.side * layer.stride)
        offsets = into * channel + (down - BORDER) * row + (right - BORDER) * self._lanes
        return self._weights(layer, (layer.outputs, layer.inputs), (out, into), offsets, {"x_step": layer.stride})

    def _transposed(self, layer: Layer, positions: NDArray[np.integer]) -> list["_Weights"]:
        """For every position of a pixel among the strides, the weights that make the gradient of the input there."""
        out, into, down, right = np.unravel_index(positions, (layer.outputs, layer.inputs, 3, 3))
        row_stride, channel = self._strides(layer.outputs, layer.side)
        lists = []
        for row in range(layer.stride):
            for column in range(layer.stride):
                rows, columns = row + BORDER - down, column + BORDER - right
                chosen = (rows % layer.stride == 0) & (columns % layer.stride == 0)
                offsets = out * channel + rows // layer.stride * row_stride + columns // layer.stride * self._lanes
                steps = {"out_step": layer.stride, "row": row, "column": column}
                shape = (layer.inputs, layer.outputs)
                lists.append(self._weights(layer, shape, (into[chosen], out[chosen]), offsets[chosen], steps))
        return lists

    def _weights(
        self,
        layer: Layer,
        shape: tuple[int, int],
        channels: tuple[NDArray[np.integer], NDArray[np.integer]],
        offsets: NDArray[np.integer],
        steps: dict[str, int],
    ) -> "_Weights":
        """Sorted by block of input channels and output channel; in bundles where the layer is dense."""
        bundle = self._module.BUNDLE if layer.density == 1 else 1
        (outputs, inputs), (out, into) = shape, channels
        blocks = max(1, min(inputs // 8, round(len(out) / outputs / GROUP))) if bundle == 1 else -(-inputs // 16)
        block = -(-inputs // blocks)
        blocks, groups = -(-inputs // block), outputs // bundle
        one_of_bundle = out % bundle == 0  # the others of a bundle read the same inputs
        keys = (into // block * groups + out // bundle)[one_of_bundle]
        order = np.argsort(keys, kind="stable")
        pointers = np.searchsorted(keys[order], np.arange(blocks * groups + 1)).astype(np.int32)
        values = self._random.standard_normal(len(order) * bundle, np.float32)
        ordered = offsets[one_of_bundle][order].astype(np.int32)
        handle = self._module.Weights(pointers, ordered, values, outputs, bundle > 1)
        return _Weights(handle, values, self._module.Steps(**steps))

    def _strides(self, channels: int, side: int) -> tuple[int, int]:
        channel = (side + 2 * BORDER) * self._lanes
        return channels * channel, channel

    def _bytes(self, channels: int, side: int) -> float:
        return float(self._blocks * self._lanes * channels * side**2 * self._stored.itemsize)

    @property
    def _blocks(self) -> int:
        return -(-self._images // self._lanes)

    def _activation(self, channels: int, side: int) -> Any:
        outer = side + 2 * BORDER
        array = self._aligned((self._blocks, outer, channels, outer, self._lanes), self._stored)
        if self._stored == np.float32:
            inner = array[:, BORDER:-BORDER, :, BORDER:-BORDER]
            inner[...] = self._random.standard_normal(inner.shape, np.float32)
        return self._module.Activation(array, BORDER, self._images, False)

    def _features(self, channels: int) -> Any:
        array = self._aligned((1, 1, channels, self._blocks, self._lanes), np.float32)
        return self._module.Activation(array, 0, self._images, True)

    def _affine(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.ones(channels, np.float32), np.zeros(channels, np.float32)

    @staticmethod
    def _aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.zeros(size + CACHE_LINE, np.uint8)
        start = -memory.ctypes.data % CACHE_LINE
        return memory[start : start + size].view(dtype).reshape(shape)


@attrs.frozen(eq=False)
class _Weights:
    """A list of weights as the kernels hold it, its values, and which pixels it is applied to."""

    handle: Any
    values: NDArray[np.float32]
    steps: Any
