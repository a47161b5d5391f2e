"""A model's forward pass, as it is or recorded once as a graph of operations.

``torch.compile`` reads Python code and does not understand all of it (frozen attrs values are beyond it), so what it
is given is not the model's code but the operations that the model asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from sparsecore.learning import Model, Operations

Program: TypeAlias = Callable[[Mapping[str, Any], Tensor], Tensor]
"""From the handles of all parameters, in the order of their names, and images to logits."""


def direct(model: Model, operations: Operations, names: Iterable[str]) -> Program:  # noqa: ARG001
    """The model's own function."""
    return lambda handles, images: model.forward(operations, handles, images)


def recorded(model: Model, operations: Operations, names: Iterable[str]) -> Program:
    """The operations that the model asks for, one after another, without the model's code."""
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    images = fx.Proxy(graph.placeholder("images"), tracer)
    handles = {name: fx.Proxy(graph.placeholder(f"parameter{i}"), tracer) for i, name in enumerate(names)}
    logits = model.forward(_Recorder(operations, tracer), handles, images)
    graph.output(logits.node)
    module = fx.GraphModule(nn.Module(), graph)
    return lambda handles, images: module(images, *handles.values())


class _Recorder:
    """Operations that are noted, not done."""

    def __init__(self, operations: Operations, tracer: fx.proxy.TracerBase) -> None:
        self._operations, self._tracer = operations, tracer

    def __getattr__(self, name: str) -> Callable[..., fx.Proxy]:
        operation = getattr(self._operations, name)
        return lambda *inputs, **options: self._tracer.create_proxy("call_function", operation, inputs, options)
