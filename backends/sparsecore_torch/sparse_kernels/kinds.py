"""What differs between convolutions and linear layers on their way through the kernels."""

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecore_cpu import _kernels
from sparsecore_cpu.layer import Layer, Padding
from sparsecore_torch.sparse_kernels.functions import Computation
from sparsecore_torch.sparse_kernels.layouts import Features, Images

Run = Callable[[Tensor], Tensor]


class Kind(Protocol):
    """Of module."""

    def takes(self, module: Any, x: Tensor) -> bool:
        """Whether the shape is one that the kernels compute; whatever they do not is left to the module itself."""
        ...

    def computation(self, module: Any, within: NDArray[np.int64]) -> Computation:
        """What the module computes with weights at these positions of its tensor."""
        ...

    def run(self, x: Tensor, run: Run) -> Tensor:
        """The output in the shape that the module gives; ``run`` takes a batch."""
        ...


@attrs.frozen(eq=False)
class Convolutions:
    """nn.Conv2d, of one image or a batch."""

    kernels: _kernels.Kernels

    def takes(self, module: nn.Conv2d, x: Tensor) -> bool:
        """See :class:`Kind`."""
        if x.ndim not in {3, 4} or x.shape[-3] != module.in_channels or x.numel() == 0:
            return False
        padding = _padding(module)
        height, width = (int(side) for side in x.shape[-2:])
        return (
            height + padding.top + padding.bottom >= module.kernel_size[0]
            and width + padding.left + padding.right >= module.kernel_size[1]
        )

    def computation(self, module: nn.Conv2d, within: NDArray[np.int64]) -> Computation:
        """See :class:`Kind`."""
        shape = (module.out_channels, module.in_channels, *module.kernel_size)
        return Computation(Layer.conv2d(self.kernels, shape, within, module.stride[0], _padding(module)), Images())

    def run(self, x: Tensor, run: Run) -> Tensor:
        """See :class:`Kind`."""
        return run(x) if x.ndim == 4 else run(x[None])[0]


@attrs.frozen(eq=False)
class LinearLayers:
    """nn.Linear, of vectors in any number of dimensions."""

    kernels: _kernels.Kernels

    def takes(self, module: nn.Linear, x: Tensor) -> bool:
        """See :class:`Kind`."""
        return x.ndim > 0 and x.shape[-1] == module.in_features and x.numel() > 0

    def computation(self, module: nn.Linear, within: NDArray[np.int64]) -> Computation:
        """See :class:`Kind`."""
        shape = (module.out_features, module.in_features)
        return Computation(Layer.linear(self.kernels, shape, within), Features())

    def run(self, x: Tensor, run: Run) -> Tensor:
        """See :class:`Kind`."""
        return run(x) if x.ndim == 2 else run(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _padding(module: nn.Conv2d) -> Padding:
    """Also where it has a name, 'same' or 'valid'."""
    left, right, top, bottom = module._reversed_padding_repeated_twice
    return Padding(top, bottom, left, right)
