"""Starting from another run: which of its weights, and with which values."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import attrs
import numpy as np

from sparsecore.clock import Clock
from sparsecore.data.images import Images
from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.grouping import trouble_with_units
from sparsecore.parameters import Parameter
from sparsecore.ranking import smallest_of_all
from sparsecore.run.checkpoint import Checkpoint
from sparsecore.run.checkpoint_checks import check_dense
from sparsecore.run.engines import engine_of
from sparsecore.run.folder import RunFolder
from sparsecore.run.initial import Draws
from sparsecore.run.source import Source
from sparsecore.run.start import Start, Values, check_all_known
from sparsecore.settings import as_written
from sparsecore.state import State
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class Network:
    """The network of the run that is to start.

    Attributes:
        experiment: the run's.
        images: what it is to learn from.
        parameters: what it learns.
        engine: the strategies over the layout of the sparse ones.
    """

    experiment: Experiment
    images: Images
    parameters: Sequence[Parameter]
    engine: Engine


def start_of(network: Network, folder: RunFolder | None) -> Start | None:
    """What the run starts on: what its folder keeps of it, or what is now taken from the other run; None without one.

    Raises:
        InputError: there is no such run, it has not finished, or it is of another network; or the folder was begun on
            something else.
    """
    run = network.experiment.start.run
    if run is None:
        return None
    kept = Start.read(folder.start) if folder and folder.start.exists() else None
    if kept:
        kept.check(network.engine.layout, network.parameters)
    if kept and kept.run == run:
        return kept
    taken = take(network, Source.of(run))
    if kept and kept.sha256() != taken.sha256():
        raise InputError(f"the run was begun from {kept.run}; what start.run = {run} gives is something else")
    return taken


def take(network: Network, source: Source) -> Start:
    """The start that the settings ask for."""
    settings, engine = network.experiment.start, network.engine
    topology = _without_smallest(engine, source.topology(engine.layout, engine.arrays), source.end, settings.prune)
    values = _VALUES[str(settings.values)](network, source, topology)
    _check_dense(network.parameters, values, source)
    if values.epoch >= network.experiment.training.epochs:
        raise InputError(
            f"the values to start with have been trained for {values.epoch} epochs, and the run goes on from there to "
            f"the end of epoch {network.experiment.training.epochs}: nothing is left to do"
        )
    sparse = np.asarray(values.sparse, network.experiment.backend.plugin.dtype)
    positions = engine.arrays.to_numpy(topology.positions)
    return Start(str(settings.run), source.identity, positions, attrs.evolve(values, sparse=sparse))


def _without_smallest(engine: Engine, topology: Topology, end: Checkpoint, share: float) -> Topology:
    """Of units, where the run's have several weights: those of the smallest mean |w|."""
    trouble = trouble_with_units(topology, engine.grouping)
    if trouble:
        raise InputError(f"the topology of start.run is {trouble}; reallocation.units is {engine.units}")
    units = engine.grouping.units(topology)
    count = int(as_written(share) * units.size)
    if share and not count:
        raise InputError(f"start.prune = {share} of {units.size} {engine.units} is less than one")
    values = engine.grouping.values(engine.arrays.from_numpy(end.arrays["learner/values"]), topology)
    smallest = smallest_of_all(units, values, count)
    if len(smallest) < count:
        raise InputError(
            f"start.prune = {share} takes {count} of {units.size} {engine.units} away; every tensor keeps one, and "
            f"{len(smallest)} can go"
        )
    return engine.grouping.weights(units.subset(units.all_but(smallest)))


def _original(network: Network, source: Source, topology: Topology) -> Values:
    """What the source began with; where it was not active at its start, what it would have begun with."""
    parameters = source.experiment.model.plugin.parameters(network.images.shape, network.images.classes)
    if source.start is None:
        draws = Draws(source.experiment.seed)
        values = Values(draws.sparse(topology, parameters), draws.dense(parameters), draws)
    else:
        values = attrs.evolve(source.start.values, sparse=source.start.sparse(topology, parameters, source.folder.path))
    # its strategies may have changed what was drawn, as DeepR does by its signs
    arrays, engine = topology.arrays, engine_of(source.experiment, topology.layout, topology.arrays)
    drawn = arrays.from_numpy(np.asarray(values.sparse, source.experiment.backend.plugin.dtype))
    began = engine.start_values(State(topology, {}, Clock()), drawn)
    return attrs.evolve(values, sparse=arrays.to_numpy(began))


def _fresh(network: Network, _: Source, topology: Topology) -> Values:
    draws = Draws(network.experiment.seed, "fresh values")
    return Values(draws.sparse(topology, network.parameters), draws.dense(network.parameters), draws)


def _trained(_: Network, source: Source, topology: Topology) -> Values:
    return _at(source.end, topology, "ended", source)


def _rewound(network: Network, source: Source, topology: Topology) -> Values:
    epoch = cast(int, network.experiment.start.epoch)  # the settings of 'rewound' always have one
    values = _at(source.kept(epoch), topology, f"had done {epoch} epochs", source)
    return attrs.evolve(values, epoch=epoch)


_VALUES: Mapping[str, Callable[[Network, Source, Topology], Values]] = MappingProxyType(
    {"original": _original, "fresh": _fresh, "trained": _trained, "rewound": _rewound}
)


def _at(moment: Checkpoint, topology: Topology, when: str, source: Source) -> Values:
    """The values that the source had at a moment."""
    source.check(moment, topology.layout)
    positions, there = topology.arrays.to_numpy(topology.positions), moment.arrays["positions"]
    check_all_known(np.isin(positions, there), when, source.folder.path)
    values: Any = moment.arrays["learner/values"]
    return Values(values[np.searchsorted(there, positions)], moment.group("dense"))


def _check_dense(parameters: Sequence[Parameter], values: Values, source: Source) -> None:
    try:
        check_dense(parameters, values.dense)
    except InputError as error:
        raise InputError(f"the run {source.folder.path} cannot be started from: {error}") from error
