"""Takes tensors apart by one ``unbind`` where a graph does so by indices, which saves gradients of the full size.

PyTorch runs ``q, k, v = tensor`` as one ``unbind``, whose backward pass stacks the three gradients. Dynamo's graph has
three indices in its place, each of which makes a gradient as large as the tensor, zero but for its own part.
"""

import operator

import torch
from torch import Tensor, fx


def with_unbind(module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph in which all parts of a tensor along its first axis are taken by one ``unbind``.

    Args:
        module: a graph whose nodes have the example values of Dynamo; it is not changed.

    Returns:
        The same computation; the module itself where nothing takes a whole tensor apart by indices.
    """
    parted = [node for node in module.graph.nodes if _parts(node)]
    if not parted:
        return module
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    unbound: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        whole = node.args[0] if node.target is operator.getitem else None
        if whole in unbound:
            copies[node] = graph.call_function(operator.getitem, (unbound[whole], node.args[1]))
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node in parted:
            unbound[node] = graph.call_function(torch.unbind, (copies[node],))
    return fx.GraphModule(module, graph)


def _parts(node: fx.Node) -> bool:
    """Return whether a node's readers are indices alone, one for each entry of its first axis."""
    example = node.meta.get("example_value")
    if not isinstance(example, Tensor) or example.dim() == 0 or not node.users:
        return False
    readers = [user for user in node.users if user.target is operator.getitem and user.args[0] is node]
    indices = [index for user in readers if type(index := user.args[1]) is int]
    if len(indices) != len(node.users):
        return False
    return len(indices) > 1 and sorted(indices) == list(range(int(example.shape[0])))
