"""Small networks, one an operation: all they train is sparse, unless asked for, so that a step shows all gradients."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from sparsecore.learning import Operations, Tensor
from sparsecore.parameters import Constant, HeNormal, Parameter

SHAPE = (6, 6, 2)
"""Height, width and channels of the images."""

CLASSES = 3

Forward = Callable[[Operations, Mapping[str, Tensor], Tensor, "Network"], Tensor]


@attrs.frozen
class Network:
    """A network around one operation.

    Attributes:
        operation: which.
        stride: of its convolution.
        padding: of its convolution.
        dense: the name of a tensor that is not sparse; none where it is empty.
    """

    operation: str
    stride: int = 1
    padding: int = 1
    dense: str = ""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:  # noqa: ARG002
        """The weights of the operation and of the layers around it."""
        known = _NETWORKS[self.operation][0]
        return tuple(attrs.evolve(p, sparse=p.sparse and p.name != self.dense) for p in known)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        return _NETWORKS[self.operation][1](ops, parameters, images, self)


def _weight(name: str, *shape: int) -> Parameter:
    return Parameter(name, shape, HeNormal(), sparse=True)


def _norm(name: str, channels: int) -> tuple[Parameter, ...]:
    return (
        Parameter(f"{name}.scale", (channels,), HeNormal(), sparse=True),
        Parameter(f"{name}.shift", (channels,), HeNormal(), sparse=True),
        Parameter(f"{name}.mean", (channels,), Constant(0.0), trained=False),
        Parameter(f"{name}.variance", (channels,), Constant(1.0), trained=False),
    )


def _normed(ops: Operations, p: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return ops.batch_norm(x, *(p[f"{name}.{part}"] for part in ("scale", "shift", "mean", "variance")))


_FIRST, _LAST = _weight("first", 4, 2, 3, 3), _weight("last", CLASSES, 4)


def _linear(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: Network) -> Tensor:
    return ops.linear(ops.linear(ops.flatten(x), p["hidden"], p["bias"]), p["top"])


def _conv2d(ops: Operations, p: Mapping[str, Tensor], x: Tensor, network: Network) -> Tensor:
    x = ops.conv2d(x, p["first"], padding=1)
    x = ops.conv2d(x, p["second"], stride=network.stride, padding=network.padding)
    return ops.linear(ops.global_average_pool(x), p["last"])


def _batch_norm(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: Network) -> Tensor:
    x = ops.relu(_normed(ops, p, "images", ops.conv2d(x, p["first"], padding=1)))
    return ops.linear(_normed(ops, p, "vectors", ops.linear(ops.flatten(x), p["wide"])), p["last"])


def _relu(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: Network) -> Tensor:
    x = ops.relu(ops.conv2d(x, p["first"], padding=1))
    return ops.linear(ops.relu(ops.linear(ops.flatten(x), p["wide"])), p["last"])


def _pool(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: Network) -> Tensor:
    return ops.linear(ops.global_average_pool(ops.conv2d(x, p["first"], padding=1)), p["last"])


def _add(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: Network) -> Tensor:
    x = ops.conv2d(x, p["first"], padding=1)
    x = ops.add(x, ops.relu(ops.conv2d(x, p["second"], padding=1)))
    return ops.linear(ops.global_average_pool(ops.add(x, x)), p["last"])


def _flatten(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: Network) -> Tensor:
    return ops.linear(ops.flatten(ops.conv2d(x, p["first"], padding=1)), p["flat"])


def _tied(ops: Operations, p: Mapping[str, Tensor], x: Tensor, network: Network) -> Tensor:
    # the same values in two tensors, and most values at several positions of each
    x = ops.conv2d(x, ops.tied(p["values"], (4, 2, 3, 3), 12**16), padding=1)
    x = ops.conv2d(x, ops.tied(p["values"], (4, 4, 3, 2), 5), stride=network.stride, padding=network.padding)
    return ops.linear(ops.global_average_pool(x), ops.tied(p["last"], (CLASSES, 4), 7**21))


_NETWORKS: Mapping[str, tuple[tuple[Parameter, ...], Forward]] = MappingProxyType(
    {
        "linear": ((_weight("hidden", 4, 72), _weight("bias", 4), _weight("top", CLASSES, 4)), _linear),
        "conv2d": ((_FIRST, _weight("second", 4, 4, 3, 3), _LAST), _conv2d),
        "batch-norm": (
            (_FIRST, *_norm("images", 4), _weight("wide", 4, 144), *_norm("vectors", 4), _LAST),
            _batch_norm,
        ),
        "relu": ((_FIRST, _weight("wide", 4, 144), _LAST), _relu),
        "global-average-pool": ((_FIRST, _LAST), _pool),
        "add": ((_FIRST, _weight("second", 4, 4, 3, 3), _LAST), _add),
        "flatten": ((_FIRST, _weight("flat", CLASSES, 144)), _flatten),
        "tied": ((_weight("values", 23), _weight("last", 5)), _tied),
    }
)

OPERATIONS = tuple(_NETWORKS)
