"""The topologies of a run, one after another, from its log alone."""

import json
from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.layout import Layout
from sparsecore.run.engines import engine_of
from sparsecore.run.folder import RunFolder
from sparsecore.run.records import decode_positions
from sparsecore.run.start import Start
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class Move:
    """What an update moved.

    Attributes:
        step: optimizer steps done before it.
        pruned: positions that were given up, ascending int64.
        grown: positions that came in their place, ascending int64.
        where: the line of the log that tells it.
    """

    step: int
    pruned: NDArray[np.int64]
    grown: NDArray[np.int64]
    where: str


def replay(folder: RunFolder) -> Iterator[Topology]:
    """The topology at the start, and after each update in reallocations.jsonl.

    The start is drawn again from the experiment's seed, unless the run keeps one from another run; neither data nor
    values are needed.

    Raises:
        InputError: the log does not belong to the experiment, or is damaged.
    """
    topology = first_topology(folder)
    yield topology
    for move in moves(folder):
        topology = _after(topology, move)
        yield topology


def moves(folder: RunFolder) -> Iterator[Move]:
    """What each update in reallocations.jsonl moved.

    Raises:
        InputError: the log is damaged.
    """
    with folder.reallocations.open() as log:
        for number, line in enumerate(log, start=1):
            where = f"line {number} of {folder.reallocations}"
            try:
                told = json.loads(line)
                pruned, grown = (decode_positions(told[f"{what}_positions"]) for what in ("pruned", "grown"))
                yield Move(int(told["step"]), pruned, grown, where)
            except (ValueError, KeyError, OSError) as error:
                raise InputError(f"{where} is damaged: {error}") from error


def first_topology(folder: RunFolder) -> Topology:
    """The topology at the start; see :func:`replay`."""
    experiment = Experiment.of(folder.read_tables())
    tensors = json.loads(folder.tensors.read_text())["tensors"]
    layout = Layout.of({tensor["name"]: tensor["shape"] for tensor in tensors})
    arrays = experiment.backend.plugin.arrays
    if folder.start.exists():
        return Topology.of(layout, arrays.from_numpy(Start.read(folder.start).positions), arrays)
    if experiment.sparsity is None:
        raise InputError(f"the run in {folder.path} began on another topology; {folder.start.name} is missing")
    return engine_of(experiment, layout, arrays).start(experiment.sparsity).topology


def _after(before: Topology, move: Move) -> Topology:
    positions = before.arrays.to_numpy(before.positions)
    survivors = np.setdiff1d(positions, move.pruned, assume_unique=True)
    after = np.union1d(survivors, move.grown)
    if len(survivors) != len(positions) - len(move.pruned) or len(after) != len(survivors) + len(move.grown):
        raise InputError(f"{move.where} does not follow from the lines before it")
    return before.at(before.arrays.from_numpy(after.astype(before.layout.position_dtype)))
