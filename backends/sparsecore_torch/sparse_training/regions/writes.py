"""Finds nodes of a graph that write into memory, and what shares that memory: regions have values, and not memory."""

import inspect
import operator
import re
from collections.abc import Mapping
from typing import Any

from torch import fx

from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import Lowering
from sparsecore_torch.sparse_training.regions.lowerings.table import LOWERINGS

Lowered = Mapping[fx.Node, tuple[Lowering, Layout]]
"""How the kernels compute nodes, and the layouts of their results."""

_WRITING = frozenset(
    {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
     operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.setitem, operator.delitem}
)  # fmt: skip

_OPERATORS = frozenset(getattr(operator, name) for name in operator.__all__) - _WRITING
"""Of which and_, or_ and not_ end with an underscore and write nothing."""

_DRAWING = re.compile(
    "bernoulli|cauchy|checkpoint|dropout|exponential|geometric|gumbel|log_normal|multinomial|^normal|poisson|rand|rrelu"
    "|scaled_dot_product|uniform"
)
"""In the names of functions and methods that may draw random numbers."""

_STATES = ("autocast", "grad_enabled", "inference_mode", "saved_tensors")


def writes(node: fx.Node) -> bool:
    """Return whether a node writes into the memory of an argument.

    Args:
        node: of a graph of torch's.
    """
    if node.op not in {"call_function", "call_method"}:
        return False
    if node.target in _WRITING or "out" in node.kwargs:
        return True
    if node.target in _OPERATORS:
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return True
    try:
        target: Any = node.target
        bound = inspect.signature(target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # methods and built-in functions
        return bool(node.kwargs.get("inplace"))
    return bool(bound.arguments.get("inplace"))


def function_of(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls.

    Args:
        node: of a graph of torch's.
    """
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def draws(node: fx.Node) -> bool:
    """Return whether a node may draw random numbers.

    Args:
        node: of a graph of torch's.
    """
    if node.op not in {"call_function", "call_method"}:
        return False
    return _DRAWING.search(function_of(node)) is not None


def switches_state(node: fx.Node) -> bool:
    """Return whether a node is there for what it does to torch's state, and not for its result.

    Args:
        node: of a graph of torch's.
    """
    if node.op not in {"call_function", "call_method", "call_module"}:
        return False
    return not node.users or any(state in str(node.target) for state in _STATES)


def written_elsewhere(graph: fx.Graph, lowered: Lowered) -> set[fx.Node]:
    """Find lowered nodes that read or make memory which something else writes to.

    Args:
        graph: as Dynamo traced it.
        lowered: the nodes that the kernels are to compute.
    """
    found: set[fx.Node] = set()
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in filter(writes, graph.nodes):
        target = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if target is None:
            found |= set(lowered) & set(node.all_input_nodes)
        elif node in lowered:
            # afterwards nothing reads the target, and nothing shares its memory
            others = set(target.users) - {node}
            if (
                target not in lowered
                or lowered[target][0].is_view
                or any(order[one] > order[node] or one not in lowered or lowered[one][0].is_view for one in others)
            ):
                found.add(node)
        else:
            shared = _sharing(node, lowered)
            found |= {one for one in shared if one in lowered}
            found |= {user for one in shared for user in one.users if user in lowered}
    return found


def _sharing(node: fx.Node, lowered: Lowered) -> set[fx.Node]:
    """Find the nodes that may share memory with the arguments of a node: nodes that are not known may return views."""

    def may_share(one: fx.Node) -> bool:
        known = LOWERINGS.get(one.target) if one.op in {"call_function", "call_method"} else None
        if known is None or known.is_view:
            return one.op != "placeholder"
        return one not in lowered and writes(one)  # it returns the argument that it has written to

    found: set[fx.Node] = set()
    open_nodes = list(node.all_input_nodes)
    while open_nodes:
        one = open_nodes.pop()
        if one in found:
            continue
        found.add(one)
        open_nodes += one.all_input_nodes if may_share(one) else []
        open_nodes += [user for user in one.users if may_share(user) and user.op != "output"]
    return found
