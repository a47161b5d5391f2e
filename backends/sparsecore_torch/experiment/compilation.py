"""How a network's forward pass is carried out: operation by operation, or compiled once for all topologies."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor, fx, nn

from sparsecore.errors import InputError
from sparsecore.learning.protocols import Model, Operations
from sparsecore_torch._torch_internals import BackendCompilerFailed, Unsupported, mark_unbacked
from sparsecore_torch.experiment import tied_layers
from sparsecore_torch.experiment.layers import DIRECT, OPAQUE, Layers
from sparsecore_torch.experiment.tied_layers import TiedLayers

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


Forward: TypeAlias = Callable[..., Tensor]
"""From images, values and positions of each sparse tensor, and further sequences of tensors, to logits."""


@attrs.frozen(eq=False)
class Execution:
    """See the module.

    Attributes:
        program: what the model's function becomes.
        prepared: what the whole forward pass becomes.
        layers: what computes with sparse weights.
        tied_layers: what computes with tied weights.
    """

    program: Callable[[Model, Operations, Iterable[str]], Program]
    prepared: Callable[[Forward], Forward]
    layers: Layers
    tied_layers: TiedLayers


def compiled_by(backend: Any) -> Execution:
    """Compiled by a backend of ``torch.compile``."""
    return Execution(recorded, lambda forward: _compiled(forward, backend), OPAQUE, tied_layers.OPAQUE)


EAGER = Execution(direct, lambda forward: forward, DIRECT, tied_layers.DIRECT)
COMPILED = compiled_by("inductor")


def _compiled(forward: Forward, backend: Any) -> Forward:
    inner = torch.compile(forward, fullgraph=True, backend=backend)

    def called(images: Tensor, values: Sequence[Tensor], positions: Sequence[Tensor], *others: Any) -> Tensor:
        for vector in (*values, *positions):
            # a length that no guard may ask about: it changes with every reallocation, and must compile nothing again
            # (where a slice begins is asked about: whether at 1, as behind a first tensor that has a single weight)
            mark_unbacked(vector, 0)
        try:
            logits: Tensor = inner(images, values, positions, *others)
        except Unsupported:
            forward(images, values, positions, *others)  # what refuses its input says so, in its own words
            raise
        except BackendCompilerFailed as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())  # behind it comes advice about debugging
            raise InputError(
                f"the network cannot be compiled: {reason}; without backend.compile it need not be"
            ) from error
        return logits

    return called
