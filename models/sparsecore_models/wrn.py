"""Wide residual networks (Zagoruyko & Komodakis 2016) for small images, pre-activation, without dropout."""

from collections.abc import Iterator, Mapping, Sequence

import attrs

from sparsecore.errors import InputError
from sparsecore.learning.parameters import FanInUniform, HeNormal, Parameter, batch_norm, bias
from sparsecore.learning.protocols import Operations, Tensor

DEEPEST = 10_000
"""The largest depth; the deepest published networks have 1,001 layers."""


@attrs.frozen
class WideResNet:
    """WRN-depth-width: three groups of residual blocks; the 3x3 convolutions inside the blocks are sparse.

    Attributes:
        depth: 6n+4 for n blocks per group.
        width: the factor of the channels 16, 32, 64 of the groups.

    Raises:
        InputError: the depth is not 6n+4, or larger than :data:`DEEPEST`, or the width is less than 1.
    """

    depth: int = 28
    width: int = 2

    def __attrs_post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(f"the depth of a wide residual network is 6n+4 (10, 16, 22, 28, ...); given {self.depth}")
        if self.depth > DEEPEST:
            raise InputError(f"the depth of a wide residual network is at most {DEEPEST:,}; given {self.depth}")
        if self.width < 1:
            raise InputError(f"the width of a wide residual network is at least 1; given {self.width}")

    @classmethod
    def from_sizes(cls, depth: int, width: int) -> "WideResNet":
        """The network named 'wrn-DEPTH-WIDTH'.

        Args:
            depth: 6n+4 for n blocks per group.
            width: the factor of the channels.

        Raises:
            InputError: the depth is not 6n+4, or larger than :data:`DEEPEST`, or the width is less than 1.
        """
        return cls(depth, width)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """The channels of the first convolution and of the three groups."""
        return 16, 16 * self.width, 32 * self.width, 64 * self.width

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The parameters; the 3x3 convolutions in the blocks are sparse.

        As in Mostafa & Wang's code, convolutions are initialized He-normal (fan-out), the classifier's weights uniform
        within 1/√inputs and its bias zero.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.
        """
        return self.parameters_of(self.channels, image_shape, classes)

    def parameters_of(
        self, channels: Sequence[int], image_shape: tuple[int, int, int], classes: int
    ) -> tuple[Parameter, ...]:
        """The parameters of a network with other channels; :meth:`forward` takes them, too.

        Args:
            channels: of the first convolution and of the three groups.
            image_shape: height, width and channels of the images.
            classes: the number of classes.
        """
        first, last = channels[0], channels[-1]
        return (
            Parameter("first.conv", (first, image_shape[2], 3, 3), HeNormal()),
            *(parameter for block in self._blocks() for parameter in block.parameters(channels)),
            *batch_norm("last.norm", last),
            Parameter("classifier.weight", (classes, last), FanInUniform()),
            bias("classifier.bias", classes),
        )

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        x = ops.conv2d(images, parameters["first.conv"], padding=1)
        for block in self._blocks():
            x = block.forward(ops, parameters, x)
        x = ops.global_average_pool(_norm_relu(ops, parameters, "last.norm", x))
        return ops.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])

    def _blocks(self) -> Iterator["_Block"]:
        return (_Block(group, block) for group in (1, 2, 3) for block in range(1, (self.depth - 4) // 6 + 1))


@attrs.frozen
class _Block:
    """Norm, relu, 3x3 convolution, twice, and a shortcut: a 1x1 convolution where channels or sides change."""

    group: int
    number: int

    @property
    def name(self) -> str:
        return f"group{self.group}.block{self.number}"

    @property
    def stride(self) -> int:
        return 2 if self.group > 1 and self.number == 1 else 1

    def parameters(self, channels: Sequence[int]) -> Iterator[Parameter]:
        outputs = channels[self.group]
        inputs = channels[self.group - 1] if self.number == 1 else outputs
        yield from batch_norm(f"{self.name}.norm1", inputs)
        yield Parameter(f"{self.name}.conv1", (outputs, inputs, 3, 3), HeNormal(), sparse=True)
        yield from batch_norm(f"{self.name}.norm2", outputs)
        yield Parameter(f"{self.name}.conv2", (outputs, outputs, 3, 3), HeNormal(), sparse=True)
        if inputs != outputs or self.stride > 1:
            yield Parameter(self._shortcut, (outputs, inputs, 1, 1), HeNormal())

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        active = _norm_relu(ops, parameters, f"{self.name}.norm1", x)
        shortcut = parameters.get(self._shortcut)
        carried = x if shortcut is None else ops.conv2d(active, shortcut, stride=self.stride)
        residual = ops.conv2d(active, parameters[f"{self.name}.conv1"], stride=self.stride, padding=1)
        residual = _norm_relu(ops, parameters, f"{self.name}.norm2", residual)
        residual = ops.conv2d(residual, parameters[f"{self.name}.conv2"], padding=1)
        return ops.add(residual, carried)

    @property
    def _shortcut(self) -> str:
        return f"{self.name}.shortcut"


def _norm_relu(ops: Operations, parameters: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    norm = (parameters[f"{name}.{part}"] for part in ("scale", "shift", "mean", "variance"))
    return ops.relu(ops.batch_norm(x, *norm))
