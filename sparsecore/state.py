"""The engine's state, as data."""

import attrs

from sparsecore.clock import Clock
from sparsecore.memory import Memories
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class State:
    """All that the engine knows at a moment, but for the values, which the backend's learner holds.

    Attributes:
        topology: the active positions.
        memories: what each strategy remembers.
        clock: the time.
    """

    topology: Topology
    memories: Memories
    clock: Clock
