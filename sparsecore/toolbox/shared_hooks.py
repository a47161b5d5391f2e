"""Hooks that many strategies have in common: a strategy takes one by its name, as in ``allocate = as_many_as_lost``."""

from sparsecore.engine.arrays import Array, Counts
from sparsecore.engine.growth import shares
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.topology import Topology


@hookimpl
def as_many_as_lost(self: object, total: int, pruned: Counts, room: Counts) -> Counts:  # noqa: ARG001
    """Grow as many weights in each tensor as it has lost; for ``allocate``.

    Args:
        self: the strategy.
        total: how many weights grow in all.
        pruned: how many each tensor has lost.
        room: how many can grow in each tensor.

    Returns:
        int64, one number a tensor; ``total`` together. What a tensor has no room for grows in others.
    """
    return shares(total, pruned, room)


@hookimpl
def all_keep_values(self: object, topology: Topology) -> Array:  # noqa: ARG001
    """Let all weights that are dropped and grown again in one update keep value and momentum; for ``keep_regrown``.

    Args:
        self: the strategy.
        topology: the weights before the update.

    Returns:
        True for each weight, (N,).
    """
    return topology.all()
