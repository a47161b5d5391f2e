"""Views of a region's result that only torch reads, such as queries, keys and values of one projection.

A region returns the views in place of the result. So their gradients are copied into one buffer of the kernels', where
autograd would make a tensor of the full size for each of them and add these.
"""

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx

_NAMES = frozenset(
    {"chunk", "movedim", "moveaxis", "narrow", "permute", "select", "split", "squeeze", "swapaxes", "swapdims",
     "tensor_split", "transpose", "unbind", "unflatten", "unsqueeze", "view"}
)  # fmt: skip
"""Functions and methods that return views, whatever the memory of their argument."""

_FUNCTIONS = frozenset(getattr(torch, name) for name in _NAMES if hasattr(torch, name))
_RESHAPES = frozenset({torch.reshape, torch.flatten, "reshape", "flatten"})
"""Views where the argument is contiguous, which else are copies."""


def is_view(node: fx.Node) -> bool:
    """Return whether a node of torch's returns one or more views of its first argument, and does nothing else.

    Args:
        node: of a graph with examples of the values.
    """
    if node.op not in {"call_function", "call_method"} or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    target = node.target
    example = node.args[0].meta.get("example_value")
    if target is operator.getitem:
        return isinstance(example, tuple | list) or _is_basic_index(node.args[1])
    if any(isinstance(one, torch.dtype) for one in (*node.args, *node.kwargs.values())):
        return False  # the memory as another dtype
    if target in _RESHAPES:
        return isinstance(example, Tensor) and example.is_contiguous()
    return target in (_NAMES if node.op == "call_method" else _FUNCTIONS)


def _is_basic_index(index: Any) -> bool:
    """Whether an index selects by numbers and slices, so that the result is a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, slice) or type(part) is int for part in parts)


def views_of(
    node: fx.Node, is_free: Callable[[fx.Node], bool], is_known: Callable[[fx.Node], bool]
) -> tuple[fx.Node, ...]:
    """Find the nodes by which torch views a result.

    Args:
        node: whose result it is.
        is_free: whether a node may be computed with the result.
        is_known: whether the value of another node is known when the result is.

    Returns:
        The nodes in the order of the graph; none where the model returns one of the views, to whose memory the user may
        write.
    """
    found: dict[fx.Node, None] = {}
    for one in _behind(node):
        others = [read for read in one.all_input_nodes if read is not node and read not in found]
        if (one.args[0] is node or one.args[0] in found) and is_free(one) and all(map(is_known, others)):
            found[one] = None
    is_taken_apart = all(user in found for one in found if _is_split(one) for user in one.users)
    is_returned = any(user.op == "output" for one in found for user in one.users)
    return tuple(found) if is_taken_apart and not is_returned else ()


def leaves_of(views: Collection[fx.Node]) -> list[fx.Node]:
    """Return those of some views that other nodes read.

    Args:
        views: of :func:`views_of`.
    """
    return [one for one in views if not _is_split(one) and any(user not in views for user in one.users)]


def _is_split(node: fx.Node) -> bool:
    """Whether a node returns several tensors."""
    return not isinstance(node.meta.get("example_value"), Tensor)


def _behind(node: fx.Node) -> list[fx.Node]:
    """The nodes that read a node, or one of those that do, in the order of the graph; as far as they are views."""
    found: dict[fx.Node, None] = {}
    open_nodes = list(node.users)
    while open_nodes:
        one = open_nodes.pop()
        if one not in found and is_view(one):
            found[one] = None
            open_nodes += one.users
    return sorted(found)


def evaluate(views: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> dict[fx.Node, Any]:
    """Compute views.

    Args:
        views: in order.
        values: of the nodes that they read.

    Returns:
        The values of all these nodes.
    """
    known = dict(values)
    for node in views:
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        target: Any = node.target if node.op == "call_function" else getattr(Tensor, str(node.target))
        known[node] = target(*args, **kwargs)
    return known


@attrs.frozen
class ChannelSlice:
    """A view of vectors, (..., features), that consists of the same features of all vectors.

    Attributes:
        first: the number of the first feature.
        count: of the features.
        order: the dimensions of the view: those that count the vectors, and then those that count the features.
    """

    first: int
    count: int
    order: tuple[int, ...]

    def matrix(self, view: Tensor) -> Tensor:
        """Return a tensor of the shape of the view as (vectors, count); a copy only where its memory demands it."""
        return view.permute(self.order).reshape(-1, self.count)

    def empty(self, shape: Sequence[int]) -> Tensor:
        """Return an uninitialized tensor of the shape of the view, whose matrix is contiguous."""
        strides, stride = [0] * len(shape), 1
        for axis in reversed(self.order):
            strides[axis] = stride
            stride *= shape[axis]
        return torch.empty_strided(tuple(shape), strides)


def channel_slice(
    base: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> ChannelSlice | None:
    """Return a view of contiguous vectors as a slice of features; None where it is no such slice.

    Args:
        base: the shape of the vectors, (..., features).
        shape: of the view.
        strides: of the view, in entries.
        offset: of the view's first entry.
    """
    features, total = base[-1], math.prod(base)
    axes = [axis for axis in range(len(shape)) if shape[axis] != 1]
    by_vector = sorted((axis for axis in axes if strides[axis] >= features), key=lambda axis: -strides[axis])
    by_feature = sorted((axis for axis in axes if strides[axis] < features), key=lambda axis: -strides[axis])
    count = math.prod(shape[axis] for axis in by_feature)
    if not _is_nested(by_vector, shape, strides, features, total) or not _is_nested(
        by_feature, shape, strides, 1, count
    ):
        return None
    if offset + count > features:
        return None
    alone = [axis for axis in range(len(shape)) if shape[axis] == 1]
    return ChannelSlice(offset, count, (*alone, *by_vector, *by_feature))


def _is_nested(axes: Sequence[int], shape: Sequence[int], strides: Sequence[int], innermost: int, total: int) -> bool:
    """Whether axes, the outermost first, run through all entries from an innermost stride up to a total."""
    stride = innermost
    for axis in reversed(axes):
        if strides[axis] != stride:
            return False
        stride *= shape[axis]
    return stride == total
