"""How a network's forward pass is carried out: operation by operation, or compiled once for all topologies."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch._dynamo import exc

from sparsecore.errors import InputError
from sparsecore.learning import Model, Operations
from sparsecore_torch.learning import tied_layers
from sparsecore_torch.learning.layers import DIRECT, OPAQUE, Layers
from sparsecore_torch.learning.programs import Program, direct, recorded
from sparsecore_torch.learning.tied_layers import TiedLayers

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
            torch._dynamo.decorators.mark_unbacked(vector, 0)
        try:
            logits: Tensor = inner(images, values, positions, *others)
        except exc.Unsupported:
            forward(images, values, positions, *others)  # what refuses its input says so, in its own words
            raise
        except exc.BackendCompilerFailed as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())  # behind it comes advice about debugging
            raise InputError(
                f"the network cannot be compiled: {reason}; without backend.compile it need not be"
            ) from error
        return logits

    return called
