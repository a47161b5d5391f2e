"""A network as the operations that compute it, without gradients: nodes that read one another.

What computes them (a :class:`Maker`) has its own values, such as buffers, and is asked for one a node.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore_cpu.inference.tensor import Tensor
from sparsecore_cpu.lists import Window

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
