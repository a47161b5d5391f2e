"""The active weights that a run starts with: those of another run, in a file, at random, or by the initial values."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np

from sparsecore.engine.arrays import DenseValues
from sparsecore.engine.engine import Engine
from sparsecore.engine.given_positions import check_no_empty, given_positions
from sparsecore.engine.growth import random_topology
from sparsecore.engine.schedules import as_written
from sparsecore.engine.topology import Topology
from sparsecore.engine.units import partial_units_error
from sparsecore.errors import InputError
from sparsecore.run.checkpoint import read_arrays
from sparsecore.run.source_run import SourceRun
from sparsecore.run.start_weights import NewRun, StartWeights
from sparsecore.toolbox.largest_weights import SCOPES
from sparsecore.toolbox.ranking import smallest_of_all


def start_topology(new: NewRun, weights: StartWeights, source: SourceRun | None) -> Topology:
    """Return the active weights that the settings name.

    Args:
        new: the run that is to start.
        weights: the values that it starts with.
        source: the run that it starts from, if it starts from one.

    Raises:
        InputError: a file cannot be read or is of another network, or the weights cannot be chosen so.
    """
    settings, engine = new.experiment.start, new.engine
    if settings.active is None and source is not None:
        return _without_smallest(engine, source, settings.prune)
    choose = _NAMED.get(settings.active or "random", _of_file)
    return choose(new, weights.dense(new.experiment.backend.plugin.dtype), source)


def drawn_topology(new: NewRun, values: DenseValues) -> Topology:
    """Return the topology that the strategies choose.

    Args:
        new: the run that is to start.
        values: its initial values, for strategies that ask for them.

    Raises:
        InputError: the experiment has no sparsity.
    """
    sparsity = new.experiment.sparsity
    if sparsity is None:
        raise InputError("a run whose start does not give the active weights needs its sparsity")
    return new.engine.initial_topology(sparsity, values)


def _random(new: NewRun, values: DenseValues, _: SourceRun | None) -> Topology:
    return drawn_topology(new, values)


def _largest(new: NewRun, values: DenseValues, _: SourceRun | None) -> Topology:
    engine = new.engine
    units = engine.unit_map.units(drawn_topology(new, values))
    chosen = SCOPES[new.experiment.start.scope](units, engine.unit_map.gradient(values, engine.arrays))
    return engine.unit_map.weights(chosen)


def _nonzero(new: NewRun, values: DenseValues, _: SourceRun | None) -> Topology:
    layout, arrays = new.engine.layout, new.engine.arrays
    found = [arrays.to_numpy(arrays.nonzero(values(name) != 0)).astype(np.int64) for name in layout.names]
    check_no_empty(layout, [len(own) for own in found])
    positions = np.concatenate([own + offset for own, offset in zip(found, layout.offsets, strict=False)])
    if len(positions) == layout.size:
        raise InputError(
            "start.active = 'nonzero' keeps the weights that are not zero, and no weight of the sparse tensors is "
            "zero, so that all of them would be active; 'magnitude' keeps the largest"
        )
    return Topology.of(layout, arrays.from_numpy(positions.astype(layout.position_dtype)), arrays)


def _of_same_densities(new: NewRun, _: DenseValues, source: SourceRun | None) -> Topology:
    """As many units of each tensor as the source ended with, at positions that do not depend on its own."""
    engine = new.engine
    units = _last_units(engine, cast(SourceRun, source))  # the settings of 'densities' always name a run
    drawn = random_topology(units.layout, units.counts, engine.random.child("same densities"), engine.arrays)
    return engine.unit_map.weights(drawn)


def _of_file(new: NewRun, _: DenseValues, __: SourceRun | None) -> Topology:
    layout, arrays = new.engine.layout, new.engine.arrays
    path = Path(str(new.experiment.start.active))
    found = read_arrays(path, "the active weights to start with")
    try:
        positions = given_positions(layout, found)
    except InputError as error:
        raise InputError(f"{path} cannot be started from: {error}") from error
    return Topology.of(layout, arrays.from_numpy(positions), arrays)


_NAMED: Mapping[str, Callable[[NewRun, DenseValues, SourceRun | None], Topology]] = MappingProxyType(
    {"random": _random, "magnitude": _largest, "nonzero": _nonzero, "densities": _of_same_densities}
)


def _without_smallest(engine: Engine, source: SourceRun, share: float) -> Topology:
    """The topology that the source ended with, without a share of its units, those of the smallest mean |w|."""
    units = _last_units(engine, source)
    topology = engine.unit_map.weights(units)
    count = int(as_written(share) * units.size)
    if share and not count:
        raise InputError(
            f"start.prune = {share} of {units.size} {engine.units} is less than one, so that none would be pruned; "
            "prune a larger share, or in a lottery fewer times"
        )
    values = engine.unit_map.values(engine.arrays.from_numpy(source.end.arrays["learner/values"]), topology)
    smallest = smallest_of_all(units, values, count)
    if len(smallest) < count:
        raise InputError(
            f"start.prune = {share} takes {count} of {units.size} {engine.units} away; every tensor keeps one, and "
            f"{len(smallest)} can go"
        )
    return engine.unit_map.weights(units.subset(units.all_but(smallest)))


def _last_units(engine: Engine, source: SourceRun) -> Topology:
    """The units that are active at the end of the source, in the layout of units."""
    topology = source.topology(engine.layout, engine.arrays)
    trouble = partial_units_error(topology, engine.unit_map)
    if trouble:
        raise InputError(f"the topology of start.run is {trouble}; reallocation.units is {engine.units}")
    return engine.unit_map.units(topology)
