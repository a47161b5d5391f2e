"""The metrics of a topology and of an update, by name."""

from collections.abc import Mapping

import numpy as np

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology


def topology_metrics(topology: Topology) -> dict[str, float]:
    """Return the sparsity and the density of each tensor.

    Args:
        topology: the active positions.

    Returns:
        Shares in [0, 1]: ``sparsity``, and ``density/NAME`` for each tensor.
    """
    columns = zip(topology.layout.names, topology.counts, topology.layout.sizes, strict=True)
    densities = {f"density/{name}": int(count) / size for name, count, size in columns}
    return {"sparsity": topology.sparsity, **densities}


def update_metrics(
    reallocation: Reallocation, reported: Mapping[str, float], *, regrow_pruned: bool
) -> dict[str, float]:
    """Return the metrics of an update.

    Args:
        reallocation: the update.
        reported: the metrics that the strategies reported before it, by 'strategy.metric'.
        regrow_pruned: whether what was pruned in it may have grown again in it.

    Returns:
        ``pruned`` and ``grown``, numbers of weights; ``overlap``, of :func:`overlap`; and what was reported.
    """
    moved = {"pruned": float(reallocation.pruned_count), "grown": float(reallocation.grown.sum())}
    return {**moved, "overlap": overlap(reallocation, regrow_pruned=regrow_pruned), **reported}


def overlap(reallocation: Reallocation, *, regrow_pruned: bool) -> float:
    """Return how much of the topology an update has left in place, in [0, 1].

    Args:
        reallocation: the update.
        regrow_pruned: whether what was pruned in it may have grown again in it.

    Returns:
        The number of positions that are active before and after it, divided by that of the positions that are active
        before or after it (the Jaccard index of the two topologies).
    """
    in_both = reallocation.before.size - reallocation.pruned_count
    if regrow_pruned:
        to_numpy = reallocation.before.arrays.to_numpy
        pruned, grown = to_numpy(reallocation.pruned_positions), to_numpy(reallocation.grown_positions)
        in_both += len(np.intersect1d(pruned, grown, assume_unique=True))
    return in_both / (reallocation.before.size + reallocation.after.size - in_both)
