"""Cuts a graph of torch's into regions for the kernels, and leaves the rest to torch.

A region is a run of nodes that the kernels compute, in the order of the graph. Nodes in between that do not depend on
the region's are moved before it, and those that do are moved behind it; nodes that write into memory or switch a state
of torch's are not moved over it. A region ends before a node that reads what the graph returns, too, or adds a hook to:
such a node reads torch's tensor, so that the tensor's hooks and its own gradient see what they see without regions.
Large dense linear layers before all sparse layers, or behind all of them, are torch's as well: it multiplies full
matrices faster.
"""

import inspect
import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sparsecore_torch.sparse_training.regions.attention import replace_attention
from sparsecore_torch.sparse_training.regions.decisions import Decisions
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import STORED, Lowering, NotLowered, Operand
from sparsecore_torch.sparse_training.regions.lowerings.table import LOWERINGS
from sparsecore_torch.sparse_training.regions.region import Region
from sparsecore_torch.sparse_training.regions.splitting import Run, Splitter, compact_names, is_stored_weight
from sparsecore_torch.sparse_training.regions.views import is_view
from sparsecore_torch.sparse_training.regions.writes import (
    Lowered,
    draws,
    function_of,
    switches_state,
    writes,
    written_elsewhere,
)
from sparsecore_torch.sparse_training.storage.sparse_weights import find

_LARGE = 256
"""Inputs and outputs of a dense linear layer from which on torch computes it where no region is broken by that.

The kernels take 1.3 to 2.0 of torch's time for layers of 256 to 8000 features, with both gradients (Zen 4).
"""


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
    sparse = {**names, **compact_names(module.graph)}
    attention = replace_attention(module.graph, decisions)
    lowered, reasons = _lower(module.graph)
    if outer := _outer_layers(lowered, sparse):  # of other nodes, the layouts may be others without them
        lowered, reasons = _lower(module.graph, dict.fromkeys(outer, "torch multiplies by dense matrices faster"))
    returned = _returned(module.graph)
    runs = _Runs(lowered, returned, set(filter(draws, module.graph.nodes)))
    for node in module.graph.nodes:
        runs.add(node)
    runs.close()
    inner = [_cut_checkpointed(module, node, names, decisions) for node in _checkpointed(module.graph)]
    splitter = Splitter(module, lowered, returned, sparse, decisions)
    split = splitter.split(runs.order)
    reasons = {
        **dict.fromkeys(attention, "by itself, by the faster of the kernels and torch"),
        **dict.fromkeys(returned, "the model returns its result, or adds a hook to it"),
        **reasons,
    }
    breaks = {_place_of(node): reasons.get(node, "torch computes it") for node in runs.breaks}
    left = _left_to_torch(module.graph, sparse, lowered, reasons)
    for one in inner:
        breaks |= one.breaks
        left |= one.left
    regions = (*splitter.regions, *(region for one in inner for region in one.regions))
    return Cut(split, regions, MappingProxyType(breaks), MappingProxyType(left))


def _left_to_torch(
    graph: fx.Graph, sparse: Mapping[fx.Node, str], lowered: Lowered, reasons: Mapping[fx.Node, str]
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


def _returned(graph: fx.Graph) -> set[fx.Node]:
    """Find the nodes that the graph returns or adds hooks to, and by which autograd may be asked for gradients."""
    readers = [node for node in graph.nodes if node.op == "output" or function_of(node) == "register_hook"]
    examples = {read: read.meta.get("example_value") for node in readers for read in node.all_input_nodes}
    return {node for node, example in examples.items() if isinstance(example, Tensor) and example.requires_grad}


def _lower(
    graph: fx.Graph, banned: Mapping[fx.Node, str] = MappingProxyType({})
) -> tuple[Lowered, Mapping[fx.Node, str]]:
    """Find the nodes that the kernels compute, and why they do not compute the others.

    Args:
        graph: of torch's.
        banned: nodes that torch is to compute, and why.
    """
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
        written = written_elsewhere(graph, lowered)
        if not written:
            return lowered, reasons
        banned = {**banned, **dict.fromkeys(written, "its memory is written to in place")}


def _outer_layers(lowered: Lowered, sparse: Container[fx.Node]) -> set[fx.Node]:
    """Find the large dense linear layers before all sparse layers or behind all, and what is computed of the latter.

    Args:
        lowered: the nodes that the kernels can compute, in the order of the graph.
        sparse: the nodes of sparse tensors.
    """
    layers = [node for node in lowered if any(read in sparse for read in node.all_input_nodes)]
    before = _reached(layers, lambda node: node.all_input_nodes)
    behind = _reached(layers, lambda node: node.users)
    large = [node for node in lowered if _is_large(node) and not (node in before and node in behind)]
    return {*large, *_reached([node for node in large if node not in before], lambda node: node.users)}


def _reached(start: Iterable[fx.Node], steps: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """Find the nodes that steps lead to, the first ones included."""
    reached, left = set(start), list(start)
    while left:
        new = [node for node in steps(left.pop()) if node not in reached]
        reached.update(new)
        left += new
    return reached


def _is_large(node: fx.Node) -> bool:
    """Return whether a lowered node is a linear layer with a large weight."""
    if node.target is not functional.linear:
        return False
    weight: Any = node.kwargs["weight"] if "weight" in node.kwargs else node.args[1]
    shape: tuple[int, ...] = weight.meta["example_value"].shape
    return min(shape) >= _LARGE


def _check(lowering: Lowering, node: fx.Node, lowered: Lowered) -> Layout:
    def operand(read: fx.Node) -> Any:
        example = read.meta.get("example_value")
        if not isinstance(example, Tensor):
            return example
        layout = lowered[read][1] if read in lowered else None
        return Operand(example, layout, read.op in {"placeholder", "get_attr"} or is_stored_weight(read))

    args, kwargs = fx.map_arg((node.args, node.kwargs), operand)
    try:
        bound = inspect.signature(lowering.check).bind(*node.args, **node.kwargs)
    except TypeError:
        raise NotLowered("it is called with other arguments than the kernels know") from None
    given: list[fx.Node] = []
    fx.map_arg([argument for name, argument in bound.arguments.items() if name not in STORED], given.append)
    if any(map(is_stored_weight, given)):
        raise NotLowered("it computes with a sparse tensor of compact storage that is not its weight")
    return lowering.check(*args, **kwargs)


class _Runs:
    """Collects runs of lowered nodes.

    Args:
        lowered: the nodes that the kernels compute.
        returned: the nodes whose results no node of the same run reads, see :func:`_returned`.
        drawing: the nodes that may draw random numbers, which stay in order.

    Attributes:
        order: nodes that torch computes, and runs, in the order in which they are to be computed.
        breaks: the nodes by which a run has ended.
    """

    def __init__(self, lowered: Lowered, returned: Collection[fx.Node], drawing: Set[fx.Node]) -> None:
        self._lowered, self._returned, self._drawing = lowered, returned, drawing
        self.order: list[fx.Node | Run] = []
        self.breaks: list[fx.Node] = []
        self._run: dict[fx.Node, None] = {}  # in order
        self._behind: dict[fx.Node, None] = {}

    def add(self, node: fx.Node) -> None:
        """Add the next node of the graph."""
        if is_stored_weight(node):  # it is copied to where it is read
            return
        depends_behind = any(read in self._behind for read in node.all_input_nodes)
        if node in self._lowered:
            if depends_behind:
                self.breaks.append(self._break())
                self.close()
            elif read := [one for one in node.all_input_nodes if one in self._run and one in self._returned]:
                self.breaks.append(read[0])
                self.close()
            elif self._follows_draw(node, self._behind):
                self.breaks.append(self._break())
                self.close()
            self._run[node] = None
            return
        reads_run = any(read in self._run for read in node.all_input_nodes)
        is_fixed = self._run and (writes(node) or switches_state(node)) and self._is_fixed(node)
        if node.op == "output" or is_fixed or self._follows_draw(node, self._run):
            self.close()
            self.order.append(node)
        elif depends_behind or reads_run or self._follows_draw(node, self._behind):
            self._behind[node] = None
        else:
            self.order.append(node)

    def close(self) -> None:
        """End the current run."""
        if self._run:
            self.order.append(tuple(self._run))
        self.order += self._behind
        self._run, self._behind = {}, {}

    def _break(self) -> fx.Node:
        """The first node behind the run that computes something; views are made with the run."""
        return next((node for node in self._behind if not is_view(node)), next(iter(self._behind)))

    def _follows_draw(self, node: fx.Node, others: Mapping[fx.Node, None]) -> bool:
        """Whether a node may draw random numbers, and others before it."""
        return node in self._drawing and not self._drawing.isdisjoint(others)

    def _is_fixed(self, node: fx.Node) -> bool:
        """Whether a node that writes or switches must not be moved before the run."""
        if self._behind or not writes(node):
            return True
        return any(
            read.op != "placeholder" or not self._run.keys().isdisjoint(read.users) for read in node.all_input_nodes
        )


_ROOT = re.compile(r"^(.*\.weights\.model|L\['\w+'\](\[\d+\])?)(\.|$)")
"""How Dynamo begins the path of a module; compact weights have a path to the model, too."""


def _place_of(node: fx.Node) -> str:
    """Name a node by the module in which it is computed, and its function."""
    function = function_of(node)
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    path = _ROOT.sub("", list(stack.values())[-1][0]) if stack else ""
    return f"{path}: {function}" if path else function
