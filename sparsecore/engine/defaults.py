"""The plugin at the bottom of every stack: what happens where no strategy decides."""

import attrs

from sparsecore.engine import growth
from sparsecore.engine.arrays import Array, Arrays
from sparsecore.engine.distributions import uniform
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.layout import Layout
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.shares import Counts, shares
from sparsecore.engine.topology import Topology


@attrs.frozen(eq=False)
class Base:
    """Uniform start, an update every 100 steps, nothing pruned, proportional shares, random growth, zero values."""

    schedule: Every = Every(steps=100)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology:
        """⌊(1-s)·D_i⌋ random positions in every tensor."""
        return growth.random_topology(layout, uniform(layout, sparsity), random, arrays)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Every 100 steps."""
        return self.schedule(clock)

    @hookimpl
    def replaces_step(self) -> bool:
        """The optimizer's step is always taken."""
        return False

    @hookimpl
    def target_size(self, topology: Topology) -> int:
        """As many weights as before."""
        return topology.size

    @hookimpl
    def perturb(self, values: Array) -> Array:
        """The values as they are."""
        return values

    @hookimpl
    def prune(self, topology: Topology) -> Array:
        """All survive."""
        return topology.all()

    @hookimpl
    def start_values(self, values: Array) -> Array:
        """The values as they are."""
        return values

    @hookimpl
    def allocate(self, total: int, survivors: Counts, room: Counts) -> Counts:
        """l_i·K/L, exactly."""
        return shares(total, survivors, room)

    @hookimpl
    def grow(self, occupied: Topology, counts: Counts, random: Randomness) -> Array:
        """Uniformly random free positions."""
        return growth.random_free_positions(occupied, counts, random)

    @hookimpl
    def initial_values(self, grown: Topology, values: Array) -> Array:
        """Zero."""
        return grown.arrays.zeros_like(values, grown.size)
