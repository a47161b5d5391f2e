"""How the topologies of trials moved: parameters a tensor, overlap with the end, and how much was ever explored."""

import json
from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.report.drawing import evenly_spaced
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.logs import Metrics, read_lines, read_record
from sparsecore.run.replay import Move, first_topology, moves
from sparsecore.study.experiments import Trial
from sparsecore.study.folder import StudyFolder

MAX_SNAPSHOTS = 200  # a strategy may move weights in every step


@attrs.frozen
class Snapshot:
    """A topology, seen from its run's beginning and end.

    Attributes:
        epoch: passes over the training images that were done by then.
        active: active weights of each tensor.
        overlap: Jaccard index with the topology at the end, in [0, 1]: positions in both, of the positions in either.
        explored: share of all positions that have been active by then, at the end the ITOP rate (Liu et al. 2021).
    """

    epoch: float
    active: tuple[int, ...]
    overlap: float
    explored: float


@attrs.frozen
class TopologyHistory:
    """What became of a topology over a finished run.

    Attributes:
        topology_sha256: of the end.
        tensors: the sparse tensors' names, in network order.
        sizes: their dense sizes.
        updates: how many there were.
        epochs: how long the run was.
        snapshots: the start, and after updates: each of them, or some evenly spread with the last.
    """

    topology_sha256: str
    tensors: tuple[str, ...]
    sizes: tuple[int, ...]
    updates: int
    epochs: int
    snapshots: tuple[Snapshot, ...]


def topology_history_of(folder: StudyFolder, trial: Trial) -> TopologyHistory | None:
    """The history of a trial, worked out once; None of one that is not finished.

    Raises:
        InputError: the run's log does not lead to the topology of its result.
    """
    result, kept = folder.result(trial), folder.topology_history(trial)
    if result is None:
        return None
    if kept.exists():
        known = read_record(kept, TopologyHistory)
        if known.topology_sha256 == result["topology_sha256"]:
            return known
    history = replayed_history(folder.run(trial))
    if history.topology_sha256 != result["topology_sha256"]:
        raise InputError(f"the log of the trial {trial.name} does not lead to the topology of its result")
    kept.parent.mkdir(exist_ok=True)
    write_whole(kept, json.dumps(attrs.asdict(history)).encode())
    return history


def replayed_history(run: RunFolder) -> TopologyHistory:
    """The history of a finished run, from its log; takes three bytes a position of the dense space.

    Raises:
        InputError: the log is damaged.
    """
    first, lines = first_topology(run), read_lines(run.metrics, Metrics)
    if not lines or not lines[-1].epoch:
        raise InputError(f"{run.metrics} has no epoch, and the run has finished")
    last = lines[-1]
    final, updates = _mask(first), 0
    for move in moves(run, first.layout):
        _apply(move, final)
        updates += 1
    snapshots = tuple(_snapshots(first, final, run, last.step / last.epoch, updates))
    layout, end = first.layout, _topology(first, final)
    return TopologyHistory(end.sha256(), layout.names, layout.sizes, updates, last.epoch, snapshots)


def _snapshots(
    first: Topology, final: NDArray[np.bool_], run: RunFolder, steps_an_epoch: float, updates: int
) -> Iterator[Snapshot]:
    now, explored = _mask(first), _mask(first)
    active = np.asarray(first.counts)
    # kept up to date with what moves, so that an update costs what it moves and not the whole space
    both, ever, end = int((now & final).sum()), int(now.sum()), int(final.sum())

    def snapshot(epoch: float) -> Snapshot:
        size = int(active.sum())
        return Snapshot(epoch, tuple(map(int, active)), both / (size + end - both), ever / len(now))

    yield snapshot(0.0)
    shown = set(evenly_spaced(updates, MAX_SNAPSHOTS))
    for number, move in enumerate(moves(run, first.layout)):
        _apply(move, now)
        active = active + _by_tensor(first.layout, move.grown) - _by_tensor(first.layout, move.pruned)
        both += int(final[move.grown].sum()) - int(final[move.pruned].sum())
        ever += int((~explored[move.grown]).sum())
        explored[move.grown] = True
        if number in shown:
            yield snapshot(move.step / steps_an_epoch)


def _apply(move: Move, mask: NDArray[np.bool_]) -> None:
    if not mask[move.pruned].all():
        raise InputError(f"{move.where} does not follow from the lines before it")
    mask[move.pruned] = False
    if mask[move.grown].any():
        raise InputError(f"{move.where} does not follow from the lines before it")
    mask[move.grown] = True


def _mask(topology: Topology) -> NDArray[np.bool_]:
    mask = np.zeros(topology.layout.size, np.bool_)
    mask[topology.arrays.to_numpy(topology.positions)] = True
    return mask


def _topology(like: Topology, mask: NDArray[np.bool_]) -> Topology:
    return like.at(like.arrays.from_numpy(np.flatnonzero(mask).astype(like.layout.position_dtype)))


def _by_tensor(layout: Layout, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(np.searchsorted(positions, layout.offsets))
