"""How tensors of torch's are stored in the kernels' layout."""

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsecore_cpu.runtime import Form


class Layout(Enum):
    """How a tensor of torch's is stored by the kernels."""

    IMAGES = "images"
    """(N, C, H, W)."""

    VECTORS = "vectors"
    """(..., features): as many vectors as the product of the other dimensions."""

    PIXELS = "pixels"
    """(N, C, 1, 1): the vectors of images of one pixel."""


def _array_of_images(tensor: Tensor, border: int) -> tuple[Form, NDArray[np.float32]]:
    images, channels, height, width = tensor.shape
    return Form(images, height, width, channels, border), tensor.permute(0, 2, 3, 1).numpy()


def _array_of_vectors(tensor: Tensor, _: int) -> tuple[Form, NDArray[np.float32]]:
    vectors = tensor.reshape(-1, tensor.shape[-1])
    return Form.of_features(*vectors.shape), vectors[:, None, None].numpy()


def _array_of_pixels(tensor: Tensor, _: int) -> tuple[Form, NDArray[np.float32]]:
    return _array_of_vectors(tensor.flatten(1), 0)


ARRAYS: Mapping[Layout, Callable[[Tensor, int], tuple[Form, NDArray[np.float32]]]] = MappingProxyType(
    {
        Layout.IMAGES: _array_of_images,
        Layout.VECTORS: _array_of_vectors,
        Layout.PIXELS: _array_of_pixels,
    }
)
"""The form of a tensor and its memory, as an array of (images, height, width, channels)."""
