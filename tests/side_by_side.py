"""Runs of one experiment on several backends in this process, step by step."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from numpy.typing import NDArray

from sparsecore.clock import Clock
from sparsecore.data.batches import batches
from sparsecore.data.images import Batch
from sparsecore.engine import Advance
from sparsecore.learning import Learner
from sparsecore.run.setup import Setup
from sparsecore.state import State
from sparsecore.topology import Topology


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
        self.learner.reset_totals()
        self.learner.train(batch, learning_rate)
        values = self.learner.values
        advance = self.setup.engine.advance(self.state, values, learning_rate)
        self.state = advance.state
        if advance.reallocation is not None:
            self.learner.reallocate(advance.reallocation)
        return self.learner.totals().loss / len(batch), advance

    def take_up(self, other: "Running", buffers: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where the other one, on NumPy, is; ``buffers`` are its learner's, as they are called here."""
        arrays, there = self.setup.engine.arrays, other.state.topology
        topology = Topology.of(there.layout, arrays.from_numpy(there.positions), arrays)
        self.state = attrs.evolve(other.state, topology=topology)
        self.learner.load_state(topology, buffers)
