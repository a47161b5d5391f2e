"""Layers as bipartite graphs (Zhang et al. 2025): receptive fields to start with, and link prediction by CH2-L3n.

The nodes of a tensor's graph are its outputs, the first side, and its inputs, all other sides together: of a
convolution each input channel at each kernel position is an input. The links are the active weights.
"""

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.strategy import Counts, Layout, Randomness, Topology, draw_ranks

_CHUNK = 1 << 20
"""How many entries the temporary matrices have, besides those with an entry for each pair of linked nodes."""


def receptive_fields(layout: Layout, counts: Counts, randomness: float, random: Randomness) -> list[NDArray[np.int64]]:
    """Draw the links of every tensor by the bipartite receptive field model (BRF with a fixed degree of the outputs).

    The outputs of a tensor have equally many links, or differ by one. Inputs and outputs lie on a ring, and an output
    draws its inputs one after the other with probabilities in proportion to (1+d)^-((1-r)/r), where d is the distance
    of the input from the output's place. A vector, or a tensor of one output, has uniformly random positions.

    Args:
        layout: the tensors.
        counts: how many links each tensor has, at most its positions.
        randomness: r, from 0, the nearest inputs alone, to 1, where all inputs are equally likely.
        random: the random numbers of the start; the draw of each tensor is keyed by its name.

    Returns:
        For each tensor its positions, ascending, counted from its first one.
    """
    return [
        _receptive_fields(*_sides(shape), int(count), randomness, random.generator("receptive fields", name))
        for name, shape, count in zip(layout.names, layout.shapes, counts, strict=True)
    ]


def _receptive_fields(
    outputs: int, inputs: int, count: int, randomness: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    if outputs == 1:
        return draw_ranks(generator, inputs, count)
    degrees = np.full(outputs, count // outputs)
    degrees[generator.choice(outputs, count % outputs, replace=False)] += 1
    rows = max(1, _CHUNK // inputs)
    found = []
    for first in range(0, outputs, rows):
        chunk = np.arange(first, min(first + rows, outputs))
        order = np.argsort(_arrivals(chunk, outputs, inputs, randomness, generator), axis=1, kind="stable")
        chosen = np.zeros(order.shape, np.bool_)
        np.put_along_axis(chosen, order, np.arange(inputs) < degrees[chunk, None], axis=1)
        found.append(np.flatnonzero(chosen) + first * inputs)
    return np.concatenate(found)


def _arrivals(
    rows: NDArray[np.int64], outputs: int, inputs: int, randomness: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return when each input is drawn by these outputs, as numbers of which the smallest come first."""
    centers = (rows[:, None] + 0.5) * (inputs / outputs) - 0.5
    offsets = abs(np.arange(inputs) - centers)
    distances = np.minimum(offsets, inputs - offsets)
    if randomness == 0:
        return np.asarray(distances)
    # the order of exponential times with these rates is that of draws without replacement
    waiting = np.log(generator.standard_exponential(distances.shape))
    return np.asarray(waiting + (1 - randomness) / randomness * np.log1p(distances))


@attrs.frozen(eq=False)
class Predictions:
    """The scores of a tensor's free positions that have one above zero.

    Attributes:
        positions: counted from the tensor's first one, ascending, int64.
        scores: float64 whole numbers above zero, in proportion to CH2-L3n.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]


def predicted_links(kept: Topology, occupied: Topology, name: str) -> Predictions:
    """Score the free positions of a tensor by CH2-L3n, the node-based Cannistraci-Hebb index on paths of length three.

    The score of an output u and an input v that are not linked is the sum of (1 + i_z) / (1 + e_z) over all nodes z
    inside a path of three links from u to v: i_z is the number of z's links to other such nodes, e_z that of its links
    to anything else, except to u and v. Each summand is rounded to a multiple of one small number, so that the sums are
    exact in any order, and so the same on every processor.

    It takes about 4·n·m·(n+m) multiplications for n outputs and m inputs that have links, and temporary matrices with
    an entry for each pair of these.

    Args:
        kept: the links of the graph.
        occupied: the positions that are not free; all of ``kept`` among them.
        name: the tensor.

    Returns:
        The free positions with a score above zero.
    """
    outputs, inputs = _sides(kept.layout.shapes[kept.layout.index(name)])
    linked = local_positions(kept, name)
    if outputs == 1 or inputs == 1 or not len(linked):
        return Predictions(np.empty(0, np.int64), np.empty(0, np.float64))
    rows, columns = np.divmod(linked, inputs)
    (linked_rows, row), (linked_columns, column) = (np.unique(nodes, return_inverse=True) for nodes in (rows, columns))
    links = np.zeros((len(linked_rows), len(linked_columns)))
    links[row, column] = 1
    scores = ch2_l3n(links)
    taken_rows, taken_columns = np.divmod(local_positions(occupied, name), inputs)
    between = np.isin(taken_rows, linked_rows) & np.isin(taken_columns, linked_columns)
    row, column = (
        np.searchsorted(nodes, taken[between])
        for nodes, taken in ((linked_rows, taken_rows), (linked_columns, taken_columns))
    )
    scores[row, column] = 0
    row, column = np.nonzero(scores)
    return Predictions(linked_rows[row] * inputs + linked_columns[column], scores[row, column])


def local_positions(topology: Topology, name: str) -> NDArray[np.int64]:
    """Return a tensor's active positions, counted from its first one; a device is waited for once a topology.

    Args:
        topology: the active positions.
        name: the tensor.

    Returns:
        int64, ascending, (N_i,).
    """
    offset = topology.layout.offsets[topology.layout.index(name)]
    return topology.host_positions[topology.slots(name)].astype(np.int64) - offset


def ch2_l3n(links: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CH2-L3n for each pair of an output and an input, up to one common factor.

    Args:
        links: (outputs, inputs), 1 where there is a link, else 0; every node has a link.

    Returns:
        float64 whole numbers, (outputs, inputs); at links they mean nothing.
    """
    degrees = links.sum(1), links.sum(0)
    most = [int(each.max()) for each in degrees]
    # so that the largest possible sum is below 2⁵³, up to which whole numbers are exact
    digits = 52 - int((1 + most[0]) * most[1] + (1 + most[1]) * most[0]).bit_length()
    scores = _through_outputs(links, degrees[0], digits)
    scores += _through_outputs(np.ascontiguousarray(links.T), degrees[1], digits).T
    return scores


def _through_outputs(links: NDArray[np.float64], degrees: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Return the sum over the nodes z that are outputs, in multiples of 2^-digits."""
    scores = np.zeros_like(links)
    size = max(1, _CHUNK // len(links))
    for first in range(0, len(links), size):
        through = links[first : first + size]
        # the links of z to inputs of u, which are inside a path of three whenever z is linked to v
        inside = links @ through.T
        others = degrees[first : first + size] - inside
        # z has no other link: it is linked to no v that u is not linked to
        ratios = np.divide(1 + inside, others, out=np.zeros_like(inside), where=(inside > 0) & (others > 0))
        scores += np.floor(np.ldexp(ratios, digits)) @ through
    return scores


def _sides(shape: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of outputs and inputs; a vector is taken as one output."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], int(np.prod(shape[1:], dtype=np.int64)))
