"""The state, the sparse values and the dense parameters before the first step: drawn, or taken from another run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.clock import Clock
from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.parameters import Parameter
from sparsecore.run.initial import Draws
from sparsecore.run.start import Start
from sparsecore.state import State
from sparsecore.topology import Topology

Begun: TypeAlias = tuple[State, NDArray[Any], Mapping[str, NDArray[np.float64]]]
Begin: TypeAlias = Callable[[Experiment, Engine, Clock], Begun]


def drawn(parameters: Sequence[Parameter]) -> Begin:
    """A topology of the strategies, and initial values of the experiment's seed."""

    def begin(experiment: Experiment, engine: Engine, clock: Clock) -> Begun:
        if experiment.sparsity is None:
            raise InputError("a run that starts from no other one needs its sparsity")
        state, draws = engine.start(experiment.sparsity, clock=clock), Draws(experiment.seed)
        engine.warn_of_other_sparsity(state, experiment.sparsity)
        return state, draws.sparse(state.topology, parameters), draws.dense(parameters)

    return begin


def taken(start: Start) -> Begin:
    """Topology and values of another run."""

    def begin(experiment: Experiment, engine: Engine, clock: Clock) -> Begun:
        topology = Topology.of(engine.layout, engine.arrays.from_numpy(start.positions), engine.arrays)
        _check_sparsity(experiment.sparsity, topology, engine)
        then = attrs.evolve(clock, step=start.values.epoch * clock.steps_per_epoch)
        state = engine.start_at(topology, sparsity=experiment.sparsity, clock=then)
        dense = {name: np.asarray(array, np.float64) for name, array in start.values.dense.items()}
        return state, start.values.sparse, dense

    return begin


def _check_sparsity(given: float | None, topology: Topology, engine: Engine) -> None:
    """Refuse a sparsity that would come to nothing."""
    if given is None:
        return
    if not engine.becomes_sparser:
        raise InputError(
            f"sparsity = {given} is given, and start.run brings a topology, of sparsity {topology.sparsity:.4f}; only "
            "strategies that become sparser have a sparsity beside it, the one that they end at"
        )
    if given < topology.sparsity:
        raise InputError(
            f"sparsity = {given} is where the run is to end; what it starts on is at {topology.sparsity:.4f} already"
        )
