"""A model some of whose parameters are tied: it computes with the tensors that their values serve in."""

from collections.abc import Mapping, Sequence

import attrs

from sparsecore.learning.parameters import Parameter, Ties
from sparsecore.learning.protocols import Model, Operations, Tensor


def with_ties(model: Model, parameters: Sequence[Parameter]) -> Model:
    """The model as a backend is given it: tied parameters reach its forward pass in their dense shapes.

    Args:
        model: the network.
        parameters: what it learns, on images of the size that it is to be used for.
    """
    ties = {parameter.name: parameter.ties for parameter in parameters if parameter.ties is not None}
    return _TiedModel(model, ties) if ties else model


@attrs.frozen(eq=False)
class _TiedModel:
    model: Model
    ties: Mapping[str, Ties]

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """See :class:`sparsecore.learning.protocols.Model`."""
        return self.model.parameters(image_shape, classes)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """See :class:`sparsecore.learning.protocols.Model`."""
        tied = {name: ops.tied(parameters[name], ties.shape, ties.key) for name, ties in self.ties.items()}
        return self.model.forward(ops, {**parameters, **tied}, images)
