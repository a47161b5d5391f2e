"""How a network's forward pass is executed: operation by operation, or compiled once for all topologies."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor, fx, nn

from sparsecore.errors import InputError
from sparsecore.learning.protocols import Model, Operations
from sparsecore_torch._torch_internals.compilation import BackendCompilerFailed, Unsupported, mark_unbacked
from sparsecore_torch.experiment.layers import SPARSE, SPARSE_OPERATORS, TIED, TIED_OPERATORS, Layers

Program: TypeAlias = Callable[[Mapping[str, Any], Tensor], Tensor]
"""From the handles of all parameters, in the order of their names, and images to logits."""


def direct(model: Model, operations: Operations, names: Iterable[str]) -> Program:  # noqa: ARG001
    """Return the model's own function as a program.

    Args:
        model: the model.
        operations: those that the model calls.
        names: of all parameters; not used.
    """
    return lambda handles, images: model.forward(operations, handles, images)


def recorded(model: Model, operations: Operations, names: Iterable[str]) -> Program:
    """Record the operations that a model calls, as a program without the model's code.

    Args:
        model: the model, which is called once with stand-ins for its parameters and images.
        operations: what the program calls.
        names: of all parameters, in the order in which the program takes them.
    """
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    images = fx.Proxy(graph.placeholder("images"), tracer)
    handles = {name: fx.Proxy(graph.placeholder(f"parameter{i}"), tracer) for i, name in enumerate(names)}
    logits = model.forward(_Recorder(operations, tracer), handles, images)
    graph.output(logits.node)
    module = fx.GraphModule(nn.Module(), graph)
    return lambda handles, images: module(images, *handles.values())


class _Recorder:
    """Operations that are recorded in a graph instead of being computed."""

    def __init__(self, operations: Operations, tracer: fx.proxy.TracerBase) -> None:
        self._operations, self._tracer = operations, tracer

    def __getattr__(self, name: str) -> Callable[..., fx.Proxy]:
        operation = getattr(self._operations, name)
        return lambda *inputs, **options: self._tracer.create_proxy("call_function", operation, inputs, options)


Forward: TypeAlias = Callable[..., Tensor]
"""From images, values and positions of each sparse tensor, and further sequences of tensors, to logits."""


@attrs.frozen(eq=False)
class Execution:
    """A way to execute the forward pass.

    Attributes:
        program: makes a program of the model.
        prepare: compiles the whole forward pass, or leaves it as it is.
        layers: those with sparse weights.
        tied_layers: those with tied weights.
        module: compiles a module of the user's, or leaves it as it is.
    """

    program: Callable[[Model, Operations, Iterable[str]], Program]
    prepare: Callable[[Forward], Forward]
    layers: Layers
    tied_layers: Layers
    module: Callable[[nn.Module], Callable[..., Any]] = lambda module: module


def compiled_by(backend: Any) -> Execution:
    """Return the execution that compiles by a backend of ``torch.compile``.

    Args:
        backend: its name, such as 'inductor', or a function from a graph and example inputs to a callable.
    """

    def compiled(module: nn.Module) -> Callable[..., Any]:
        return torch.compile(module, backend=backend)

    return Execution(recorded, lambda forward: _compiled(forward, backend), SPARSE_OPERATORS, TIED_OPERATORS, compiled)


EAGER = Execution(direct, lambda forward: forward, SPARSE, TIED)
COMPILED = compiled_by("inductor")


def _compiled(forward: Forward, backend: Any) -> Forward:
    inner = torch.compile(forward, fullgraph=True, backend=backend)

    def called(images: Tensor, values: Sequence[Tensor], positions: Sequence[Tensor], *others: Any) -> Tensor:
        for vector in (*values, *positions):
            # no guard may depend on the length: it changes with every reallocation, and must compile nothing again
            # (a guard may still depend on where a slice begins, as at 1 after a first tensor of a single weight)
            mark_unbacked(vector, 0)
        try:
            logits: Tensor = inner(images, values, positions, *others)
        except Unsupported:
            forward(images, values, positions, *others)  # raises the sentence of what refuses its input
            raise
        except BackendCompilerFailed as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())  # advice about debugging follows
            raise InputError(
                f"the network cannot be compiled: {reason}; without backend.compile it need not be"
            ) from error
        return logits

    return called
