"""Fewer operations for the same outputs: what is done to a convolution's outputs alone is done in the convolution.

So batch norm becomes part of weights and bias, relu a floor, and a sum the place that a convolution starts from.
"""

import functools
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from sparsecore_cpu.inference.program import UNBOUNDED, Affine, Convolution, Node, Sum, in_order, readers


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
