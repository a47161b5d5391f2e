"""Tasks for a learner, and what can be seen of it from outside: its values before and after a step."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.arrays import Array, Counts
from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.learning.parameters import Constant, HeNormal, Parameter
from sparsecore.learning.protocols import Adam, AdamW, Backend, Learner, Operations, Optimizer, Sgd, Task, Tensor
from sparsecore.run.initialization import RandomInitialization
from sparsecore.testing.promises import BrokenError, NotJudgedError
from sparsecore.testing.stacks import RandomPruning

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


def guarded(check: Callable[..., None]) -> Callable[..., None]:
    """The check, with every error told as a broken promise."""

    def checked(*given: Any) -> None:
        try:
            check(*given)
        except (BrokenError, NotJudgedError):
            raise
        except Exception as error:
            raise BrokenError(f"{type(error).__name__}: {error}") from error

    return checked


PLAIN = Sgd(momentum=0.0, nesterov=False)
"""With a learning rate of 1, a step is the gradient."""

Host = NDArray[Any]


@attrs.frozen
class Exercise:
    """A network, its optimizer, and the seed of everything that is drawn.

    Attributes:
        network: the model.
        optimizer: the update rule.
        sparsity: of its weights.
        seed: of topology, values and batches.
    """

    network: Network
    optimizer: Optimizer = Sgd()
    sparsity: float = 0.3
    seed: int = 0

    def engine(self, backend: Backend) -> Engine:
        """An engine that moves a third of the weights at random, whatever their values; or has half of them go."""
        shapes = {p.name: p.shape for p in self.network.parameters(SHAPE, CLASSES) if p.sparse}
        stack = [RandomPruning(), _Regrowth(0.5 if self.seed % 2 else 1.0)]
        return Engine(Layout.of(shapes), stack, arrays=backend.arrays, seed=self.seed, regrow_pruned=True)

    def start(self, backend: Backend) -> State:
        """The state before the first step."""
        return self.engine(backend).start(self.sparsity)

    def values(self, topology: Topology) -> Host:
        """The values to start with."""
        return RandomInitialization(self.seed).sparse_values(topology, self.network.parameters(SHAPE, CLASSES))

    def learner(
        self,
        backend: Backend,
        values: Host | None = None,
        topology: Topology | None = None,
        dense: Mapping[str, Host] | None = None,
        **of: Any,
    ) -> Learner:
        """The network before the first step, with these values or its own.

        Args:
            backend: what computes.
            values: one a weight; those to start with, where it is None.
            topology: the active positions, on the backend; those of the start, where it is None.
            dense: the other parameters; those to start with, where it is None.
            of: attributes of the exercise to replace.
        """
        exercise = attrs.evolve(self, **of)
        topology = topology or exercise.start(backend).topology
        host = exercise.values(topology) if values is None else values
        parameters = exercise.network.parameters(SHAPE, CLASSES)
        others = [p for p in parameters if not p.sparse]
        start = {p.name: np.full(p.shape, float(p.name.endswith("variance"))) for p in others}
        return backend.learner(
            Task(
                model=exercise.network,
                parameters=parameters,
                other_parameters=start if dense is None else dense,
                topology=topology,
                values=backend.arrays.from_numpy(host.astype(backend.dtype)),
                images=images(),
                optimizer=exercise.optimizer,
            )
        )

    def batch(self, number: int = 0, *, varied: bool = False) -> Batch:
        """The batch of a step; cropped and mirrored, where it is varied."""
        draws = np.random.default_rng([self.seed, number])
        rows = draws.choice(len(images().train), 8, replace=False).astype(np.int64)
        shifts = draws.integers(0, 3, (8, 2)) if varied else np.zeros((8, 2), np.int64)
        return Batch(rows, shifts, (draws.random(8) < 0.5) & varied, int(varied))


@attrs.frozen(eq=False)
class _Regrowth:
    """A share of what was pruned grows again."""

    share: float

    @hookimpl
    def target_size(self, topology: Topology, survivors: Counts) -> int:
        """The survivors and the share of the others."""
        left = int(survivors.sum())
        return left + int(self.share * (topology.size - left))


@cache
def images() -> Images:
    """Three classes, each bright in a place of its own."""
    draws = np.random.default_rng(7)
    labels = np.arange(30) % CLASSES
    pictures = draws.integers(0, 120, (30, *SHAPE), dtype=np.uint8)
    for label in range(CLASSES):
        pictures[labels == label, 2 * label : 2 * label + 2] += np.uint8(120)
    return Images(Split(pictures[:21], labels[:21]), Split(pictures[21:], labels[21:]), CLASSES)


def exercises(operation: str | None = None) -> SearchStrategy[Exercise]:
    """Networks of this operation, or of any."""
    return _drawn(operation)


@st.composite
def _drawn(draw: DrawFn, operation: str | None) -> Exercise:
    network = Network(operation or draw(st.sampled_from(OPERATIONS)), draw(st.integers(1, 2)), draw(st.integers(0, 2)))
    rules: list[Optimizer] = [
        Sgd(weight_decay=0.01),
        Sgd(momentum=0.8, nesterov=False),
        Adam(betas=(0.8, 0.95), epsilon=1e-2, weight_decay=0.01),
        AdamW(betas=(0.8, 0.95), epsilon=1e-2, weight_decay=0.1),
    ]
    return Exercise(
        network, draw(st.sampled_from(rules)), draw(st.sampled_from([0.3, 0.0, 0.7])), draw(st.integers(0, 999))
    )


def host(backend: Backend, array: Array) -> Host:
    """A copy of the entries, in double precision."""
    return np.array(backend.arrays.to_numpy(array), np.float64)


def gradient(
    exercise: Exercise, backend: Backend, values: Host, batch: Batch, topology: Topology | None = None
) -> Host:
    """The gradient of the batch's loss at these values, by a step of length 1 against it."""
    learner = exercise.learner(backend, values, topology, optimizer=PLAIN)
    before = host(backend, learner.values)
    learner.train(batch, 1.0)
    return before - host(backend, learner.values)


def loss(exercise: Exercise, backend: Backend, values: Host, batch: Batch) -> float:
    """The mean loss of the batch in training, by a step of length 0."""
    learner = exercise.learner(backend, values, optimizer=PLAIN)
    learner.train(batch, 0.0)
    totals = learner.totals()
    return totals.loss / totals.examples


def moved(exercise: Exercise, backend: Backend, state: State, values: Array) -> tuple[State, Reallocation]:
    """An update, on the backend."""
    return exercise.engine(backend).update(state, values)


def distance(one: Host, other: Host) -> float:
    """The largest difference, relative to the largest number (or to 1e-6, where all are next to nothing)."""
    scale = max(float(np.abs(other).max(initial=0)), 1e-6)
    return float(np.abs(one - other).max(initial=0)) / scale
