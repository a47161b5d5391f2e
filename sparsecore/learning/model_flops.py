"""The floating-point operations of models that are written once for all backends, from shapes alone."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import attrs

from sparsecore.learning.flops import ForwardPass
from sparsecore.learning.operations import check_equal_shapes, check_kernel_fits


@attrs.frozen
class _Shape:
    """A stand-in for a tensor of which only the shape is computed.

    Attributes:
        sides: of the tensor; images are (batch, channels, height, width).
        name: of a parameter; '' for anything else.
    """

    sides: tuple[int, ...]
    name: str = ""


@attrs.frozen(eq=False)
class _CountingOperations:
    """The operations that models are written in, on shapes alone.

    Attributes:
        forward: the operations of each parameter so far.
    """

    forward: dict[str, int] = attrs.field(factory=dict)

    def conv2d(self, x: _Shape, weight: _Shape, *, stride: int = 1, padding: int = 0) -> _Shape:
        batch, _, height, width = x.sides
        out, _, *kernel = weight.sides
        check_kernel_fits((height, width), kernel, padding)
        pixels = [
            (side + 2 * padding - of_kernel) // stride + 1
            for side, of_kernel in zip((height, width), kernel, strict=True)
        ]
        self._use(weight, batch * pixels[0] * pixels[1])
        return _Shape((batch, out, *pixels))

    def linear(self, x: _Shape, weight: _Shape, bias: _Shape | None = None) -> _Shape:  # noqa: ARG002
        self._use(weight, x.sides[0])
        return _Shape((x.sides[0], weight.sides[0]))

    def batch_norm(self, x: _Shape, *_: _Shape) -> _Shape:
        return x

    def relu(self, x: _Shape) -> _Shape:
        return x

    def global_average_pool(self, x: _Shape) -> _Shape:
        return _Shape(x.sides[:2])

    def add(self, x: _Shape, y: _Shape) -> _Shape:
        check_equal_shapes(x.sides, y.sides)
        return x

    def flatten(self, x: _Shape) -> _Shape:
        return _Shape((x.sides[0], prod(x.sides[1:])))

    def tied(self, values: _Shape, shape: tuple[int, ...], key: int) -> _Shape:  # noqa: ARG002
        return _Shape(tuple(shape), values.name)

    def _use(self, weight: _Shape, uses: int) -> None:
        self.forward[weight.name] = self.forward.get(weight.name, 0) + 2 * uses * prod(weight.sides)


def model_forward_pass(
    forward: Callable[[Any, Mapping[str, Any], Any], Any],
    shapes: Mapping[str, Sequence[int]],
    image: Sequence[int],
    batch_size: int,
) -> ForwardPass:
    """Return the operations of a forward pass of a model that is written once for all backends, if it were dense.

    Args:
        forward: of the model.
        shapes: of its parameters, by name.
        image: height, width and channels of an image.
        batch_size: the number of images.
    """
    operations = _CountingOperations()
    height, width, channels = image
    parameters = {name: _Shape(tuple(sides), name) for name, sides in shapes.items()}
    forward(operations, parameters, _Shape((batch_size, channels, height, width)))
    return ForwardPass(operations.forward, {name: prod(shapes[name]) for name in operations.forward})
