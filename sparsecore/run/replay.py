"""Replaying a run: its topologies, one after another, from its log alone."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.checkpoint import facts_in, read_checkpoint
from sparsecore.run.checkpoint_validation import sound_topology, topology_of
from sparsecore.run.folder import RunFolder
from sparsecore.run.initialization import WarmStart
from sparsecore.run.logs import StartTensors, Update, decode_positions, read_record


@attrs.frozen(eq=False)
class Move:
    """The positions of one update.

    Attributes:
        step: optimizer steps done before it.
        pruned: the pruned positions, ascending, int64.
        grown: the grown positions, ascending, int64.
        where: the line of the log, for errors.
    """

    step: int
    pruned: NDArray[np.int64]
    grown: NDArray[np.int64]
    where: str


def replay(folder: RunFolder) -> Iterator[Topology]:
    """The topology at the start, and after each update in reallocations.jsonl.

    The initial topology is drawn again from the experiment's seed, unless the run keeps a warm start; neither data nor
    values are needed.

    Raises:
        InputError: the log does not belong to the experiment, or is damaged.
    """
    topology = first_topology(folder)
    yield topology
    for move in moves(folder, topology.layout):
        topology = _after(topology, move)
        yield topology


def moves(folder: RunFolder, layout: Layout) -> Iterator[Move]:
    """The pruned and grown positions of each update in reallocations.jsonl.

    Args:
        folder: the run.
        layout: its sparse tensors.

    Raises:
        InputError: the log cannot be read, or is damaged.
    """
    try:
        with folder.reallocations.open("rb") as log:
            for number, line in enumerate(log, start=1):
                yield _move(line, f"line {number} of {folder.reallocations}", layout)
    except OSError as error:
        raise InputError(f"{folder.reallocations} cannot be read: {error.strerror}") from error


def _move(line: bytes, where: str, layout: Layout) -> Move:
    try:
        update = structure(json.loads(line), Update, "the record")
        pruned = decode_positions(update.pruned_positions, sum(update.pruned.values()), layout.size)
        grown = decode_positions(update.grown_positions, sum(update.grown.values()), layout.size)
        return Move(update.step, pruned, grown, where)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where} is damaged: {error}") from error


def first_topology(folder: RunFolder) -> Topology:
    """The topology of a run before its first update.

    Where a strategy chooses it by the network's initial values, which are not known here, it is found by going back
    from the last checkpoint.

    Raises:
        InputError: the experiment, the warm start or the checkpoint cannot be read, or has changed since.
    """
    tables, facts = folder.read_tables(), facts_in(folder.checkpoint)
    check_settings(folder, tables, facts)
    experiment, layout = Experiment.of(tables), layout_of(folder)
    arrays = experiment.backend.plugin.arrays
    engine = experiment.engine(layout, arrays)
    start = start_of(folder, facts)
    if start is not None:
        try:
            return sound_topology(start.positions, engine)
        except InputError as error:
            raise InputError(f"{start.source} is damaged: {error}") from error
    if experiment.sparsity is None:
        raise InputError(f"the run in {folder.path} began on another topology; {folder.start.name} is missing")
    return _before_updates(folder, engine) if engine.starts_by_values else engine.start(experiment.sparsity).topology


def check_settings(folder: RunFolder, tables: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Check that the settings in a run's folder are those that it was trained with.

    Args:
        folder: the run.
        tables: of its experiment, as its file has them.
        facts: of its checkpoint; without a fingerprint of the experiment, as where there is none, nothing is checked.

    Raises:
        InputError: they are others.
    """
    if facts.get("experiment", found := experiment_fingerprint(tables)) != found:
        raise InputError(
            f"{folder.experiment} has changed since the run {folder.path} was trained: its checkpoint was made with "
            "other settings"
        )


def start_of(folder: RunFolder, facts: Mapping[str, Any]) -> WarmStart | None:
    """The warm start of a run; None for one that has none.

    Args:
        folder: the run.
        facts: of its checkpoint; empty where it has none.

    Raises:
        InputError: the file is missing, is damaged, or is that of another run.
    """
    start = WarmStart.read(folder.start) if folder.start.exists() else None
    if not facts:
        return start
    if start is None and "start" in facts:
        raise InputError(f"the run in {folder.path} began on another topology; {folder.start.name} is missing")
    if start is not None and start.sha256() != facts.get("start"):
        raise InputError(
            f"{start.source} is of another run: the checkpoint in {folder.path} was made after another start"
        )
    return start


def _before_updates(folder: RunFolder, engine: Engine) -> Topology:
    """Return the topology of the last checkpoint without what the updates in the log have changed."""
    checkpoint = read_checkpoint(folder.checkpoint)
    try:
        last = topology_of(checkpoint, engine)
        updates = int(checkpoint.facts["clock"]["updates"])
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{checkpoint.source} is damaged: {error}") from error
    active = np.zeros(engine.layout.size, np.bool_)
    active[engine.arrays.to_numpy(last.positions)] = True
    for move in reversed(list(islice(moves(folder, engine.layout), updates))):
        active[move.grown] = False
        active[move.pruned] = True
    positions = np.flatnonzero(active).astype(engine.layout.position_dtype)
    start = last.at(engine.arrays.from_numpy(positions))
    begun = [tensor.active for tensor in read_record(folder.tensors, StartTensors).tensors]
    if start.counts.tolist() != begun:
        raise InputError(f"{folder.reallocations} does not lead from the numbers of weights in {folder.tensors.name}")
    return start


def layout_of(folder: RunFolder) -> Layout:
    """The layout of a run's sparse tensors.

    Raises:
        InputError: tensors.json cannot be read, or is damaged.
    """
    try:
        tensors = read_record(folder.tensors, StartTensors).tensors
        return Layout.of({tensor.name: tensor.shape for tensor in tensors})
    except ValueError as error:
        raise InputError(f"{folder.tensors} is damaged: {error}") from error


def _after(before: Topology, move: Move) -> Topology:
    positions = before.arrays.to_numpy(before.positions)
    survivors = np.setdiff1d(positions, move.pruned, assume_unique=True)
    after = np.union1d(survivors, move.grown)
    if len(survivors) != len(positions) - len(move.pruned) or len(after) != len(survivors) + len(move.grown):
        raise InputError(f"{move.where} does not follow from the lines before it")
    return before.at(before.arrays.from_numpy(after.astype(before.layout.position_dtype)))
