"""Tasks for a learner, and what can be seen of it from outside: its values before and after a step."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from sparsecore.arrays import Array
from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine import Engine
from sparsecore.hooks import hookimpl
from sparsecore.layout import Layout
from sparsecore.learning import Adam, AdamW, Backend, Learner, Optimizer, Sgd, Task
from sparsecore.reallocation import Reallocation
from sparsecore.run.initial import Draws
from sparsecore.shares import Counts
from sparsecore.state import State
from sparsecore.testing.backend_promises.networks import CLASSES, OPERATIONS, SHAPE, Network
from sparsecore.testing.pruning import RandomPruning
from sparsecore.topology import Topology

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
        return Draws(self.seed).sparse(topology, self.network.parameters(SHAPE, CLASSES))

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
                dense=start if dense is None else dense,
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
