"""The part of a graph that a region computes, as a list of instructions for the kernels."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx

from sparsecore_torch.sparse_training.regions.execution import Execution, KernelTensor
from sparsecore_torch.sparse_training.regions.lowering import STORED, WRITTEN
from sparsecore_torch.sparse_training.regions.weights import RegionInput
from sparsecore_torch.sparse_training.storage.compact_modules import stored_weight
from sparsecore_torch.sparse_training.storage.compact_weights import compact_weights
from sparsecore_torch.sparse_training.storage.sparse_weights import SparseWeight, find

LAYOUT, LOWERING = "sparsecore_layout", "sparsecore_lowering"
"""Where a node of a region keeps, in its ``meta``, the layout of its result and how it is computed."""


def _arguments(node: fx.Node, names: frozenset[str]) -> Iterator[Any]:
    """The arguments of a node that have one of these names."""
    bound = inspect.signature(node.meta[LOWERING].check).bind(*node.args, **node.kwargs)
    yield from (one for name, one in bound.arguments.items() if name in names)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("example_value"), Tensor)


@attrs.frozen(eq=False)
class Result:
    """A result of a region, as torch wants it.

    Attributes:
        node: whose result it is.
        dtype: of the tensor.
        axes: the dimensions in the order in which they lie in memory, the outermost first.
        is_read: whether the region itself reads it, too, or may do so.
    """

    node: fx.Node
    dtype: torch.dtype
    axes: tuple[int, ...]
    is_read: bool

    @classmethod
    def of(cls, node: fx.Node) -> "Result":
        """Read what is wanted from the example that the graph was traced with."""
        example: Tensor = node.meta["example_value"]
        axes = tuple(range(example.ndim))
        if not example.is_contiguous():
            strides: list[Any] = list(example.stride())
            # sizes that are symbols must not be asked for their numbers, which would compile for these numbers alone
            is_channels_last = example.ndim == 4 and example.is_contiguous(memory_format=torch.channels_last)
            axes = (0, 2, 3, 1) if is_channels_last else tuple(sorted(axes, key=lambda one: (-int(strides[one]), one)))
        return cls(node, example.dtype, axes, len(node.users) > 1 or node.meta[LOWERING].is_view)

    def unpack(self, run: Execution, made: KernelTensor) -> Tensor:
        """Copy a result out of the kernels' layout."""
        tensor = run.unpack(made.activation.buffer(), made.shape, made.layout, self.axes).to(self.dtype)
        if not self.is_read:
            made.activation.release()
        return tensor


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
        activations: the numbers of the inputs that are no Parameters or statistics.
        written: the numbers of the inputs that it writes to.
    """

    inputs: tuple[fx.Node, ...]
    instructions: tuple[_Instruction, ...]
    results: tuple[Result, ...]
    compact: frozenset[tuple[int, int]]
    activations: tuple[int, ...]
    written: frozenset[int]

    @classmethod
    def of(cls, graph: fx.Graph) -> "Program":
        """Read the graph of a region, whose nodes have lowerings in their ``meta``."""
        inputs = tuple(node for node in graph.nodes if node.op == "placeholder")
        computed = [node for node in graph.nodes if node.op.startswith("call_")]
        (returned,) = next(node for node in graph.nodes if node.op == "output").args
        last_reader = {read: node for node in computed for read in node.all_input_nodes}
        kept = set(returned)
        last: dict[fx.Node, list[fx.Node]] = {node: [] for node in computed}
        for read, node in last_reader.items():
            if read not in kept:
                last[node].append(read)
        instructions = tuple(_Instruction(node, node.meta[LOWERING].run, tuple(last[node])) for node in computed)
        keys: list[Any] = [node.args[1:] for node in computed if node.target is stored_weight]
        stored = {one for node in computed for one in _arguments(node, STORED)}
        written = {one for node in computed for one in _arguments(node, WRITTEN)}
        return cls(
            inputs,
            instructions,
            tuple(map(Result.of, returned)),
            frozenset((int(key), int(index)) for key, index in keys),
            tuple(number for number, node in enumerate(inputs) if node not in stored and _is_tensor(node)),
            frozenset(number for number, node in enumerate(inputs) if node in written),
        )

    def needs_torch(self, masked: Sequence[SparseWeight]) -> bool:
        """Return whether a strategy needs the gradients of inactive weights now, which the kernels do not compute.

        Args:
            masked: of :func:`masked_weights`.
        """
        if any(compact_weights(key).dense_gradients is not None for key, _ in self.compact):
            return True
        return any(weight.is_gradient_dense for weight in masked)

    def weights(self, masked: Sequence[SparseWeight]) -> int:
        """Return the number of active weights of the sparse tensors.

        Args:
            masked: of :func:`masked_weights`.
        """
        compact = [compact_weights(key).topology.counts[index] for key, index in self.compact]
        return sum(one.count for one in masked) + int(sum(compact))

    def unpack(self, run: Execution, made: Sequence[KernelTensor]) -> tuple[Tensor, ...]:
        """Copy the results of :meth:`run` out of the kernels' layout."""
        return tuple(result.unpack(run, one) for result, one in zip(self.results, made, strict=True))

    def run(
        self, run: Execution, given: Sequence[Any], needs_gradient: Sequence[bool]
    ) -> tuple[list[RegionInput], list[KernelTensor]]:
        """Compute the results.

        Args:
            run: computes.
            given: the arguments.
            needs_gradient: whether the gradient of each argument is asked for.

        Returns:
            The arguments that are tensors, and the results.
        """
        values: dict[fx.Node, Any] = {}
        inputs = []
        for node, one, needed in zip(self.inputs, given, needs_gradient, strict=True):
            if isinstance(one, Tensor):
                values[node] = RegionInput(one, node.meta.get(LAYOUT), needed)
                inputs.append(values[node])
            else:
                values[node] = one
        for instruction in self.instructions:
            args, kwargs = fx.map_arg((instruction.node.args, instruction.node.kwargs), values.__getitem__)
            read = [values[one] for one in instruction.node.all_input_nodes]
            values[instruction.node] = run.computed(instruction.run, read, args, kwargs)
            for node in instruction.last:
                del values[node]
        return inputs, [values[result.node] for result in self.results]
