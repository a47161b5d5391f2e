"""Wide residual networks (Zagoruyko & Komodakis 2016) for small images, pre-activation, without dropout."""

from collections.abc import Iterator, Mapping

import attrs

from sparsecore.errors import InputError
from sparsecore.learning import Operations, Tensor
from sparsecore.parameters import HeNormal, Parameter, batch_norm, bias


@attrs.frozen(eq=False)
class WideResNet:
    """WRN-depth-width: three groups of residual blocks; the 3x3 convolutions inside the blocks are sparse.

    Attributes:
        depth: 6n+4 for n blocks a group.
        width: factor on the channels 16, 32, 64 of the groups.
    """

    depth: int = 28
    width: int = 2

    def __attrs_post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(f"the depth of a wide residual network is 6n+4 (10, 16, 22, 28, ...); given {self.depth}")
        if self.width < 1:
            raise InputError(f"the width of a wide residual network is at least 1; given {self.width}")

    @classmethod
    def from_sizes(cls, depth: int, width: int) -> "WideResNet":
        """The network that 'wrn-DEPTH-WIDTH' names."""
        return cls(depth, width)

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """First convolution, shortcuts, batch norm and classifier are dense; He-normal (fan-out) values."""
        channels = 64 * self.width
        return (
            Parameter("first.conv", (16, image_shape[2], 3, 3), HeNormal()),
            *(parameter for block in self._blocks() for parameter in block.parameters()),
            *batch_norm("last.norm", channels),
            Parameter("classifier.weight", (classes, channels), HeNormal()),
            bias("classifier.bias", classes),
        )

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        x = ops.conv2d(images, parameters["first.conv"], padding=1)
        for block in self._blocks():
            x = block.forward(ops, parameters, x)
        x = ops.global_average_pool(_norm_relu(ops, parameters, "last.norm", x))
        return ops.linear(x, parameters["classifier.weight"], parameters["classifier.bias"])

    def _blocks(self) -> Iterator["_Block"]:
        channels = 16
        for group, out in enumerate((16 * self.width, 32 * self.width, 64 * self.width), start=1):
            for block in range(1, (self.depth - 4) // 6 + 1):
                yield _Block(f"group{group}.block{block}", channels, out, stride=2 if group > 1 and block == 1 else 1)
                channels = out


@attrs.frozen
class _Block:
    """Norm, relu, 3x3 convolution, twice, and a shortcut: a 1x1 convolution where the channels change."""

    name: str
    channels_in: int
    channels_out: int
    stride: int

    def parameters(self) -> Iterator[Parameter]:
        yield from batch_norm(f"{self.name}.norm1", self.channels_in)
        yield Parameter(f"{self.name}.conv1", (self.channels_out, self.channels_in, 3, 3), HeNormal(), sparse=True)
        yield from batch_norm(f"{self.name}.norm2", self.channels_out)
        yield Parameter(f"{self.name}.conv2", (self.channels_out, self.channels_out, 3, 3), HeNormal(), sparse=True)
        if self._has_shortcut:
            yield Parameter(f"{self.name}.shortcut", (self.channels_out, self.channels_in, 1, 1), HeNormal())

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        active = _norm_relu(ops, parameters, f"{self.name}.norm1", x)
        shortcut = (
            ops.conv2d(active, parameters[f"{self.name}.shortcut"], stride=self.stride) if self._has_shortcut else x
        )
        residual = ops.conv2d(active, parameters[f"{self.name}.conv1"], stride=self.stride, padding=1)
        residual = _norm_relu(ops, parameters, f"{self.name}.norm2", residual)
        residual = ops.conv2d(residual, parameters[f"{self.name}.conv2"], padding=1)
        return ops.add(residual, shortcut)

    @property
    def _has_shortcut(self) -> bool:
        return self.channels_in != self.channels_out


def _norm_relu(ops: Operations, parameters: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    norm = (parameters[f"{name}.{part}"] for part in ("scale", "shift", "mean", "variance"))
    return ops.relu(ops.batch_norm(x, *norm))
