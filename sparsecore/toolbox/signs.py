"""Fixed signs of connections, and the noise that moves their weights (DeepR)."""

import numpy as np

from sparsecore.engine.arrays import Array
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Topology


def fixed_signs(topology: Topology, random: Randomness) -> Array:
    """Return a fair sign for each weight, int8; it depends on seed, tensor and position alone, not on the time."""
    layout, positions = topology.layout, topology.host_positions.astype(np.int64)
    signs = [
        random.root.signs_at(positions[topology.slots(name)] - offset, "deepr signs", name)
        for name, offset in zip(layout.names, layout.offsets, strict=False)
    ]
    return topology.arrays.from_numpy(np.concatenate(signs))


def gaussian_noise(topology: Topology, random: Randomness) -> Array:
    """Draw ν ~ N(0, 1), float32, one a weight."""
    names = zip(topology.layout.names, topology.counts, strict=True)
    drawn = [random.generator("noise", name).standard_normal(count, np.float32) for name, count in names]
    return topology.arrays.from_numpy(np.concatenate(drawn))
