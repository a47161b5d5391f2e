"""The part of a graph that a region computes, as a list of instructions for the kernels."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import attrs
from torch import Tensor, fx

from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.lowering import LAYOUT, LOWERING, STORED, WRITTEN, Lowering
from sparsecore_torch.sparse_training.regions.passing import Passed
from sparsecore_torch.sparse_training.regions.results import Output, Result, dtype_and_axes
from sparsecore_torch.sparse_training.regions.weights import RegionInput
from sparsecore_torch.sparse_training.storage.compact_modules import stored_weight
from sparsecore_torch.sparse_training.storage.compact_weights import compact_weights
from sparsecore_torch.sparse_training.storage.sparse_weights import SparseWeight, find


def _arguments(node: fx.Node, names: frozenset[str]) -> Iterator[Any]:
    """The arguments of a node that have one of these names."""
    bound = inspect.signature(node.meta[LOWERING].check).bind(*node.args, **node.kwargs)
    yield from (one for name, one in bound.arguments.items() if name in names)


def _run_of(node: fx.Node) -> Callable[..., Any]:
    lowering: Lowering = node.meta[LOWERING]
    return partial(lowering.run, axes=dtype_and_axes(node)[1]) if lowering.takes_axes else lowering.run


def _key_of(node: fx.Node) -> int:
    key: Any = node.args[1]
    return int(key)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("example_value"), Tensor)


@attrs.frozen(eq=False)
class _Instruction:
    """The computation of one node; ``last`` are the nodes that are not read any more afterwards."""

    node: fx.Node
    run: Callable[..., KernelTensor]
    last: tuple[fx.Node, ...]


def masked_weights(given: Sequence[Any]) -> list[SparseWeight]:
    """Return the sparse weights of masked storage among the arguments of a region."""
    found = [find(one) for one in given if isinstance(one, Tensor)]
    return [weight for weight in found if weight is not None]


@attrs.frozen(eq=False)
class Program:
    """What a region computes.

    Attributes:
        inputs: the nodes of its arguments, in order.
        instructions: in order.
        results: in order.
        compact: the indices of the tensors of compact weights that it reads, by the weights' keys.
        active_only: the nodes of weights that get the gradients of active positions alone.
        activations: the numbers of the inputs that are no Parameters or statistics.
        written: the numbers of the inputs that it writes to.
    """

    inputs: tuple[fx.Node, ...]
    instructions: tuple[_Instruction, ...]
    results: tuple[Result, ...]
    compact: frozenset[tuple[int, int]]
    active_only: frozenset[fx.Node]
    activations: tuple[int, ...]
    written: frozenset[int]

    @classmethod
    def of(cls, graph: fx.Graph, results: Sequence[Result]) -> "Program":
        """Read the graph of a region, whose nodes have lowerings in their ``meta`` where the kernels compute them."""
        inputs = tuple(node for node in graph.nodes if node.op == "placeholder")
        computed = [node for node in graph.nodes if LOWERING in node.meta]
        last_reader = {read: node for node in computed for read in node.all_input_nodes}
        kept = {result.node for result in results}
        last: dict[fx.Node, list[fx.Node]] = {node: [] for node in computed}
        for read, node in last_reader.items():
            if read not in kept:
                last[node].append(read)
        instructions = tuple(_Instruction(node, _run_of(node), tuple(last[node])) for node in computed)
        keys: list[Any] = [node.args[1:] for node in computed if node.target is stored_weight]
        limited = [(node, STORED - node.meta[LOWERING].gives_all_gradients) for node in computed]
        stored = {one for node in computed for one in _arguments(node, STORED)}
        written = {one for node in computed for one in _arguments(node, WRITTEN)}
        return cls(
            inputs,
            instructions,
            tuple(results),
            frozenset((int(key), int(index)) for key, index in keys),
            frozenset(one for node, names in limited for one in _arguments(node, names) if isinstance(one, fx.Node)),
            tuple(number for number, node in enumerate(inputs) if node not in stored and _is_tensor(node)),
            frozenset(number for number, node in enumerate(inputs) if node in written),
        )

    def needs_torch(self, given: Sequence[Any]) -> bool:
        """Return whether a strategy needs gradients of inactive weights now that the kernels do not compute.

        Args:
            given: the arguments.
        """
        for node, one in zip(self.inputs, given, strict=True):
            weight = find(one) if isinstance(one, Tensor) else None
            if weight is not None and weight.is_gradient_dense and node in self.active_only:
                return True
        stored = [node for node in self.active_only if node.target is stored_weight]
        return any(compact_weights(_key_of(node)).dense_gradients is not None for node in stored)

    def weights(self, masked: Sequence[SparseWeight]) -> int:
        """Return the number of active weights of the sparse tensors.

        Args:
            masked: of :func:`masked_weights`.
        """
        compact = [compact_weights(key).topology.counts[index] for key, index in self.compact]
        return sum(one.count for one in masked) + int(sum(compact))

    def outputs(self, run: Execution, made: Sequence[KernelTensor]) -> list[Output]:
        """Return what the region returns of the results of :meth:`run`."""
        return [one for result, value in zip(self.results, made, strict=True) for one in result.outputs(run, value)]

    def is_differentiable(self, made: Sequence[KernelTensor]) -> list[bool]:
        """Return, for each output, whether it depends on anything whose gradient is asked for."""
        return [
            value.activation.differentiable
            for result, value in zip(self.results, made, strict=True)
            for _ in range(result.count)
        ]

    def start_gradients(self, run: Execution, made: Sequence[KernelTensor], gradients: Sequence[Tensor | None]) -> None:
        """Begin the backward pass.

        Args:
            run: the forward pass.
            made: the results of :meth:`run`.
            gradients: of the outputs; None for those that the loss does not depend on.
        """
        rest = iter(gradients)
        for result, value in zip(self.results, made, strict=True):
            result.start_gradient(run, value, list(islice(rest, result.count)))

    def run(
        self, run: Execution, given: Sequence[Any], needs_gradient: Sequence[bool]
    ) -> tuple[list[RegionInput], list[KernelTensor]]:
        """Compute the results.

        Args:
            run: computes.
            given: the arguments; data of other regions in the layout of the kernels as :class:`Passed`.
            needs_gradient: whether the gradient of each argument is asked for.

        Returns:
            The arguments that are tensors, and the results.
        """
        values: dict[fx.Node, Any] = {}
        inputs = []
        for node, one, needed in zip(self.inputs, given, needs_gradient, strict=True):
            if isinstance(one, Passed):
                values[node] = RegionInput(one.tensor, one.layout, needed, one.shape, one.buffer)
                inputs.append(values[node])
            elif isinstance(one, Tensor):
                values[node] = RegionInput(one, node.meta.get(LAYOUT), needed, tuple(one.shape))
                inputs.append(values[node])
            else:
                values[node] = run.numbers[node] = one
        for instruction in self.instructions:
            args, kwargs = fx.map_arg((instruction.node.args, instruction.node.kwargs), values.__getitem__)
            read = [values[one] for one in instruction.node.all_input_nodes]
            values[instruction.node] = run.computed(instruction.run, read, args, kwargs)
            for node in instruction.last:
                del values[node]
        return inputs, [values[result.node] for result in self.results]
