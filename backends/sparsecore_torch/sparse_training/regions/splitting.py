"""Builds the graph that calls regions: what they are given, what they return, and in which layout."""

import operator
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor, fx

from sparsecore_torch.sparse_training.regions.decisions import Decisions
from sparsecore_torch.sparse_training.regions.execution import Execution
from sparsecore_torch.sparse_training.regions.layouts import Layout
from sparsecore_torch.sparse_training.regions.lowering import LAYOUT, LOWERING, Lowering, Operand
from sparsecore_torch.sparse_training.regions.region import Region
from sparsecore_torch.sparse_training.regions.results import PassedResult, Result, TorchResult, ViewResult
from sparsecore_torch.sparse_training.regions.views import leaves_of, views_of
from sparsecore_torch.sparse_training.regions.weights import CompactWeight, RegionInput
from sparsecore_torch.sparse_training.regions.writes import Lowered, switches_state
from sparsecore_torch.sparse_training.storage.compact_modules import stored_entries, stored_weight
from sparsecore_torch.sparse_training.storage.compact_weights import compact_weights

Run = tuple[fx.Node, ...]
"""Nodes that the kernels compute together, in order."""


def is_stored_weight(node: fx.Node) -> bool:
    """Return whether a node makes a dense weight of compact storage."""
    return node.target is stored_weight


def compact_names(graph: fx.Graph) -> Mapping[fx.Node, str]:
    """Return the names of the tensors in compact storage, by the nodes that make these."""
    names: dict[fx.Node, str] = {}
    for node in filter(is_stored_weight, graph.nodes):
        _, key, index = node.args
        names[node] = compact_weights(key).topology.layout.names[index]
    return names


def _read_compact(run: Execution, values: RegionInput, key: int, index: int) -> CompactWeight:  # noqa: ARG001
    return CompactWeight(values, compact_weights(key), index)


def _check_compact(values: Operand, key: int, index: int) -> Layout:  # noqa: ARG001
    return Layout.VECTORS


_COMPACT = Lowering(_check_compact, _read_compact)


class Splitter:
    """Builds the graph that calls the regions.

    Args:
        module: the graph as it was; regions become its submodules.
        lowered: the nodes that the kernels can compute.
        returned: the nodes whose values are not passed to other regions, but read as torch's tensors.
        sparse: the names of the sparse tensors.
        decisions: whether the kernels compute the regions.

    Attributes:
        regions: those that were made, in order.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        lowered: Lowered,
        returned: Collection[fx.Node],
        sparse: Mapping[fx.Node, str],
        decisions: Decisions,
    ) -> None:
        self._decisions, self._returned = decisions, returned
        self._module = module
        self._lowered = lowered
        self._sparse = sparse
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}  # as torch has them
        self._passed: dict[fx.Node, fx.Node] = {}  # in the layout of the kernels
        self._made: set[fx.Node] = set()
        switches = accumulate(map(switches_state, module.graph.nodes))
        self._states = dict(zip(module.graph.nodes, switches, strict=True))
        self.regions: list[Region] = []

    def split(self, order: Sequence[fx.Node | Run]) -> fx.GraphModule:
        """Return the module of the new graph.

        Args:
            order: nodes of torch's, and runs; one without a sparse layer is torch's, too.
        """
        names = {part: self._names(part) for part in order if not isinstance(part, fx.Node)}
        inside = {node for run, found in names.items() if found for node in run}
        for part in order:
            if not isinstance(part, fx.Node) and names[part]:
                self._add_region(part, names[part], inside)
                continue
            for node in (part,) if isinstance(part, fx.Node) else part:
                if node not in self._made:
                    self._copy(node)
        return fx.GraphModule(self._module, self._graph)

    def _names(self, run: Run) -> list[str]:
        return [self._sparse[read] for node in run for read in node.all_input_nodes if read in self._sparse]

    def _copy(self, node: fx.Node) -> None:
        for read in node.all_input_nodes:
            if is_stored_weight(read) and read not in self._values:
                self._copy(read)
        self._values[node] = self._graph.node_copy(node, self._values.__getitem__)

    def _add_region(self, run: Run, names: Sequence[str], inside: set[fx.Node]) -> None:
        own, graph = set(run), fx.Graph()
        made = [node for node in run if any(user not in own for user in node.users)]
        views = {node: found for node in made if (found := self._views(node, inside))}
        nodes = [*run, *(view for found in views.values() for view in found)]
        outside = dict.fromkeys(one for node in nodes for one in node.all_input_nodes)
        for node in nodes:
            outside.pop(node, None)
        compact = [one for one in outside if is_stored_weight(one)]
        values = self._copied(graph, nodes, list(outside))
        results: list[Result] = []
        outputs: list[tuple[dict[fx.Node, fx.Node], fx.Node]] = []  # whose, and where it is to be found
        for node in made:
            readers = [user for user in node.users if user not in own]
            is_passed = node not in self._returned and any(user in inside for user in readers)
            if is_passed:
                results.append(PassedResult.of(values[node]))
                outputs.append((self._passed, node))
            if node in views:
                leaves = leaves_of(views[node])
                viewed, returned = ([values[one] for one in some] for some in (views[node], leaves))
                results.append(ViewResult.of(values[node], viewed, returned))
                outputs += [(self._values, leaf) for leaf in leaves]
            elif any(user not in inside for user in readers):
                results.append(TorchResult.of(values[node], is_passed=is_passed))
                outputs.append((self._values, node))
        self._made.update(nodes)
        graph.output(tuple(values[node] for _, node in outputs))
        region = Region(fx.GraphModule(self._module, graph), results, names, self._decisions)
        name = f"region_{len(self.regions)}"
        self.regions.append(region)
        self._module.add_submodule(name, region)
        given = {**self._values, **self._passed, **self._entries(compact)}
        called = self._graph.call_module(name, tuple(given[outer] for outer in outside))
        for number, (place, node) in enumerate(outputs):
            place[node] = self._graph.call_function(operator.getitem, (called, number))

    def _copied(self, graph: fx.Graph, nodes: Sequence[fx.Node], outside: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
        """Copy nodes into the graph of a region.

        Args:
            graph: of the region; it is empty.
            nodes: of the region, in order.
            outside: what they read, and what the region is given.

        Returns:
            The copies, by the nodes that they are copies of.
        """
        values: dict[fx.Node, fx.Node] = {}
        for outer in outside:
            values[outer] = graph.placeholder(outer.name)
            values[outer].meta = dict(outer.meta)
            if outer in self._lowered:
                values[outer].meta[LAYOUT] = self._lowered[outer][1]
        for node in filter(is_stored_weight, outside):
            # the region is given the active values of the tensor in place of those of the whole model
            values[node] = graph.call_function(stored_weight, (values[node], *node.args[1:]))
            values[node].meta = {**node.meta, LOWERING: _COMPACT}
        for node in nodes:
            values[node] = graph.node_copy(node, values.__getitem__)
            if node in self._lowered:
                values[node].meta[LOWERING] = self._lowered[node][0]
        return values

    def _views(self, node: fx.Node, inside: set[fx.Node]) -> tuple[fx.Node, ...]:
        """Find the views of a result that can be made by the region; none where torch reads the result itself."""
        example: Tensor = node.meta["example_value"]
        if self._lowered[node][1] is not Layout.VECTORS or not example.is_contiguous():
            return ()

        def is_free(view: fx.Node) -> bool:
            return view not in self._lowered and self._states[view] == self._states[node]

        def is_known(read: fx.Node) -> bool:
            return read in self._values and not isinstance(read.meta.get("example_value"), Tensor)

        found = views_of(node, is_free, is_known)
        is_read = any(user not in inside and user not in found for user in node.users)
        return () if is_read else found

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
