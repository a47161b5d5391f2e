"""Pruning to test other steps with."""

import attrs
import numpy as np

from sparsecore.arrays import Array
from sparsecore.hooks import hookimpl
from sparsecore.randomness import Randomness
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class RandomPruning:
    """A third of each tensor's weights goes, drawn by the tensor's name, whatever their values."""

    @hookimpl
    def prune(self, topology: Topology) -> Array:
        """Two of three stay, the same for every seed and in every update: what grows then differs by growth alone."""
        names, random = zip(topology.layout.names, topology.counts, strict=True), Randomness(0)
        stays = [random.generator("the kit's pruning", name).random(count) > 1 / 3 for name, count in names]
        return topology.arrays.from_numpy(np.concatenate(stays))
