"""Warm starts: which weights of another run a run starts with, and with which values."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import attrs
import numpy as np

from sparsecore.data.images import Images
from sparsecore.engine.arrays import Arrays
from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Clock, as_written
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import partial_units_error
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import experiment_fingerprint
from sparsecore.experiment.conversion import structure
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.parameters import Parameter
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.checkpoint_validation import blaming, check_dense, check_values
from sparsecore.run.folder import LOTTERY_FILE, RunFolder
from sparsecore.run.initialization import RandomInitialization, StartValues, WarmStart, check_all_known
from sparsecore.run.logs import Metrics
from sparsecore.run.replay import layout_of
from sparsecore.toolbox.ranking import smallest_of_all

FINGERPRINTS = ("experiment", "data", "plugin code", "start")


@attrs.frozen(eq=False)
class SourceRun:
    """The finished run that another one starts from.

    Attributes:
        folder: its files.
        experiment: what was run.
        end: its last state.
        start: its own warm start, if it had one.
    """

    folder: RunFolder
    experiment: Experiment
    end: Checkpoint
    start: WarmStart | None

    @classmethod
    def of(cls, path: str) -> "SourceRun":
        """The run in this folder.

        Raises:
            InputError: there is none, it is damaged, or it has not come to its end.
        """
        folder = RunFolder(Path(path))
        if not folder.path.exists():
            raise InputError(f"start.run is the folder of a finished run; there is none at {folder.path}")
        if (folder.path / LOTTERY_FILE).exists():
            raise InputError(f"{folder.path} is the folder of a lottery; give one of its runs, such as round-1 in it")
        experiment = Experiment.of(folder.read_tables())
        end = read_checkpoint(folder.checkpoint) if folder.checkpoint.exists() else None
        done = _epochs_done(end) if end else 0
        if end is None or done < experiment.training.epochs:
            raise InputError(
                f"start.run is the folder of a finished run; {folder.path} has done {done} of its "
                f"{experiment.training.epochs} epochs: resume it with sparsecore train --resume --out {folder.path}"
            )
        if end.facts.get("experiment") != experiment_fingerprint(experiment.tables()):
            raise InputError(
                f"{folder.experiment} has changed since the run {folder.path} was trained: its checkpoint was made "
                "with other settings"
            )
        return cls(folder, experiment, end, WarmStart.read(folder.start) if folder.start.exists() else None)

    @property
    def identity(self) -> Mapping[str, str]:
        """Fingerprints of its experiment, data, the code of plugins and, if it has one, its warm start."""
        return {name: self.end.facts[name] for name in FINGERPRINTS if name in self.end.facts}

    def topology(self, layout: Layout, arrays: Arrays) -> Topology:
        """The topology that it ended with.

        Args:
            layout: the sparse tensors of the new run.
            arrays: the operations of the backend that is to hold the positions.

        Raises:
            InputError: its layout is another one, or its last checkpoint is damaged.
        """
        self._check_layout(layout)
        self.check(self.end, layout)
        return Topology.of(layout, arrays.from_numpy(self.end.arrays["positions"]), arrays)

    def check(self, saved: Checkpoint, layout: Layout) -> None:
        """Check positions and values of one of its checkpoints.

        Args:
            saved: the last checkpoint or a kept one.
            layout: the sparse tensors of the new run, which must be those of this one.

        Raises:
            InputError: they are missing, not positions of the layout, or not finite.
        """
        try:
            check_values(
                saved.arrays.get("positions", np.zeros(0)),
                saved.arrays.get("learner/values"),
                saved.group("dense"),
                layout,
            )
        except InputError as error:
            raise InputError(f"{saved.source} is damaged: {error}") from error

    def kept(self, epoch: int) -> Checkpoint:
        """Its state at the end of an epoch.

        Args:
            epoch: the number of finished epochs, from 1.

        Raises:
            InputError: it has not been kept, or is damaged.
        """
        if not self.folder.kept(epoch).exists():
            known = ", ".join(map(str, self.experiment.keep.epochs)) or "none"
            raise InputError(
                f"the run {self.folder.path} has not kept its values at the end of epoch {epoch}; kept: {known}. "
                "keep.epochs says before a run which are"
            )
        return read_checkpoint(self.folder.kept(epoch))

    def _check_layout(self, layout: Layout) -> None:
        found = layout_of(self.folder)
        there = dict(zip(found.names, found.shapes, strict=True))
        here = dict(zip(layout.names, layout.shapes, strict=True))
        for name in [*here, *there]:
            if there.get(name) != here.get(name):
                raise InputError(
                    f"the run {self.folder.path} is of another network: its sparse tensor {name!r} is "
                    f"{_shape(there.get(name))} there, {_shape(here.get(name))} here"
                )
        if tuple(there) != tuple(here):
            raise InputError(f"the run {self.folder.path} is of another network: its tensors are in another order")


def _epochs_done(end: Checkpoint) -> int:
    last = end.facts.get("last")
    if last is None:
        return 0
    with blaming(end):
        return structure(last, Metrics, "last").epoch


def _shape(shape: tuple[int, ...] | None) -> str:
    return "×".join(map(str, shape)) if shape else "none"


@attrs.frozen(eq=False)
class NewRun:
    """The run that is to start.

    Attributes:
        experiment: what it runs.
        images: its data set.
        parameters: the parameters of its model.
        engine: its strategies over the layout of the sparse parameters.
    """

    experiment: Experiment
    images: Images
    parameters: Sequence[Parameter]
    engine: Engine


def warm_start_of(new: NewRun, folder: RunFolder | None) -> WarmStart | None:
    """The warm start of a run: as its folder keeps it, or computed from the other run.

    Args:
        new: the run that is to start, or to be resumed.
        folder: its folder; None for one that has no folder yet.

    Returns:
        The warm start; None for a run that starts from no other one.

    Raises:
        InputError: there is no such run, it has not finished, or it is of another network; or the folder was begun on
            something else.
    """
    run = new.experiment.start.run
    if run is None:
        return None
    kept = WarmStart.read(folder.start) if folder and folder.start.exists() else None
    if kept:
        kept.check(new.engine.layout, new.parameters)
    if kept and kept.run == run:
        return kept
    computed = compute_warm_start(new, SourceRun.of(run))
    if kept and kept.sha256() != computed.sha256():
        raise InputError(f"the run was begun from {kept.run}; what start.run = {run} gives is something else")
    return computed


def compute_warm_start(new: NewRun, source: SourceRun) -> WarmStart:
    """The warm start of the new run from the source, as the settings say.

    Args:
        new: the run that is to start.
        source: the run that it starts from.

    Raises:
        InputError: the source does not have such weights or values, or is of another network.
    """
    settings, engine = new.experiment.start, new.engine
    topology = _without_smallest(engine, source.topology(engine.layout, engine.arrays), source.end, settings.prune)
    values = _VALUES[str(settings.values)](new, source, topology)
    _check_dense(new.parameters, values, source)
    if values.epoch >= new.experiment.training.epochs:
        raise InputError(
            f"the values to start with have been trained for {values.epoch} epochs, and the run continues from there "
            f"to the end of epoch {new.experiment.training.epochs}: nothing is left to do"
        )
    sparse = np.asarray(values.sparse, new.experiment.backend.plugin.dtype)
    positions = engine.arrays.to_numpy(topology.positions)
    return WarmStart(str(settings.run), source.identity, positions, attrs.evolve(values, sparse=sparse))


def _without_smallest(engine: Engine, topology: Topology, end: Checkpoint, share: float) -> Topology:
    """The topology without a share of its units, those of the smallest mean |w|."""
    trouble = partial_units_error(topology, engine.unit_map)
    if trouble:
        raise InputError(f"the topology of start.run is {trouble}; reallocation.units is {engine.units}")
    units = engine.unit_map.units(topology)
    count = int(as_written(share) * units.size)
    if share and not count:
        raise InputError(f"start.prune = {share} of {units.size} {engine.units} is less than one")
    values = engine.unit_map.values(engine.arrays.from_numpy(end.arrays["learner/values"]), topology)
    smallest = smallest_of_all(units, values, count)
    if len(smallest) < count:
        raise InputError(
            f"start.prune = {share} takes {count} of {units.size} {engine.units} away; every tensor keeps one, and "
            f"{len(smallest)} can go"
        )
    return engine.unit_map.weights(units.subset(units.all_but(smallest)))


def _original(new: NewRun, source: SourceRun, topology: Topology) -> StartValues:
    """The initial values of the source; at positions that it did not start with, those that it would have had."""
    parameters = source.experiment.model.plugin.parameters(new.images.shape, new.images.classes)
    if source.start is None:
        draws = RandomInitialization(source.experiment.seed)
        values = StartValues(draws.sparse_values(topology, parameters), draws.other_parameters(parameters), draws)
    else:
        values = attrs.evolve(
            source.start.values, sparse=source.start.sparse_values(topology, parameters, source.folder.path)
        )
    # its strategies may have changed what was drawn, as DeepR does by its signs
    arrays, engine = topology.arrays, source.experiment.engine(topology.layout, topology.arrays)
    drawn = arrays.from_numpy(np.asarray(values.sparse, source.experiment.backend.plugin.dtype))
    began = engine.start_values(State(topology, {}, Clock()), drawn)
    return attrs.evolve(values, sparse=arrays.to_numpy(began))


def _fresh(new: NewRun, _: SourceRun, topology: Topology) -> StartValues:
    draws = RandomInitialization(new.experiment.seed, "fresh values")
    return StartValues(draws.sparse_values(topology, new.parameters), draws.other_parameters(new.parameters), draws)


def _trained(_: NewRun, source: SourceRun, topology: Topology) -> StartValues:
    return _at(source.end, topology, "ended", source)


def _rewound(new: NewRun, source: SourceRun, topology: Topology) -> StartValues:
    epoch = cast(int, new.experiment.start.epoch)  # the settings of 'rewound' always have one
    values = _at(source.kept(epoch), topology, f"had done {epoch} epochs", source)
    return attrs.evolve(values, epoch=epoch)


_VALUES: Mapping[str, Callable[[NewRun, SourceRun, Topology], StartValues]] = MappingProxyType(
    {"original": _original, "fresh": _fresh, "trained": _trained, "rewound": _rewound}
)


def _at(saved: Checkpoint, topology: Topology, when: str, source: SourceRun) -> StartValues:
    """The values that the source had in a saved state."""
    source.check(saved, topology.layout)
    positions, there = topology.arrays.to_numpy(topology.positions), saved.arrays["positions"]
    check_all_known(np.isin(positions, there), when, source.folder.path)
    values: Any = saved.arrays["learner/values"]
    return StartValues(values[np.searchsorted(there, positions)], saved.group("dense"))


def _check_dense(parameters: Sequence[Parameter], values: StartValues, source: SourceRun) -> None:
    try:
        check_dense(parameters, values.dense)
    except InputError as error:
        raise InputError(f"the run {source.folder.path} cannot be started from: {error}") from error
