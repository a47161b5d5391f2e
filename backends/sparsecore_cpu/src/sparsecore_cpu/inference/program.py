"""A network as the operations that compute it, without gradients: nodes that read one another.

What computes them (a :class:`Maker`) has its own values, such as buffers, and is asked for one a node.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.computation import Moments
from sparsecore.learning.parameters import hash_slots
from sparsecore.learning.protocols import Tensor as Handle
from sparsecore_cpu.convolution import Window
from sparsecore_cpu.inference.network import Tensor, TrainedNetwork

T = TypeVar("T")

UNBOUNDED = -math.inf
"""The floor of outputs that may be negative; relu's is 0."""


class Node(Protocol):
    """One operation."""

    @property
    def operands(self) -> tuple["Node", ...]:
        """What it reads."""
        ...

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:
        """Its outputs, from those of its operands."""
        ...


@attrs.frozen(eq=False)
class Input:
    """The images."""

    operands: tuple[Node, ...] = ()

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:  # noqa: ARG002
        """See :class:`Node`."""
        return maker.images()


@attrs.frozen(eq=False)
class Convolution:
    """max(convolution + bias + what is added, floor); or of a linear layer.

    Attributes:
        operands: the input, and what is added if there is something.
        weight: (out, in, height, width) or (out, in).
        window: stride and padding.
        bias: one an output.
        floor: below which no output is.
    """

    operands: tuple[Node, ...]
    weight: Tensor
    window: Window
    bias: NDArray[np.float64]
    floor: float = UNBOUNDED

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:
        """See :class:`Node`."""
        return maker.convolved(self, *operands)


@attrs.frozen(eq=False)
class Affine:
    """max(scale·x + shift, floor) by channel; scale and shift may be the same number for all."""

    operands: tuple[Node, ...]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    floor: float = UNBOUNDED

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:
        """See :class:`Node`."""
        return maker.affine(self, *operands)


@attrs.frozen(eq=False)
class Sum:
    """Of two."""

    operands: tuple[Node, ...]

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:
        """See :class:`Node`."""
        return maker.added(*operands)


@attrs.frozen(eq=False)
class Pool:
    """The mean over height and width."""

    operands: tuple[Node, ...]

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:
        """See :class:`Node`."""
        return maker.pooled(*operands)


@attrs.frozen(eq=False)
class Flatten:
    """Images as vectors, in the order height, width, channel."""

    operands: tuple[Node, ...]

    def made(self, maker: "Maker[T]", operands: Sequence[T]) -> T:
        """See :class:`Node`."""
        return maker.flattened(*operands)


class Maker(Protocol[T]):
    """What computes nodes."""

    def images(self) -> T:
        """The images."""
        ...

    def convolved(self, node: Convolution, x: T, add: T | None = None) -> T:
        """See :class:`Convolution`."""
        ...

    def affine(self, node: Affine, x: T) -> T:
        """See :class:`Affine`."""
        ...

    def added(self, x: T, y: T) -> T:
        """The sum."""
        ...

    def pooled(self, x: T) -> T:
        """The means."""
        ...

    def flattened(self, x: T) -> T:
        """The vectors."""
        ...


def in_order(output: Node) -> list[Node]:
    """All that the output depends on, each after its operands; the output is the last."""
    done: dict[Node, None] = {}
    waiting = [output]
    while waiting:
        missing = [operand for operand in reversed(waiting[-1].operands) if operand not in done]
        if missing:
            waiting += missing
        else:
            done[waiting.pop()] = None
    return list(done)


def readers(nodes: Sequence[Node]) -> Counter[Node]:
    """How many times each is read."""
    return Counter(operand for node in nodes for operand in node.operands)


def made(output: Node, maker: Maker[T]) -> T:
    """The output by this maker; values that no node will read any more are let go of."""
    nodes = in_order(output)
    left, values = readers(nodes), dict[Node, T]()
    for node in nodes:
        values[node] = node.made(maker, [values[operand] for operand in node.operands])
        left.subtract(node.operands)
        for operand in set(node.operands):
            if not left[operand]:
                del values[operand]
    return values[output]


def fused(output: Node) -> Node:
    """The same output, by fewer nodes."""
    nodes = in_order(output)
    reads, new = readers(nodes), dict[Node, Node]()
    for node in nodes:
        operands = [new[operand] for operand in node.operands]
        alone = [new[operand] if reads[operand] == 1 else None for operand in node.operands]
        new[node] = merged(node, operands, alone)
    return new[output]


@functools.singledispatch
def merged(node: Any, operands: Sequence[Node], alone: Sequence[Node | None]) -> Node:  # noqa: ARG001
    """The node of these operands, put together with one of them where that is ``alone``: read by nobody else."""
    return _of(node, operands)


@merged.register
def _(node: Affine, operands: Sequence[Node], alone: Sequence[Node | None]) -> Node:
    return then_affine(alone[0], node) or _of(node, operands)


@merged.register
def _(node: Sum, operands: Sequence[Node], alone: Sequence[Node | None]) -> Node:
    first, second = operands
    return then_added(alone[0], second) or then_added(alone[1], first) or _of(node, operands)


@functools.singledispatch
def then_affine(node: Any, after: Affine) -> Node | None:  # noqa: ARG001
    """Both as one node, where they can be."""
    return None


@then_affine.register
def _(node: Convolution, after: Affine) -> Node | None:
    adds = len(node.operands) > 1
    if node.floor != UNBOUNDED or (adds and np.any(after.scale != 1)):
        return None
    scale = np.broadcast_to(after.scale, node.bias.shape)
    return attrs.evolve(node, weight=node.weight.times(scale), bias=scale * node.bias + after.shift, floor=after.floor)


@then_affine.register
def _(node: Affine, after: Affine) -> Node | None:
    if node.floor != UNBOUNDED:
        return None
    return attrs.evolve(
        node, scale=after.scale * node.scale, shift=after.scale * node.shift + after.shift, floor=after.floor
    )


@functools.singledispatch
def then_added(node: Any, other: Node) -> Node | None:  # noqa: ARG001
    """The sum of both as one node, where it can be."""
    return None


@then_added.register
def _(node: Convolution, other: Node) -> Node | None:
    if node.floor != UNBOUNDED or len(node.operands) > 1:
        return None
    return attrs.evolve(node, operands=(*node.operands, other))


def _of(node: Any, operands: Sequence[Node]) -> Node:
    evolved: Node = attrs.evolve(node, operands=tuple(operands))
    return evolved


def program_of(network: TrainedNetwork) -> Node:
    """The network's outputs, with batch norm in evaluation folded into weights where that can be done."""
    output: Node = network.model.forward(Tracer(), _tensors(network), Input())
    return fused(output)


@attrs.frozen(eq=False)
class Tracer:
    """See :class:`sparsecore.learning.protocols.Operations`; activations are nodes, parameters tensors."""

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
        slots, signs = hash_slots(np.arange(math.prod(shape)), math.prod(values.shape), key)
        return Tensor.whole((values.vector()[slots] * signs).astype(np.float32).reshape(shape))


def _tensors(network: TrainedNetwork) -> dict[str, Handle]:
    topology = network.topology
    sparse = {
        name: Tensor(shape, topology.local(name), network.values[topology.slots(name)])
        for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)
    }
    return sparse | {name: Tensor.whole(array) for name, array in network.dense.items()}
