"""Runs of one experiment on several backends in this process, step by step.

What two backends have in common in single precision, on every processor: from equal states a step gives losses and
values that are equal within rounding; from equal values all decisions are equal, position for position. Decisions of
values that differ by a rounding may differ for the weights whose two values lie on both sides of a threshold.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.batches import batches
from sparsecore.data.images import Batch
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.engine.step import Advance
from sparsecore.engine.topology import Topology
from sparsecore.learning.protocols import Learner
from sparsecore.run.setup import Setup


def plan(setup: Setup) -> Iterator[tuple[Batch, float]]:
    """The batches of the run and their learning rates."""
    clock: Clock = setup.start.clock
    training = setup.experiment.training
    while not clock.has_ended:
        epoch = clock.step // clock.steps_per_epoch
        examples = len(setup.images.train)
        for batch in batches(setup.engine.random, epoch, examples, training.batch_size, setup.augmentation):
            yield batch, training.learning_rate(clock)
            clock = clock.tick()


@attrs.define(eq=False)
class Running:
    """A run in this process."""

    setup: Setup
    learner: Learner
    state: State

    @classmethod
    def of(cls, setup: Setup) -> "Running":
        return cls(setup, setup.learner(), setup.start)

    def step(self, batch: Batch, learning_rate: float) -> tuple[float, Advance]:
        """The loss, and what the engine did."""
        self.train(batch, learning_rate)
        return self.loss, self.advance(learning_rate)

    def train(self, batch: Batch, learning_rate: float) -> None:
        """A step of the optimizer alone."""
        self.learner.reset_totals()
        self.learner.train(batch, learning_rate)

    @property
    def loss(self) -> float:
        """The mean over the batch."""
        totals = self.learner.totals()
        return totals.loss / totals.examples

    def advance(self, learning_rate: float) -> Advance:
        """What the engine does after the step."""
        advance = self.setup.engine.advance(self.state, self.learner.values, learning_rate)
        self.state = advance.state
        if advance.reallocation is not None:
            self.learner.reallocate(advance.reallocation)
        return advance

    def take_up(self, other: "Running", buffers: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where the other one, on NumPy, is; ``buffers`` are its learner's, as they are called here."""
        arrays, there = self.setup.engine.arrays, other.state.topology
        topology = Topology.of(there.layout, arrays.from_numpy(there.positions), arrays)
        self.state = attrs.evolve(other.state, topology=topology)
        self.learner.load_state(topology, buffers)

    def decided(self, values: NDArray[Any], learning_rate: float) -> Advance:
        """What the engine does with other values in this state, which stays as it is."""
        arrays = self.setup.engine.arrays
        return self.setup.engine.advance(self.state, arrays.from_numpy(values), learning_rate)


def assert_equal_decisions(one: Advance, other: Advance) -> None:
    """Position for position: what was pruned, what has grown, and what the strategies remember."""
    assert other.state.strategy_states == one.state.strategy_states
    assert other.state.topology.sha256() == one.state.topology.sha256()
    assert (one.reallocation is None) == (other.reallocation is None)
    if one.reallocation is not None and other.reallocation is not None:
        np.testing.assert_array_equal(_host(other, other.reallocation.survives), one.reallocation.survives)


def assert_close_to_the_threshold(one: Advance, other: Advance, threshold: float, values: list[NDArray[Any]]) -> None:
    """Few weights are pruned by only one of them: those whose two values lie on both sides of the threshold.

    Args:
        one: an update on NumPy.
        other: the same on another backend, of values that differ by rounding.
        threshold: below which a weight was pruned.
        values: the values that each of them saw.
    """
    assert one.reallocation is not None
    assert other.reallocation is not None
    survives = one.reallocation.survives
    differ = np.flatnonzero(survives != _host(other, other.reallocation.survives))
    assert len(differ) <= one.reallocation.pruned_count / 100
    magnitudes = np.abs(np.stack(values))[:, differ]
    assert np.all(magnitudes.min(axis=0) < threshold)
    assert np.all(magnitudes.max(axis=0) >= threshold)


def _host(advance: Advance, array: Any) -> NDArray[Any]:
    return np.asarray(advance.state.topology.arrays.to_numpy(array))
