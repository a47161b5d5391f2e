"""A network as a graph of operations without gradients, with batch norm and relu fused into convolutions.

A :class:`Compiler` turns each node into a value of its own type, such as a buffer.
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
from sparsecore_cpu.inference.network import FixedTensor, TrainedNetwork
from sparsecore_cpu.window import Window

T = TypeVar("T")

UNBOUNDED = -math.inf
"""The floor of outputs that may be negative; relu's is 0."""

NO_CEILING = math.inf
"""The ceiling of outputs of any size; relu6's is 6."""


class Node(Protocol):
    """One operation of the graph."""

    @property
    def operands(self) -> tuple["Node", ...]:
        """The nodes that it reads."""
        ...

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:
        """The compiler's value for the output.

        Args:
            compiler: turns nodes into values of its own type.
            operands: its values for the nodes that this one reads, in the order of :attr:`operands`.
        """
        ...


@attrs.frozen(eq=False)
class ImagesNode:
    """The images."""

    operands: tuple[Node, ...] = ()

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:  # noqa: ARG002
        """The images."""
        return compiler.images()


@attrs.frozen(eq=False)
class ConvolutionNode:
    """min(max(convolution + bias + addend, floor), ceiling), or a linear layer likewise.

    Attributes:
        operands: the input, and the addend if there is one.
        weight: (out, in / groups, height, width) or (out, in).
        window: stride, padding, dilation and groups.
        bias: float64, (out,).
        floor: the smallest output: 0 after a relu, else :data:`UNBOUNDED`.
        ceiling: the largest output: 6 after a relu6, else :data:`NO_CEILING`.
    """

    operands: tuple[Node, ...]
    weight: FixedTensor
    window: Window
    bias: NDArray[np.float64]
    floor: float = UNBOUNDED
    ceiling: float = NO_CEILING

    @property
    def is_bounded(self) -> bool:
        """Whether outputs are cut off, so that nothing can be merged behind it."""
        return (self.floor, self.ceiling) != (UNBOUNDED, NO_CEILING)

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:
        """The convolution."""
        return compiler.convolved(self, *operands)


@attrs.frozen(eq=False)
class AffineNode:
    """min(max(scale·x + shift, floor), ceiling) by channel.

    Attributes:
        operands: the input.
        scale: float64, (channels,), or (1,) for all channels.
        shift: float64, likewise.
        floor: the smallest output: 0 after a relu, else :data:`UNBOUNDED`.
        ceiling: the largest output: 6 after a relu6, else :data:`NO_CEILING`.
    """

    operands: tuple[Node, ...]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    floor: float = UNBOUNDED
    ceiling: float = NO_CEILING

    @property
    def is_bounded(self) -> bool:
        """Whether outputs are cut off, so that nothing can be merged behind it."""
        return (self.floor, self.ceiling) != (UNBOUNDED, NO_CEILING)

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:
        """The affine function."""
        return compiler.affine(self, *operands)


@attrs.frozen(eq=False)
class SumNode:
    """The sum of two nodes.

    Attributes:
        operands: the two summands, which may be the same node.
    """

    operands: tuple[Node, ...]

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:
        """The sum."""
        return compiler.added(*operands)


@attrs.frozen(eq=False)
class PoolNode:
    """The mean over height and width."""

    operands: tuple[Node, ...]

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:
        """The means."""
        return compiler.pooled(*operands)


@attrs.frozen(eq=False)
class FlattenNode:
    """Images as vectors, in the order height, width, channel."""

    operands: tuple[Node, ...]

    def compile(self, compiler: "Compiler[T]", operands: Sequence[T]) -> T:
        """The vectors."""
        return compiler.flattened(*operands)


class Compiler(Protocol[T]):
    """Turns nodes into values of its own type."""

    def images(self) -> T:
        """The images."""
        ...

    def convolved(self, node: ConvolutionNode, x: T, add: T | None = None) -> T:
        """A convolution of ``x``, plus ``add``; see :class:`ConvolutionNode`.

        Args:
            node: weight, window, bias and floor.
            x: the input's value.
            add: the addend's value; None where the node has no addend.
        """
        ...

    def affine(self, node: AffineNode, x: T) -> T:
        """An affine function of ``x``.

        Args:
            node: scale, shift and floor; a single scale and shift are for all channels.
            x: the input's value.
        """
        ...

    def added(self, x: T, y: T) -> T:
        """The sum of two values."""
        ...

    def pooled(self, x: T) -> T:
        """The means over height and width."""
        ...

    def flattened(self, x: T) -> T:
        """Images as vectors, in the order height, width, channel.

        Args:
            x: the value of images, or of vectors, which stay as they are.
        """
        ...


def in_order(output: Node) -> list[Node]:
    """All nodes that the output depends on, each once and after its operands.

    Args:
        output: the output's node.

    Returns:
        The nodes; the output is the last.
    """
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
    """How many times each node is read.

    Args:
        nodes: all nodes of a graph.

    Returns:
        The counts by node; a node that reads another one twice counts twice.
    """
    return Counter(operand for node in nodes for operand in node.operands)


def compile_program(output: Node, compiler: Compiler[T]) -> T:
    """Compile the graph of an output; a value is dropped once no further node reads it.

    Args:
        output: the output's node.
        compiler: turns nodes into values.

    Returns:
        The value of the output.
    """
    nodes = in_order(output)
    left, values = readers(nodes), dict[Node, T]()
    for node in nodes:
        values[node] = node.compile(compiler, [values[operand] for operand in node.operands])
        left.subtract(node.operands)
        for operand in set(node.operands):
            if not left[operand]:
                del values[operand]
    return values[output]


def fused(output: Node) -> Node:
    """The same output as a graph of fewer nodes; equal up to rounding, as scales are multiplied into weights.

    Args:
        output: the output's node.
    """
    nodes = in_order(output)
    reads, new = readers(nodes), dict[Node, Node]()
    for node in nodes:
        operands = [new[operand] for operand in node.operands]
        alone = [new[operand] if reads[operand] == 1 else None for operand in node.operands]
        new[node] = merged(node, operands, alone)
    return new[output]


@functools.singledispatch
def merged(node: Any, operands: Sequence[Node], alone: Sequence[Node | None]) -> Node:  # noqa: ARG001
    """The node with these operands, merged with one of them where possible.

    Args:
        node: the operation.
        operands: its operands, after fusion.
        alone: the operands that no other node reads, and None in place of the others.
    """
    return _of(node, operands)


@merged.register
def _(node: AffineNode, operands: Sequence[Node], alone: Sequence[Node | None]) -> Node:
    return then_affine(alone[0], node) or _of(node, operands)


@merged.register
def _(node: SumNode, operands: Sequence[Node], alone: Sequence[Node | None]) -> Node:
    first, second = operands
    return then_added(alone[0], second) or then_added(alone[1], first) or _of(node, operands)


@functools.singledispatch
def then_affine(node: Any, after: AffineNode) -> Node | None:  # noqa: ARG001
    """The node followed by an affine function as one node.

    Args:
        node: the operation.
        after: the affine function, which is the only reader of the node.

    Returns:
        None where they cannot be merged: after a relu, or where a convolution has an addend that would have to be
        scaled.
    """
    return None


@then_affine.register
def _(node: ConvolutionNode, after: AffineNode) -> Node | None:
    adds = len(node.operands) > 1
    if node.is_bounded or (adds and np.any(after.scale != 1)):
        return None
    scale = np.broadcast_to(after.scale, node.bias.shape)
    weight = node.weight.times(scale) if np.any(scale != 1) else node.weight
    bias = scale * node.bias + after.shift
    return attrs.evolve(node, weight=weight, bias=bias, floor=after.floor, ceiling=after.ceiling)


@then_affine.register
def _(node: AffineNode, after: AffineNode) -> Node | None:
    if node.is_bounded:
        return None
    scale, shift = after.scale * node.scale, after.scale * node.shift + after.shift
    return attrs.evolve(node, scale=scale, shift=shift, floor=after.floor, ceiling=after.ceiling)


@functools.singledispatch
def then_added(node: Any, other: Node) -> Node | None:  # noqa: ARG001
    """The sum of the node and another one as one node.

    Args:
        node: the operation, which nothing but the sum reads.
        other: the other summand.

    Returns:
        None where they cannot be merged: for all but convolutions without an addend and a relu.
    """
    return None


@then_added.register
def _(node: ConvolutionNode, other: Node) -> Node | None:
    if node.is_bounded or len(node.operands) > 1:
        return None
    return attrs.evolve(node, operands=(*node.operands, other))


def _of(node: Any, operands: Sequence[Node]) -> Node:
    evolved: Node = attrs.evolve(node, operands=tuple(operands))
    return evolved


def program_of(network: TrainedNetwork) -> Node:
    """The graph of a network's logits, with batch norm (in evaluation) folded into weights where possible.

    Args:
        network: the trained network.

    Returns:
        The node of the logits.
    """
    output: Node = network.model.forward(Tracer(), _tensors(network), ImagesNode())
    return fused(output)


@attrs.frozen(eq=False)
class Tracer:
    """Records the operations of a model as a graph: activations are nodes, parameters :class:`FixedTensor`."""

    def conv2d(self, x: Node, weight: FixedTensor, *, stride: int = 1, padding: int = 0) -> Node:
        """A convolution without a bias."""
        return ConvolutionNode((x,), weight, Window(stride, padding), np.zeros(weight.shape[0]))

    def linear(self, x: Node, weight: FixedTensor, bias: FixedTensor | None = None) -> Node:
        """x·weightᵀ + bias."""
        return ConvolutionNode((x,), weight, Window(), np.zeros(weight.shape[0]) if bias is None else bias.to_array())

    def batch_norm(
        self, x: Node, scale: FixedTensor, shift: FixedTensor, mean: FixedTensor, variance: FixedTensor
    ) -> Node:
        """Batch norm by the running statistics, as an affine function with factors computed in float64."""
        factor = scale.to_array() * Moments(mean.to_array(), variance.to_array()).inverse_deviation
        return AffineNode((x,), factor, shift.to_array() - mean.to_array() * factor)

    def relu(self, x: Node) -> Node:
        """max(x, 0)."""
        return AffineNode((x,), np.ones(1), np.zeros(1), floor=0.0)

    def global_average_pool(self, x: Node) -> Node:
        """The mean over height and width."""
        return PoolNode((x,))

    def add(self, x: Node, y: Node) -> Node:
        """The sum of two nodes."""
        return SumNode((x, y))

    def flatten(self, x: Node) -> Node:
        """Images as vectors."""
        return FlattenNode((x,))

    def tied(self, values: FixedTensor, shape: tuple[int, ...], key: int) -> FixedTensor:
        """The dense weight whose entries share ``values``."""
        slots, signs = hash_slots(np.arange(math.prod(shape)), math.prod(values.shape), key)
        return FixedTensor.whole((values.to_array()[slots] * signs).astype(np.float32).reshape(shape))


def _tensors(network: TrainedNetwork) -> dict[str, Handle]:
    topology = network.topology
    sparse = {
        name: FixedTensor(shape, topology.local(name), network.values[topology.slots(name)])
        for name, shape in zip(topology.layout.names, topology.layout.shapes, strict=True)
    }
    return sparse | {name: FixedTensor.whole(array) for name, array in network.dense.items()}
