"""The operands that the CPU backend's kernels are measured on: activations, lists of weights, and their sizes."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

FLOAT, CACHE_LINE = 4, 64
BORDER = 1
GROUP = 16
"""Weights of an output channel in each block of input channels, about; see ``sparsecore_cpu``'s lists."""


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


class Operands:
    """Makes operands of random numbers for the kernels of one module.

    Args:
        module: a compiled ``_kernels``.
        images: how many a batch has.
        stored: as what images are stored, float32 or uint16 (bfloat16).
    """

    def __init__(self, module: Any, images: int, stored: DTypeLike) -> None:
        self.module, self.images = module, images
        self.kernels = module.Kernels()
        self.random = np.random.default_rng(0)
        self._stored = np.dtype(stored)

    @property
    def blocks(self) -> int:
        """How many vectors the images fill."""
        return -(-self.images // self.kernels.lanes)

    def forward_list(self, layer: Layer, positions: NDArray[np.integer]) -> "ListedWeights":
        """The weights that make the outputs."""
        out, into, down, right = np.unravel_index(positions, (layer.outputs, layer.inputs, 3, 3))
        row, channel = self._strides(layer.inputs, layer.side * layer.stride)
        offsets = into * channel + (down - BORDER) * row + (right - BORDER) * self.kernels.lanes
        return self._weights(layer, (layer.outputs, layer.inputs), (out, into), offsets, {"x_step": layer.stride})

    def transposed_lists(self, layer: Layer, positions: NDArray[np.integer]) -> list["ListedWeights"]:
        """For every position of a pixel among the strides, the weights that make the gradient of the input there."""
        out, into, down, right = np.unravel_index(positions, (layer.outputs, layer.inputs, 3, 3))
        row_stride, channel = self._strides(layer.outputs, layer.side)
        lists = []
        for row in range(layer.stride):
            for column in range(layer.stride):
                rows, columns = row + BORDER - down, column + BORDER - right
                chosen = (rows % layer.stride == 0) & (columns % layer.stride == 0)
                offsets = (
                    out * channel + rows // layer.stride * row_stride + columns // layer.stride * self.kernels.lanes
                )
                steps = {"out_step": layer.stride, "row": row, "column": column}
                shape = (layer.inputs, layer.outputs)
                lists.append(self._weights(layer, shape, (into[chosen], out[chosen]), offsets[chosen], steps))
        return lists

    def image_bytes(self, channels: int, side: int) -> float:
        """Of an activation of images, those of lanes without an image included."""
        return float(self.blocks * self.kernels.lanes * channels * side**2 * self._stored.itemsize)

    def image_buffer(self, channels: int, side: int) -> Any:
        """An activation of square images."""
        outer = side + 2 * BORDER
        array = self.aligned((self.blocks, outer, channels, outer, self.kernels.lanes), self._stored)
        if self._stored == np.float32:
            inner = array[:, BORDER:-BORDER, :, BORDER:-BORDER]
            inner[...] = self.random.standard_normal(inner.shape, np.float32)
        return self.module.Activation(array, BORDER, self.images, False)

    def feature_bytes(self, channels: int) -> float:
        """Of an activation of vectors, those of lanes without one included."""
        return float(self.blocks * self.kernels.lanes * channels * FLOAT)

    def feature_buffer(self, channels: int) -> Any:
        """An activation of vectors, all zero."""
        array = self.aligned((1, 1, channels, self.blocks, self.kernels.lanes), np.float32)
        return self.module.Activation(array, 0, self.images, True)

    def identity(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and shift by channel."""
        return np.ones(channels, np.float32), np.zeros(channels, np.float32)

    @staticmethod
    def aligned(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Zeros that start at a cache line."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.zeros(size + CACHE_LINE, np.uint8)
        start = -memory.ctypes.data % CACHE_LINE
        return memory[start : start + size].view(dtype).reshape(shape)

    def _weights(
        self,
        layer: Layer,
        shape: tuple[int, int],
        channels: tuple[NDArray[np.integer], NDArray[np.integer]],
        offsets: NDArray[np.integer],
        steps: dict[str, int],
    ) -> "ListedWeights":
        """Sorted by block of input channels and output channel; in bundles where the layer is dense."""
        bundle = self.module.BUNDLE if layer.density == 1 else 1
        (outputs, inputs), (out, into) = shape, channels
        blocks = max(1, min(inputs // 8, round(len(out) / outputs / GROUP))) if bundle == 1 else -(-inputs // 16)
        block = -(-inputs // blocks)
        blocks, groups = -(-inputs // block), outputs // bundle
        one_of_bundle = out % bundle == 0  # the others of a bundle read the same inputs
        keys = (into // block * groups + out // bundle)[one_of_bundle]
        order = np.argsort(keys, kind="stable")
        pointers = np.searchsorted(keys[order], np.arange(blocks * groups + 1)).astype(np.int32)
        values = self.random.standard_normal(len(order) * bundle, np.float32)
        ordered = offsets[one_of_bundle][order].astype(np.int32)
        handle = self.module.Weights(pointers, ordered, values, outputs, bundle > 1)
        return ListedWeights(handle, values, self.module.Steps(**steps))

    def _strides(self, channels: int, side: int) -> tuple[int, int]:
        channel = (side + 2 * BORDER) * self.kernels.lanes
        return channels * channel, channel


@attrs.frozen(eq=False)
class ListedWeights:
    """A list of weights as the kernels hold it, its values, and which pixels it is applied to."""

    handle: Any
    values: NDArray[np.float32]
    steps: Any
