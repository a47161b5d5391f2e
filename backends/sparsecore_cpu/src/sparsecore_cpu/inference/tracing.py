"""The program of a network: its forward pass, noted down instead of computed."""

import math

import attrs
import numpy as np

from sparsecore.learning import Tensor as Handle
from sparsecore.ties import tied_places
from sparsecore_cpu.inference.fusion import fused
from sparsecore_cpu.inference.network import Network
from sparsecore_cpu.inference.program import Affine, Convolution, Flatten, Input, Node, Pool, Sum
from sparsecore_cpu.inference.tensor import Tensor
from sparsecore_cpu.lists import Window
from sparsecore_numpy.normalization import Moments


def program_of(network: Network) -> Node:
    """The network's outputs, with batch norm in evaluation folded into weights where that can be done."""
    output: Node = network.model.forward(Tracer(), _tensors(network), Input())
    return fused(output)


@attrs.frozen(eq=False)
class Tracer:
    """See :class:`sparsecore.learning.Operations`; activations are nodes, parameters tensors."""

    def conv2d(self, x: Node, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Node:
        """Without a bias."""
        return Convolution((x,), weight, Window(stride, padding), np.zeros(weight.shape[0]))

    def linear(self, x: Node, weight: Tensor, bias: Tensor | None = None) -> Node:
        """x·weightᵀ + bias."""
        return Convolution((x,), weight, Window(), np.zeros(weight.shape[0]) if bias is None else bias.vector())

    def batch_norm(self, x: Node, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Node:
        """By the running statistics."""
        factor = scale.vector() * Moments(mean.vector(), variance.vector()).inverse_deviation
        return Affine((x,), factor, shift.vector() - mean.vector() * factor)

    def relu(self, x: Node) -> Node:
        """max(x, 0)."""
        return Affine((x,), np.ones(1), np.zeros(1), floor=0.0)

    def global_average_pool(self, x: Node) -> Node:
        """(batch, channels)."""
        return Pool((x,))

    def add(self, x: Node, y: Node) -> Node:
        """X + y."""
        return Sum((x, y))

    def flatten(self, x: Node) -> Node:
        """(batch, height·width·channels)."""
        return Flatten((x,))

    def tied(self, values: Tensor, shape: tuple[int, ...], key: int) -> Tensor:
        """The weight whose entries are those of ``values``."""
        slots, signs = tied_places(np.arange(math.prod(shape)), math.prod(values.shape), key)
        return Tensor.whole((values.vector()[slots] * signs).astype(np.float32).reshape(shape))


def _tensors(network: Network) -> dict[str, Handle]:
    topology = network.topology
    sparse = {
        name: Tensor(shape, topology.local(name), network.values[topology.slots(name)])
        for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)
    }
    return sparse | {name: Tensor.whole(array) for name, array in network.dense.items()}
