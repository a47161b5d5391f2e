"""Warm starts: which weights a run starts with, and with which values, if both are not drawn by its seed."""

import attrs
import numpy as np

from sparsecore.errors import InputError
from sparsecore.experiment.start_settings import StartSettings
from sparsecore.run.folder import RunFolder
from sparsecore.run.initialization import WarmStart
from sparsecore.run.source_run import SourceRun
from sparsecore.run.start_topology import start_topology
from sparsecore.run.start_weights import NewRun, start_weights


def warm_start_of(new: NewRun, folder: RunFolder | None) -> WarmStart | None:
    """The warm start of a run: as its folder keeps it, or computed from the other run or the files.

    Args:
        new: the run that is to start, or to be resumed.
        folder: its folder; None for one that has no folder yet.

    Returns:
        The warm start; None for a run whose weights are all drawn.

    Raises:
        InputError: there is no such run or file, the run has not finished, or either is of another network; or the
            folder was begun on something else.
    """
    settings = new.experiment.start
    if settings == StartSettings():
        return None
    kept = WarmStart.read(folder.start) if folder and folder.start.exists() else None
    if kept:
        kept.check(new.engine.layout, new.parameters)
    if kept and kept.origin == _origin(settings):
        return kept
    computed = compute_warm_start(new)
    if kept and kept.sha256() != computed.sha256():
        raise InputError(f"the run was begun from {kept.origin}; what {_origin(settings)} gives is something else")
    return computed


def compute_warm_start(new: NewRun) -> WarmStart:
    """The warm start of the new run, as the settings say.

    Args:
        new: the run that is to start.

    Raises:
        InputError: there are no such weights or values, or they are of another network.
    """
    settings, engine = new.experiment.start, new.engine
    source = None if settings.run is None else SourceRun.of(settings.run)
    weights = start_weights(new, source)
    topology = start_topology(new, weights, source)
    values = weights.at(topology)
    if values.epoch >= new.experiment.training.epochs:
        raise InputError(
            f"the values to start with have been trained for {values.epoch} epochs, and the run continues from there "
            f"to the end of epoch {new.experiment.training.epochs}: nothing is left to do"
        )
    sparse = np.asarray(values.sparse, new.experiment.backend.plugin.dtype)
    positions = engine.arrays.to_numpy(topology.positions)
    return WarmStart(_origin(settings), weights.identity, positions, attrs.evolve(values, sparse=sparse))


def _origin(settings: StartSettings) -> str:
    """Where the weights come from: a run's folder, files, or the initial values."""
    paths = (settings.run, settings.weights, settings.active_file)
    return " and ".join(filter(None, paths)) or "the initial values"
