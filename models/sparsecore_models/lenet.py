"""LeNet-300-100: the multilayer perceptron of the pruning literature, with batch norm, as Mostafa & Wang train it."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import attrs

from sparsecore.errors import InputError
from sparsecore.learning.parameters import FanInUniform, Parameter, batch_norm
from sparsecore.learning.protocols import Operations, Tensor


def as_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """Convert sizes of layers to a tuple."""
    return tuple(sizes)


@attrs.frozen
class LeNet:
    """Fully connected layers, each with batch norm, and relu between them; all weight matrices are sparse.

    The classifier has batch norm, too, and no layer has a bias, as in Mostafa & Wang's code. The original LeNet-300-100
    (LeCun et al. 1998) has biases and no batch norm.

    Attributes:
        hidden: sizes of the hidden layers.

    Raises:
        InputError: a hidden layer has no unit.
    """

    hidden: tuple[int, ...] = attrs.field(default=(300, 100), converter=as_sizes)

    def __attrs_post_init__(self) -> None:
        if any(size < 1 for size in self.hidden):
            raise InputError(f"hidden layers have at least 1 unit; given {self.hidden}")

    @classmethod
    def from_sizes(cls, *hidden: int) -> "LeNet":
        """The network named 'lenet-SIZE-SIZE'.

        Args:
            hidden: units of each hidden layer, from the input on; none for a linear classifier.

        Raises:
            InputError: a hidden layer has no unit.
        """
        return cls(hidden)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """Weight matrices (out, in), initially uniform within 1/√in, and batch norm after each.

        Args:
            image_shape: height, width and channels of the images; the first matrix reads their product.
            classes: the number of classes.
        """
        sizes = (math.prod(image_shape), *self.hidden, classes)
        return tuple(
            parameter
            for name, (inputs, outputs) in zip(self._layers, pairwise(sizes), strict=True)
            for parameter in (
                Parameter(f"{name}.weight", (outputs, inputs), FanInUniform(), sparse=True),
                *batch_norm(f"{name}.norm", outputs),
            )
        )

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        *hidden, classifier = self._layers
        x = ops.flatten(images)
        for name in hidden:
            x = ops.relu(_linear_norm(ops, parameters, name, x))
        return _linear_norm(ops, parameters, classifier, x)

    @property
    def _layers(self) -> tuple[str, ...]:
        return (*(f"layer{number}" for number in range(1, len(self.hidden) + 1)), "classifier")


def _linear_norm(ops: Operations, parameters: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    norm = (parameters[f"{name}.norm.{part}"] for part in ("scale", "shift", "mean", "variance"))
    return ops.batch_norm(ops.linear(x, parameters[f"{name}.weight"]), *norm)
