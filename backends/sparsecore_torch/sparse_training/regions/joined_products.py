"""Linear layers that torch computes, and that write the gradients of full tensors where compact storage joins them.

A tensor of compact storage all of whose weights are active is multiplied as it is. Its gradient would be a tensor of
its own, which is copied into the gradient of all values: a tenth of a step of a perceptron.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional

from sparsecore_torch._torch_internals.autograd import keeps_graph
from sparsecore_torch.sparse_training.regions.transforms import check_first_order
from sparsecore_torch.sparse_training.storage.compact_modules import stored_weight
from sparsecore_torch.sparse_training.storage.compact_weights import CompactWeights, compact_weights


def with_joined_products(module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph in which linear layers read tensors of compact storage by :func:`joined_linear`.

    Args:
        module: the graph of a region; it is not changed.

    Returns:
        The same computation; the module itself where there is no such layer.
    """
    layers = {node: stored for node in module.graph.nodes if (stored := _stored_weight_of(node)) is not None}
    if not layers:
        return module
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node in layers:
            bias = (*node.args[2:], *node.kwargs.values())
            arguments = (node.args[0], *layers[node].args, *bias)
            copies[node] = graph.call_function(joined_linear, fx.map_arg(arguments, copies.__getitem__))
        elif node not in layers.values():
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(module, graph)


def joined_products(graph: fx.Graph) -> frozenset[tuple[int, int]]:
    """Return the keys of compact weights and the indices of the tensors that :func:`joined_linear` reads."""
    calls = (node.args for node in graph.nodes if node.target is joined_linear)
    return frozenset((key, index) for _, _, key, index, *_ in calls)


def _stored_weight_of(node: fx.Node) -> fx.Node | None:
    """Return the node of compact storage that a linear layer reads alone; None for other nodes."""
    if node.target is not functional.linear or len(node.args) < 2 or set(node.kwargs) - {"bias"}:
        return None
    weight = node.args[1]
    return weight if isinstance(weight, fx.Node) and weight.target is stored_weight and len(weight.users) == 1 else None


def joined_linear(input: Tensor, values: Tensor, key: int, index: int, bias: Tensor | None = None) -> Tensor:
    """Multiply by a tensor of compact storage.

    Args:
        input: (..., features).
        values: of the weights, of which :func:`stored_weight` makes the tensor.
        key: of the compact weights.
        index: of the tensor in the layout.
        bias: (outputs,), or None.

    Returns:
        (..., outputs).
    """
    weights = compact_weights(key)
    if not is_joined(weights, index) or input.dtype is not torch.float32:
        return functional.linear(input, stored_weight(values, key, index), bias)
    weights.check()
    return _joined_linear(input, weights.entries(index), bias, weights, index)


def is_joined(weights: CompactWeights, index: int) -> bool:
    """Return whether the gradient of a tensor is written where it is joined.

    Args:
        weights: of the model.
        index: of the tensor in the layout.
    """
    is_plain = torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return is_plain and weights.dense_gradients is None and weights.is_full(index)


class _JoinedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, entries: Tensor, bias: Tensor | None, weights: CompactWeights, index: int
    ) -> Tensor:
        weight = entries.view(weights.topology.layout.shapes[index])
        ctx.weights, ctx.topology = weights, weights.topology
        ctx.part = weights.gradient_part(index) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(input, weight)
        return functional.linear(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        check_first_order(gradient)
        ctx.weights.check_topology(ctx.topology)
        input, weight = ctx.saved_tensors
        of_input, of_entries, of_bias, *_ = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        part, ctx.part = ctx.part, None  # its memory is used again when nothing refers to it
        return (
            gradient @ weight if of_input else None,
            _product(rows.t(), input.reshape(-1, input.shape[-1]), part) if of_entries else None,
            rows.sum(0) if of_bias else None,
            None,
            None,
        )


_joined_linear: Callable[..., Tensor] = _JoinedLinear.apply


def _product(left: Tensor, right: Tensor, part: NDArray[np.float32] | None) -> Tensor:
    """Multiply two matrices into a part of the joined gradient, (N_i,), where it can be given away."""
    if part is None or keeps_graph():  # another backward pass would write there again
        return (left @ right).reshape(-1)
    joined = torch.from_numpy(part)
    torch.mm(left, right, out=joined.view(left.shape[0], right.shape[1]))
    return joined
