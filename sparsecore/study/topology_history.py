"""The history of a trial's topology: active weights of each tensor, overlap with the end, explored positions."""

import json
from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.report.charts import evenly_spaced
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.logs import Metrics, read_lines, read_record
from sparsecore.run.replay import Move, first_topology, moves
from sparsecore.study.folder import StudyFolder, TrialResult
from sparsecore.study.trials import Trial

MAX_SNAPSHOTS = 200  # a strategy may update the topology at every step


@attrs.frozen
class TopologySnapshot:
    """A topology at one time of a run.

    Attributes:
        epoch: number of epochs done, with a fraction for an epoch in progress.
        active: number of active weights of each tensor.
        overlap: Jaccard index with the topology at the end, in [0, 1]: positions active in both, of those in either.
        explored: fraction of all positions that have been active until then; at the end the ITOP rate (Liu et al.
            2021, "Do we actually need dense over-parameterization?").
    """

    epoch: float
    active: tuple[int, ...]
    overlap: float
    explored: float


@attrs.frozen
class TopologyHistory:
    """The topology of a finished run over time.

    Attributes:
        topology_sha256: fingerprint of the topology at the end.
        tensors: names of the sparse tensors, in network order.
        sizes: numbers of positions of the tensors.
        updates: number of updates.
        epochs: number of epochs.
        snapshots: the topology at the start and after each update, or after some that are evenly spread with the last.
        mean_density: mean over the steps of the fraction of positions that were active in them; None in files that were
            written before it was counted.
    """

    topology_sha256: str
    tensors: tuple[str, ...]
    sizes: tuple[int, ...]
    updates: int
    epochs: int
    snapshots: tuple[TopologySnapshot, ...]
    mean_density: float | None = None


def topology_history_of(folder: StudyFolder, trial: Trial, result: TrialResult) -> TopologyHistory:
    """Return the topology history of a finished trial; it is replayed from the run's log once and then stored.

    Args:
        folder: folder of the study.
        trial: the trial.
        result: its result.

    Raises:
        InputError: the run's log does not end at the topology of its result, or is damaged.
    """
    stored = folder.topology_history(trial)
    if stored.exists():
        known = read_record(stored, TopologyHistory)
        if known.topology_sha256 == result.topology_sha256 and known.mean_density is not None:
            return known
    history = replayed_history(folder.run(trial))
    if history.topology_sha256 != result.topology_sha256:
        raise InputError(f"the log of the trial {trial.name} does not end at the topology of its result")
    stored.parent.mkdir(exist_ok=True)
    write_whole(stored, json.dumps(attrs.asdict(history)).encode())
    return history


def replayed_history(run: RunFolder) -> TopologyHistory:
    """Replay the topology history of a finished run from its log, in three bytes of memory per position.

    Args:
        run: the run's folder. Neither its data nor its checkpoint is read.

    Raises:
        InputError: the log is damaged.
    """
    first, lines = first_topology(run), read_lines(run.metrics, Metrics)
    if not lines or not lines[-1].epoch:
        raise InputError(f"{run.metrics} is damaged: it has no epoch, but the run has finished")
    last = lines[-1]
    final, updates = _mask(first), 0
    began = lines[0].step - last.step // last.epoch  # not 0 where values were rewound to a later epoch
    active, since, active_steps = len(first.positions), began, 0
    for move in moves(run, first.layout):
        _apply(move, final)
        updates += 1
        active_steps += active * (move.step - since)
        active, since = active + len(move.grown) - len(move.pruned), move.step
    mean_density = (active_steps + active * (last.step - since)) / ((last.step - began) * first.layout.size)
    snapshots = tuple(_snapshots(first, final, run, last.step / last.epoch, updates))
    layout, end = first.layout, _topology(first, final)
    return TopologyHistory(end.sha256(), layout.names, layout.sizes, updates, last.epoch, snapshots, mean_density)


def _snapshots(
    first: Topology, final: NDArray[np.bool_], run: RunFolder, steps_an_epoch: float, updates: int
) -> Iterator[TopologySnapshot]:
    now, explored = _mask(first), _mask(first)
    active = np.asarray(first.counts)
    # updated incrementally, so that an update costs as much as it moves, not as the whole network
    both, ever, end = int((now & final).sum()), int(now.sum()), int(final.sum())

    def snapshot(epoch: float) -> TopologySnapshot:
        size = int(active.sum())
        return TopologySnapshot(epoch, tuple(map(int, active)), both / (size + end - both), ever / len(now))

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
