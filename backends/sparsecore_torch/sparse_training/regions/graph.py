"""Cuts a graph of torch's into regions for the kernels, and leaves the rest to torch.

A region is a run of nodes that the kernels compute, in the order of the graph. Nodes in between that do not depend on
the region's are moved before it, and those that do are moved behind it; nodes that write into memory or switch a state
of torch's are not moved over it.
"""

import inspect
import operator
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from sparsecore_torch.sparse_training.regions.decisions import Decisions
from sparsecore_torch.sparse_training.regions.execution import Execution
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import Lowering, Lowerings, NotLowered, Operand
from sparsecore_torch.sparse_training.regions.lowerings import (
    arithmetic,
    layers,
    normalization,
    pointwise,
    pooling,
    shapes,
)
from sparsecore_torch.sparse_training.regions.program import LAYOUT, LOWERING
from sparsecore_torch.sparse_training.regions.region import Region
from sparsecore_torch.sparse_training.regions.weights import CompactWeight, RegionInput
from sparsecore_torch.sparse_training.storage.compact_modules import stored_entries, stored_weight
from sparsecore_torch.sparse_training.storage.compact_weights import compact_weights
from sparsecore_torch.sparse_training.storage.sparse_weights import find

LOWERINGS: Lowerings = MappingProxyType(
    {
        **arithmetic.LOWERINGS,
        **layers.LOWERINGS,
        **normalization.LOWERINGS,
        **pointwise.LOWERINGS,
        **pooling.LOWERINGS,
        **shapes.LOWERINGS,
    }
)
"""All that the kernels compute."""

_WRITING = frozenset(
    {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
     operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.setitem, operator.delitem}
)  # fmt: skip

_OPERATORS = frozenset(getattr(operator, name) for name in operator.__all__) - _WRITING
"""Of which and_, or_ and not_ end with an underscore and write nothing."""


_Lowered = Mapping[fx.Node, tuple[Lowering, Layout]]


@attrs.frozen(eq=False)
class Cut:
    """A graph that has been cut.

    Attributes:
        module: computes what the graph computed.
        regions: its regions, in order.
        breaks: the functions that end a region, because torch computes them, and why; by their place in the model.
        left: why torch multiplies by sparse tensors, by the names of these.
    """

    module: fx.GraphModule
    regions: tuple[Region, ...]
    breaks: Mapping[str, str]
    left: Mapping[str, str]


def cut(module: fx.GraphModule, examples: Sequence[Any], decisions: Decisions) -> Cut:
    """Cut a graph into regions and the rest.

    Args:
        module: as Dynamo traced it.
        examples: the arguments that it was traced with.
        decisions: whether the kernels compute the regions.
    """
    inputs = _inputs(module.graph)
    found = [find(example) if isinstance(example, Tensor) else None for example in examples]
    names = {node: weight.name for node, weight in zip(inputs, found, strict=True) if weight is not None}
    return _cut(module, names, decisions)


def _cut(module: fx.GraphModule, names: Mapping[fx.Node, str], decisions: Decisions) -> Cut:
    """Cut a graph of which the inputs with these names are sparse tensors."""
    lowered, reasons = _lower(module.graph)
    runs = _Runs(lowered)
    for node in module.graph.nodes:
        runs.add(node)
    runs.close()
    sparse = {**names, **_compact_names(module.graph)}
    inner = [_cut_checkpointed(module, node, names, decisions) for node in _checkpointed(module.graph)]
    splitter = _Splitter(module, lowered, sparse, decisions)
    for part in runs.order:
        splitter.add(part)
    breaks = {_place_of(node): reasons.get(node, "torch computes it") for node in runs.breaks}
    left = _left_to_torch(module.graph, sparse, lowered, reasons)
    for one in inner:
        breaks |= one.breaks
        left |= one.left
    regions = (*splitter.regions, *(region for one in inner for region in one.regions))
    return Cut(splitter.finish(), regions, MappingProxyType(breaks), MappingProxyType(left))


def _left_to_torch(
    graph: fx.Graph, sparse: Mapping[fx.Node, str], lowered: _Lowered, reasons: Mapping[fx.Node, str]
) -> dict[str, str]:
    """Find the sparse tensors that nodes of torch's read, and why the kernels do not compute these."""
    readers = {(sparse[read], node) for node in graph.nodes for read in node.all_input_nodes if read in sparse}
    return {name: reasons.get(node, f"{_place_of(node)} reads it") for name, node in readers if node not in lowered}


class _Checkpointed(nn.Module):
    """A part of a model whose activations are computed again in the backward pass."""

    def __init__(self, inner: fx.GraphModule) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Any) -> Any:
        trained = [isinstance(one, Tensor) and one.requires_grad for one in given]

        def run(*arguments: Tensor) -> Any:
            rest = iter(arguments)
            return self.inner(
                *(next(rest) if is_trained else one for one, is_trained in zip(given, trained, strict=True))
            )

        # arguments are saved for the backward pass, and running statistics are written to
        arguments = [one for one, is_trained in zip(given, trained, strict=True) if is_trained]
        return checkpoint(run, *arguments, use_reentrant=False)


def _checkpointed(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target is torch.ops.higher_order.tag_activation_checkpoint]


def _cut_checkpointed(module: fx.GraphModule, node: fx.Node, names: Mapping[fx.Node, str], decisions: Decisions) -> Cut:
    """Cut the graph of a part that is checkpointed, and let the node call it."""
    body, *given = node.args
    name = f"{body.target}_checkpointed"  # type: ignore[union-attr]
    inner: fx.GraphModule = module.get_submodule(str(body.target))  # type: ignore[union-attr,assignment]
    pairs = zip(_inputs(inner.graph), given, strict=True)
    made = _cut(
        inner, {own: names[outer] for own, outer in pairs if isinstance(outer, fx.Node) and outer in names}, decisions
    )
    module.add_submodule(name, _Checkpointed(made.module))
    node.op, node.target, node.args, node.kwargs = "call_module", name, tuple(given), {}
    return made


def _inputs(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _lower(graph: fx.Graph) -> tuple[_Lowered, Mapping[fx.Node, str]]:
    """Find the nodes that the kernels compute, and why they do not compute the others."""
    banned: dict[fx.Node, str] = {}
    while True:
        lowered: dict[fx.Node, tuple[Lowering, Layout]] = {}
        reasons = dict(banned)
        for node in graph.nodes:
            lowering = LOWERINGS.get(node.target) if node.op in {"call_function", "call_method"} else None
            if lowering is not None and node not in banned:
                try:
                    lowered[node] = (lowering, _check(lowering, node, lowered))
                except NotLowered as why:
                    reasons[node] = str(why)
        written = _written_too(graph, lowered)
        if not written:
            return lowered, reasons
        banned |= dict.fromkeys(written, "its memory is written to in place")


def _check(lowering: Lowering, node: fx.Node, lowered: _Lowered) -> Layout:
    def operand(read: fx.Node) -> Any:
        example = read.meta.get("example_value")
        if not isinstance(example, Tensor):
            return example
        layout = lowered[read][1] if read in lowered else None
        return Operand(example, layout, read.op in {"placeholder", "get_attr"} or _is_stored_weight(read))

    args, kwargs = fx.map_arg((node.args, node.kwargs), operand)
    try:
        inspect.signature(lowering.check).bind(*args, **kwargs)
    except TypeError:
        raise NotLowered("it is called with other arguments than the kernels know") from None
    return lowering.check(*args, **kwargs)


def _writes(node: fx.Node) -> bool:
    """Whether a node writes into the memory of an argument."""
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
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # methods and built-in functions
        return bool(node.kwargs.get("inplace"))
    return bool(bound.arguments.get("inplace"))


def _written_too(graph: fx.Graph, lowered: _Lowered) -> set[fx.Node]:
    """Find lowered nodes that read or make memory which something else writes to; regions have values, not memory."""
    found: set[fx.Node] = set()
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in filter(_writes, graph.nodes):
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


def _sharing(node: fx.Node, lowered: _Lowered) -> set[fx.Node]:
    """Find the nodes that may share memory with the arguments of a node: nodes that are not known may return views."""

    def may_share(one: fx.Node) -> bool:
        known = LOWERINGS.get(one.target) if one.op in {"call_function", "call_method"} else None
        if known is None or known.is_view:
            return one.op != "placeholder"
        return one not in lowered and _writes(one)  # it returns the argument that it has written to

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


def _is_stored_weight(node: fx.Node) -> bool:
    """Whether a node makes a dense weight of compact storage."""
    return node.target is stored_weight


def _read_compact(run: Execution, values: RegionInput, key: int, index: int) -> CompactWeight:  # noqa: ARG001
    return CompactWeight(values, compact_weights(key), index)


def _check_compact(values: Operand, key: int, index: int) -> Layout:  # noqa: ARG001
    return Layout.VECTORS


_COMPACT = Lowering(_check_compact, _read_compact)


_STATES = ("autocast", "grad_enabled", "inference_mode", "saved_tensors")


def _switches_state(node: fx.Node) -> bool:
    """Whether a node is there for what it does to torch's state, and not for its result."""
    if node.op not in {"call_function", "call_method", "call_module"}:
        return False
    return not node.users or any(state in str(node.target) for state in _STATES)


class _Runs:
    """Collects runs of lowered nodes.

    Attributes:
        order: nodes that torch computes, and runs, in the order in which they are to be computed.
        breaks: the nodes by which a run has ended.
    """

    def __init__(self, lowered: _Lowered) -> None:
        self._lowered = lowered
        self.order: list[fx.Node | tuple[fx.Node, ...]] = []
        self.breaks: list[fx.Node] = []
        self._run: dict[fx.Node, None] = {}  # in order
        self._behind: dict[fx.Node, None] = {}

    def add(self, node: fx.Node) -> None:
        """Add the next node of the graph."""
        if _is_stored_weight(node):  # it is copied to where it is read
            return
        depends_behind = any(read in self._behind for read in node.all_input_nodes)
        if node in self._lowered:
            if depends_behind:
                self.breaks.append(next(iter(self._behind)))
                self.close()
            self._run[node] = None
            return
        reads_run = any(read in self._run for read in node.all_input_nodes)
        if node.op == "output" or (self._run and (_writes(node) or _switches_state(node)) and self._is_fixed(node)):
            self.close()
            self.order.append(node)
        elif depends_behind or reads_run:
            self._behind[node] = None
        else:
            self.order.append(node)

    def close(self) -> None:
        """End the current run."""
        if self._run:
            self.order.append(tuple(self._run))
        self.order += self._behind
        self._run, self._behind = {}, {}

    def _is_fixed(self, node: fx.Node) -> bool:
        """Whether a node that writes or switches must not be moved before the run."""
        if self._behind or not _writes(node):
            return True
        return any(
            read.op != "placeholder" or not self._run.keys().isdisjoint(read.users) for read in node.all_input_nodes
        )


def _compact_names(graph: fx.Graph) -> Mapping[fx.Node, str]:
    """The names of the tensors in compact storage, by the nodes that make these."""
    names: dict[fx.Node, str] = {}
    for node in filter(_is_stored_weight, graph.nodes):
        _, key, index = node.args
        names[node] = compact_weights(key).topology.layout.names[index]
    return names


class _Splitter:
    """Builds the graph that calls the regions."""

    def __init__(
        self, module: fx.GraphModule, lowered: _Lowered, sparse: Mapping[fx.Node, str], decisions: Decisions
    ) -> None:
        self._decisions = decisions
        self._module = module
        self._lowered = lowered
        self._sparse = sparse
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}
        self.regions: list[Region] = []

    def add(self, part: fx.Node | tuple[fx.Node, ...]) -> None:
        """Add a node of torch's, or a run; one without a sparse layer is torch's, too."""
        if isinstance(part, fx.Node):
            self._copy(part)
        elif names := [self._sparse[read] for node in part for read in node.all_input_nodes if read in self._sparse]:
            self._add_region(part, names)
        else:
            for node in part:
                self._copy(node)

    def finish(self) -> fx.GraphModule:
        """Return the module of the new graph."""
        return fx.GraphModule(self._module, self._graph)

    def _copy(self, node: fx.Node) -> None:
        for read in node.all_input_nodes:
            if _is_stored_weight(read) and read not in self._values:
                self._copy(read)
        self._values[node] = self._graph.node_copy(node, self._values.__getitem__)

    def _add_region(self, run: tuple[fx.Node, ...], names: Sequence[str]) -> None:
        inside, graph = set(run), fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        outside = dict.fromkeys(one for node in run for one in node.all_input_nodes if one not in inside)
        compact = [one for one in outside if _is_stored_weight(one)]
        for outer in outside:
            values[outer] = graph.placeholder(outer.name)
            values[outer].meta = dict(outer.meta)
            if outer in self._lowered:
                values[outer].meta[LAYOUT] = self._lowered[outer][1]
        for node in compact:
            # the region is given the active values of the tensor in place of those of the whole model
            values[node] = graph.call_function(stored_weight, (values[node], *node.args[1:]))
            values[node].meta = {**node.meta, LOWERING: _COMPACT}
        for node in run:
            values[node] = graph.node_copy(node, values.__getitem__)
            values[node].meta[LOWERING] = self._lowered[node][0]
        made = [node for node in run if any(user not in inside for user in node.users)]
        graph.output(tuple(values[node] for node in made))
        region = Region(fx.GraphModule(self._module, graph), names, self._decisions)
        name = f"region_{len(self.regions)}"
        self.regions.append(region)
        self._module.add_submodule(name, region)
        given = {**self._values, **self._entries(compact)}
        called = self._graph.call_module(name, tuple(given[outer] for outer in outside))
        for number, node in enumerate(made):
            self._values[node] = self._graph.call_function(operator.getitem, (called, number))

    def _entries(self, compact: Sequence[fx.Node]) -> Mapping[fx.Node, fx.Node]:
        """Add nodes for the active values of weights in compact storage; those of one model are split together."""
        by_model: dict[tuple[Any, Any], list[fx.Node]] = {}
        for node in compact:
            by_model.setdefault((node.args[0], node.args[1]), []).append(node)
        entries: dict[fx.Node, fx.Node] = {}
        for (values, key), nodes in by_model.items():
            split = self._graph.call_function(
                stored_entries, (self._values[values], key, tuple(node.args[2] for node in nodes))
            )
            for number, node in enumerate(nodes):
                entries[node] = self._graph.call_function(operator.getitem, (split, number))
        return entries


_ROOT = re.compile(r"^(.*\.weights\.model|L\['\w+'\](\[\d+\])?)(\.|$)")
"""How Dynamo begins the path of a module; compact weights have a path to the model, too."""


def _place_of(node: fx.Node) -> str:
    """Name a node by the module in which it is computed, and its function."""
    function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    path = _ROOT.sub("", list(stack.values())[-1][0]) if stack else ""
    return f"{path}: {function}" if path else function
