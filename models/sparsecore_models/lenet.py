"""LeNet-300-100: the multilayer perceptron of the pruning literature, with batch norm."""

import math
from collections.abc import Iterable, Mapping

import attrs

from sparsecore.errors import InputError
from sparsecore.learning.parameters import HeNormal, Parameter, batch_norm, bias
from sparsecore.learning.protocols import Operations, Tensor


def as_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """Convert sizes of layers to a tuple."""
    return tuple(sizes)


@attrs.frozen(eq=False)
class LeNet:
    """Fully connected layers with batch norm and relu between them; all weight matrices are sparse.

    The paper's LeNet-300-100 (LeCun et al. 1998) has no batch norm.

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
        """Weight matrices (out, in), batch norm after each hidden layer, and the classifier's bias.

        Args:
            image_shape: height, width and channels of the images; the first matrix reads their product.
            classes: the number of classes.
        """
        sizes = (math.prod(image_shape), *self.hidden)
        layers = [
            parameter
            for i, (inputs, outputs) in enumerate(zip(sizes, self.hidden, strict=False), start=1)
            for parameter in (
                Parameter(f"layer{i}.weight", (outputs, inputs), HeNormal(), sparse=True),
                *batch_norm(f"layer{i}.norm", outputs),
            )
        ]
        classifier = Parameter("classifier.weight", (classes, sizes[-1]), HeNormal(), sparse=True)
        return (*layers, classifier, bias("classifier.bias", classes))

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        x = ops.flatten(images)
        for i in range(1, len(self.hidden) + 1):
            norm = (parameters[f"layer{i}.norm.{part}"] for part in ("scale", "shift", "mean", "variance"))
            x = ops.relu(ops.batch_norm(ops.linear(x, parameters[f"layer{i}.weight"]), *norm))
        return ops.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])
