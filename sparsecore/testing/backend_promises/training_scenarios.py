"""Training scenarios: small networks for a learner, and its gradients as seen from the values after a step."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.arrays import Array, Counts
from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.parameters import Constant, HeNormal, Parameter
from sparsecore.learning.protocols import Adam, AdamW, Backend, Learner, Operations, Optimizer, Sgd, Task, Tensor
from sparsecore.testing.promises import BrokenPromiseError, InconclusiveError
from sparsecore.testing.subjects import RandomPruning

HostArray: TypeAlias = NDArray[Any]

SHAPE = (6, 6, 2)
"""Height, width and channels of the images."""

CLASSES = 3

_Forward: TypeAlias = Callable[[Operations, Mapping[str, Tensor], Tensor, "SmallNetwork"], Tensor]


@attrs.frozen
class SmallNetwork:
    """A small network for one operation of a backend.

    Attributes:
        operation: the name of the operation.
        stride: the stride of its convolution.
        padding: the padding of its convolution.
        dense: the name of a parameter that is not sparse; empty if there is none.
    """

    operation: str
    stride: int = 1
    padding: int = 1
    dense: str = ""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:  # noqa: ARG002
        """Return the parameters of the operation and of the layers around it."""
        known = _NETWORKS[self.operation][0]
        return tuple(attrs.evolve(p, sparse=p.sparse and p.name != self.dense) for p in known)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the logits, of shape (batch, classes)."""
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


def _linear(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: SmallNetwork) -> Tensor:
    return ops.linear(ops.linear(ops.flatten(x), p["hidden"], p["bias"]), p["top"])


def _conv2d(ops: Operations, p: Mapping[str, Tensor], x: Tensor, network: SmallNetwork) -> Tensor:
    x = ops.conv2d(x, p["first"], padding=1)
    x = ops.conv2d(x, p["second"], stride=network.stride, padding=network.padding)
    return ops.linear(ops.global_average_pool(x), p["last"])


def _batch_norm(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: SmallNetwork) -> Tensor:
    x = ops.relu(_normed(ops, p, "images", ops.conv2d(x, p["first"], padding=1)))
    return ops.linear(_normed(ops, p, "vectors", ops.linear(ops.flatten(x), p["wide"])), p["last"])


def _relu(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: SmallNetwork) -> Tensor:
    x = ops.relu(ops.conv2d(x, p["first"], padding=1))
    return ops.linear(ops.relu(ops.linear(ops.flatten(x), p["wide"])), p["last"])


def _pool(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: SmallNetwork) -> Tensor:
    return ops.linear(ops.global_average_pool(ops.conv2d(x, p["first"], padding=1)), p["last"])


def _add(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: SmallNetwork) -> Tensor:
    x = ops.conv2d(x, p["first"], padding=1)
    x = ops.add(x, ops.relu(ops.conv2d(x, p["second"], padding=1)))
    return ops.linear(ops.global_average_pool(ops.add(x, x)), p["last"])


def _flatten(ops: Operations, p: Mapping[str, Tensor], x: Tensor, _: SmallNetwork) -> Tensor:
    return ops.linear(ops.flatten(ops.conv2d(x, p["first"], padding=1)), p["flat"])


def _tied(ops: Operations, p: Mapping[str, Tensor], x: Tensor, network: SmallNetwork) -> Tensor:
    # the same values in two tensors, and most values at several positions of each
    x = ops.conv2d(x, ops.tied(p["values"], (4, 2, 3, 3), 12**16), padding=1)
    x = ops.conv2d(x, ops.tied(p["values"], (4, 4, 3, 2), 5), stride=network.stride, padding=network.padding)
    return ops.linear(ops.global_average_pool(x), ops.tied(p["last"], (CLASSES, 4), 7**21))


_NETWORKS: Mapping[str, tuple[tuple[Parameter, ...], _Forward]] = MappingProxyType(
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


def errors_break_promise(check: Callable[..., None]) -> Callable[..., None]:
    """Decorate a check so that every error that it raises is a broken promise.

    Args:
        check: takes the subject and an example.

    Returns:
        A function of the same arguments that raises :class:`BrokenPromiseError` in place of any other Exception;
        :class:`InconclusiveError` is passed on.
    """

    def wrapped(*given: Any) -> None:
        try:
            check(*given)
        except (BrokenPromiseError, InconclusiveError):
            raise
        except Exception as error:
            raise BrokenPromiseError(f"{type(error).__name__}: {error}") from error

    return wrapped


PLAIN_SGD = Sgd(momentum=0.0, nesterov=False)
"""SGD whose step with learning rate 1 is the gradient."""


@attrs.frozen
class TrainingScenario:
    """A network to train: an example for the promises of a learner.

    Attributes:
        network: the model.
        optimizer: the update rule.
        sparsity: the sparsity of the start, in [0, 1).
        seed: the seed of the topology, the values and the batches.
        young: what weights get that have grown recently.
    """

    network: SmallNetwork
    optimizer: Optimizer = Sgd()
    sparsity: float = 0.3
    seed: int = 0
    young: YoungWeights = YoungWeights()

    def engine(self, backend: Backend) -> Engine:
        """Return an engine that prunes a random third of the weights, and grows as many (even seed) or half as many.

        Args:
            backend: the backend whose arrays hold the positions.
        """
        shapes = {p.name: p.shape for p in self.network.parameters(SHAPE, CLASSES) if p.sparse}
        stack = [RandomPruning(), _Regrowth(0.5 if self.seed % 2 else 1.0)]
        return Engine(Layout.of(shapes), stack, arrays=backend.arrays, seed=self.seed, regrow_pruned=True)

    def start(self, backend: Backend) -> State:
        """Return the engine's state before the first step."""
        return self.engine(backend).start(self.sparsity)

    def values(self, topology: Topology) -> HostArray:
        """Return the initial values of the sparse tensors.

        Args:
            topology: the N active positions.

        Returns:
            float64, (N,), on the host; each depends on its position and the seed alone.
        """
        sparse = {p.name: p for p in self.network.parameters(SHAPE, CLASSES) if p.sparse}
        random = Randomness(self.seed)
        return np.concatenate(
            [
                sparse[name].initial(sparse[name].shape, topology.local(name), random.child("initial values", name))
                for name in topology.layout.names
            ]
        )

    def learner(
        self,
        backend: Backend,
        values: HostArray | None = None,
        topology: Topology | None = None,
        dense: Mapping[str, HostArray] | None = None,
        **replaced: Any,
    ) -> Learner:
        """Make a learner of the network.

        Args:
            backend: the backend.
            values: one value for each weight; None for the initial ones.
            topology: the active positions, on the backend; None for those of the start.
            dense: the parameters that are not sparse, by name; None for the initial ones.
            replaced: attributes of the scenario to replace.
        """
        scenario = attrs.evolve(self, **replaced)
        topology = topology or scenario.start(backend).topology
        host = scenario.values(topology) if values is None else values
        parameters = scenario.network.parameters(SHAPE, CLASSES)
        others = [p for p in parameters if not p.sparse]
        start = {p.name: np.full(p.shape, float(p.name.endswith("variance"))) for p in others}
        return backend.learner(
            Task(
                model=scenario.network,
                parameters=parameters,
                other_parameters=start if dense is None else dense,
                topology=topology,
                values=backend.arrays.from_numpy(host.astype(backend.dtype)),
                images=images(),
                optimizer=scenario.optimizer,
                young=scenario.young,
            )
        )

    def batch(self, number: int = 0, *, varied: bool = False) -> Batch:
        """Return the batch of a step.

        Args:
            number: the number of the step.
            varied: whether its images are cropped and mirrored.
        """
        draws = np.random.default_rng([self.seed, number])
        rows = draws.choice(len(images().train), 8, replace=False).astype(np.int64)
        shifts = draws.integers(0, 3, (8, 2)) if varied else np.zeros((8, 2), np.int64)
        return Batch(rows, shifts, (draws.random(8) < 0.5) & varied, int(varied))


@attrs.frozen(eq=False)
class _Regrowth:
    """Grows fewer weights than were pruned.

    Attributes:
        fraction: how many of the pruned weights grow again, in [0, 1].
    """

    fraction: float

    @hookimpl
    def target_size(self, topology: Topology, survivors: Counts) -> int:
        """Return the number of survivors and of the weights that grow again."""
        left = int(survivors.sum())
        return left + int(self.fraction * (topology.size - left))


@cache
def images() -> Images:
    """Return small images of three classes, each of which is bright in rows of its own."""
    draws = np.random.default_rng(7)
    labels = np.arange(30) % CLASSES
    pictures = draws.integers(0, 120, (30, *SHAPE), dtype=np.uint8)
    for label in range(CLASSES):
        pictures[labels == label, 2 * label : 2 * label + 2] += np.uint8(120)
    return Images(Split(pictures[:21], labels[:21]), Split(pictures[21:], labels[21:]), CLASSES)


def training_scenarios(operation: str | None = None) -> SearchStrategy[TrainingScenario]:
    """Draw training scenarios.

    Args:
        operation: the operation of the network; None for any.
    """
    return _drawn(operation)


@st.composite
def _drawn(draw: DrawFn, operation: str | None) -> TrainingScenario:
    network = SmallNetwork(
        operation or draw(st.sampled_from(OPERATIONS)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    )
    rules: list[Optimizer] = [
        Sgd(weight_decay=0.01),
        Sgd(momentum=0.8, nesterov=False),
        Adam(betas=(0.8, 0.95), epsilon=1e-2, weight_decay=0.01),
        AdamW(betas=(0.8, 0.95), epsilon=1e-2, weight_decay=0.1),
    ]
    return TrainingScenario(
        network, draw(st.sampled_from(rules)), draw(st.sampled_from([0.3, 0.0, 0.7])), draw(st.integers(0, 999))
    )


def to_host(backend: Backend, array: Array) -> HostArray:
    """Return a copy of a backend's array in float64.

    Args:
        backend: the backend that the array is of.
        array: of any dtype that float64 holds exactly.
    """
    return np.array(backend.arrays.to_numpy(array), np.float64)


def gradient(
    scenario: TrainingScenario, backend: Backend, values: HostArray, batch: Batch, topology: Topology | None = None
) -> HostArray:
    """Return the gradient of a batch's loss, as the difference that a step of learning rate 1 makes.

    Args:
        scenario: the network.
        backend: the backend that computes.
        values: one value for each weight, where the gradient is computed.
        batch: the batch.
        topology: the active positions, on the backend; None for those of the start.

    Returns:
        One entry for each weight, in float64.
    """
    learner = scenario.learner(backend, values, topology, optimizer=PLAIN_SGD)
    before = to_host(backend, learner.values)
    learner.train(batch, 1.0)
    return before - to_host(backend, learner.values)


def loss(scenario: TrainingScenario, backend: Backend, values: HostArray, batch: Batch) -> float:
    """Return the mean loss of a batch in training, by a step of learning rate 0.

    Args:
        scenario: the network.
        backend: the backend that computes.
        values: one value for each weight.
        batch: the batch.
    """
    learner = scenario.learner(backend, values, optimizer=PLAIN_SGD)
    learner.train(batch, 0.0)
    totals = learner.totals()
    return totals.loss / totals.examples


def reallocate_once(
    scenario: TrainingScenario, backend: Backend, state: State, values: Array
) -> tuple[State, Reallocation]:
    """Perform an update on a backend.

    Args:
        scenario: the strategies and the seed.
        backend: the backend.
        state: the engine's state before the update.
        values: one value for each weight, on the backend.

    Returns:
        The state after the update, and the reallocation.
    """
    return scenario.engine(backend).update(state, values)


def relative_error(one: HostArray, other: HostArray) -> float:
    """Return the largest difference between two arrays, relative to the largest entry of the second.

    Args:
        one: the result under test.
        other: the expected result, of the same shape.

    Returns:
        max|one - other| / max(max|other|, 1e-6); 0 for empty arrays.
    """
    scale = max(float(np.abs(other).max(initial=0)), 1e-6)
    return float(np.abs(one - other).max(initial=0)) / scale
