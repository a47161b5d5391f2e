"""Validation of checkpoints: checksums detect damage, and these checks files that were made by hand."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.engine import Engine
from sparsecore.engine.position_validation import positions_error
from sparsecore.engine.saved_states import saved_strategy_state_error
from sparsecore.engine.schedules import Clock
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import partial_units_error
from sparsecore.errors import InputError, SparsecoreError
from sparsecore.experiment.conversion import structure
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Learner
from sparsecore.run.checkpoint import Checkpoint, to_checkpoint
from sparsecore.run.logs import Metrics


@contextmanager
def blaming(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn errors while a checkpoint is loaded into an :class:`InputError` that names its file.

    Errors of the system, such as missing memory or a full disk, pass through.

    Raises:
        InputError: any other error was raised.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except SparsecoreError as error:
        raise InputError(f"{checkpoint.source} cannot be resumed from: {error}") from error
    except Exception as error:
        raise InputError(f"{checkpoint.source} cannot be resumed from: {error!r}") from error


def check_fits(checkpoint: Checkpoint, start: State, engine: Engine, learner: Learner) -> None:
    """Check that a checkpoint can be a later state of the run; nothing is changed.

    Args:
        checkpoint: the checkpoint to resume from.
        start: the state before the first step.
        engine: the run's engine.
        learner: the learner before the first step, which is not changed.

    Raises:
        InputError: its clock, its arrays, its metrics or the states of its strategies are not those of such a run.
    """
    clock = _clock(checkpoint.facts, start.clock)
    _check_last(checkpoint.facts.get("last"), clock, start.clock)
    topology = topology_of(checkpoint, engine)
    if engine.keeps_size and topology.size != start.topology.size:
        raise InputError(f"it has {topology.size} weights, and the run has {start.topology.size} at any time")
    fresh = to_checkpoint(start, learner, {})
    for prefix in ("learner/", "dense/"):
        _check_arrays(_having(checkpoint.arrays, prefix), _having(fresh.arrays, prefix))
    _check_step_counts(_having(checkpoint.arrays, "learner/"), clock)
    for name, array in checkpoint.group("dense").items():
        if array.shape != fresh.arrays[f"dense/{name}"].shape:
            expected = fresh.arrays[f"dense/{name}"].shape
            raise InputError(f"the array dense/{name} has the shape {array.shape}; expected {expected}")
    known = [*_having(fresh.arrays, "learner/"), *_having(fresh.arrays, "dense/"), "positions"]
    strange = [name for name in checkpoint.arrays if name not in known and not name.startswith("memory/")]
    if strange:
        raise InputError(f"it has arrays that no such run has: {', '.join(sorted(strange))}")
    _check_strategy_states(checkpoint, start, topology, engine)


def check_updates(checkpoint: Checkpoint, logged: int) -> None:
    """Check that a checkpoint was made after the updates that its run has logged.

    Args:
        checkpoint: the checkpoint to resume from.
        logged: the number of updates in the part of the run's log that the checkpoint knows.

    Raises:
        InputError: it was made after another number of updates.
    """
    updates = _times(checkpoint.facts).updates
    if updates != logged:
        raise InputError(f"it was made after {updates} updates, and the run's log of them has {logged}")


def check_totals(learner: Learner, examples: int) -> None:
    """Check that the totals of an epoch are possible.

    Args:
        learner: the learner that was restored.
        examples: the number of training images.

    Raises:
        InputError: the loss is not finite, there are more hits than images, or more images than there are to train on.
    """
    totals = learner.totals()
    if not (np.isfinite(totals.loss) and 0 <= totals.correct <= totals.examples <= examples):
        raise InputError(
            f"the sums over its epoch are a loss of {totals.loss} and {totals.correct} hits of {totals.examples} "
            f"images; there are {examples}"
        )


def topology_of(checkpoint: Checkpoint, engine: Engine) -> Topology:
    """The topology of a checkpoint.

    Args:
        checkpoint: as read from a file.
        engine: the run's engine, whose layout and units the positions must be of.

    Raises:
        InputError: it has none, or its positions are not valid.
    """
    if "positions" not in checkpoint.arrays:
        raise InputError("it has no array 'positions'")
    topology = sound_topology(checkpoint.arrays["positions"], engine)
    problem = partial_units_error(topology, engine.unit_map)
    if problem:
        raise InputError(f"its topology is {problem}; the run moves {engine.units}")
    return topology


def sound_topology(positions: NDArray[Any], engine: Engine) -> Topology:
    """The topology of positions that were read from a file.

    Args:
        positions: (N,), on the host.
        engine: the run's engine, on whose backend the topology is returned.

    Raises:
        InputError: they are not ascending positions of the engine's layout.
    """
    check_positions(positions, engine.layout)
    topology = Topology.of(engine.layout, engine.arrays.from_numpy(positions), engine.arrays)
    problem = positions_error(topology.positions, topology)
    if problem:
        raise InputError(f"it has {problem}")
    return topology


def check_positions(positions: NDArray[Any], layout: Layout) -> None:
    """Check positions that were read from a file.

    Args:
        positions: as read, on the host.
        layout: the network's sparse tensors.

    Raises:
        InputError: they are no vector of ascending, distinct positions in the layout's dtype, or there are none.
    """
    if positions.ndim != 1 or positions.dtype != layout.position_dtype:
        raise InputError(
            f"its positions are {positions.dtype} of the shape {positions.shape}; expected a vector of "
            f"{layout.position_dtype}"
        )
    if len(positions) == 0:
        raise InputError("it has no weight")
    if positions[0] < 0 or positions[-1] >= layout.size or not np.all(positions[1:] > positions[:-1]):
        raise InputError(f"its positions are not ascending and distinct ones of 0 to {layout.size - 1}")


def check_values(
    positions: NDArray[Any], values: NDArray[Any] | None, dense: Mapping[str, NDArray[Any]], layout: Layout
) -> None:
    """Check that a run can start with these positions and values.

    Args:
        positions: the active positions.
        values: the values at these positions, (N,), of any floating-point dtype; None where the file has none.
        dense: the other parameters, by name; the caller checks that they are those of the network.
        layout: the network's sparse tensors.

    Raises:
        InputError: the positions are not ascending ones of the layout, there is not one value for each, or a number is
            not finite.
    """
    check_positions(positions, layout)
    if values is None or values.shape != positions.shape or values.dtype.kind != "f":
        given = "none" if values is None else f"{values.dtype} of the shape {values.shape}"
        raise InputError(f"it has {len(positions)} positions, and as values {given}")
    for name, array in {"the values": values, **dense}.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{name} are not finite numbers")


def check_dense(parameters: Sequence[Parameter], dense: Mapping[str, NDArray[Any]]) -> None:
    """Check that every parameter that is not sparse is present, in its shape.

    Args:
        parameters: the parameters of the network.
        dense: the values of those that are not sparse, by name; others are ignored.

    Raises:
        InputError: one is missing or has another shape; the message names it.
    """
    for parameter in parameters:
        shape = dense[parameter.name].shape if parameter.name in dense else None
        if not parameter.sparse and shape != parameter.shape:
            raise InputError(
                f"it is of another network: its parameter {parameter.name!r} is "
                f"{'not there' if shape is None else shape}, here it is {parameter.shape}"
            )


@attrs.frozen
class _Times:
    step: int = attrs.field(validator=attrs.validators.ge(0))
    updates: int = attrs.field(validator=attrs.validators.ge(0))


def _times(facts: Mapping[str, Any]) -> _Times:
    return structure(_table(facts, "clock"), _Times, "clock")


def _clock(facts: Mapping[str, Any], start: Clock) -> Clock:
    times = _times(facts)
    clock = attrs.evolve(start, step=times.step, updates=times.updates)
    if not start.step <= clock.step <= (start.total_steps or clock.step) or clock.updates > clock.step:
        raise InputError(
            f"it is at step {clock.step}, after {clock.updates} updates; the run has steps {start.step} to "
            f"{start.total_steps}, and at most one update a step"
        )
    return clock


def _check_last(last: Any, clock: Clock, start: Clock) -> None:
    """Raise an :class:`InputError` unless the metrics are those of the last finished epoch."""
    if last is None:
        if clock.epoch > start.epoch:
            raise InputError(f"it has no metrics of the {clock.epoch} epochs that are done")
        return
    if not isinstance(last, Mapping):
        raise InputError(f"its last metrics are {last!r}; expected a table")
    metrics = structure(last, Metrics, "last")
    if (metrics.epoch, metrics.step) != (clock.epoch, clock.epoch * clock.steps_per_epoch):
        raise InputError(
            f"its last metrics are of epoch {metrics.epoch} and step {metrics.step}, and it is at step {clock.step} of "
            f"{clock.steps_per_epoch} an epoch"
        )
    shares = (metrics.train_accuracy, metrics.test_accuracy)
    if not all(0 <= share <= 1 for share in shares) or not clock.epoch:
        raise InputError(f"its last metrics have accuracies of {shares[0]} and {shares[1]}, after {clock.epoch} epochs")


def _check_arrays(given: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    """Check names and dtypes, that numbers are finite and counts not negative; the learner checks shapes."""
    for name in expected.keys() - given.keys():
        raise InputError(f"it has no array {name!r}")
    for name in given.keys() - expected.keys():
        raise InputError(f"it has an array {name!r}, which no such run has")
    for name, array in given.items():
        if array.dtype != expected[name].dtype:
            raise InputError(f"the array {name!r} is of {array.dtype}; expected {expected[name].dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"the array {name!r} has a number that is not finite")
        if array.dtype.kind == "i" and (array < 0).any():
            raise InputError(f"the array {name!r} has a number below zero")


_COUNTS_OF_STEPS = ("step", "steps", "young")
"""The last parts of the names of a learner's arrays that count steps: of all weights, or since a weight has grown."""


_PARAMETERS = ("other.", "running.")
"""What the names of a learner's arrays begin with that are of a network, by names of its own."""


def _check_step_counts(arrays: Mapping[str, NDArray[Any]], clock: Clock) -> None:
    for name, array in arrays.items():
        own = name.removeprefix("learner/")
        if own.rpartition(".")[2] not in _COUNTS_OF_STEPS or own.startswith(_PARAMETERS):
            continue
        if not np.all((array >= 0) & (array <= clock.step) & (array == np.floor(array))):
            raise InputError(f"the array {name!r} has numbers that count no steps of a run at step {clock.step}")


def _check_strategy_states(checkpoint: Checkpoint, start: State, topology: Topology, engine: Engine) -> None:
    units = engine.unit_map.units(topology)
    strategy_states = _table(checkpoint.facts, "memories")
    if set(strategy_states) != set(start.strategy_states):
        known, saved = (", ".join(sorted(names)) or "none" for names in (start.strategy_states, strategy_states))
        raise InputError(f"it has strategy states of {saved}; the strategies have states of {known}")
    strange = [
        name
        for name in _having(checkpoint.arrays, "memory/")
        if name.removeprefix("memory/").rpartition("/")[0] not in start.strategy_states
    ]
    if strange:
        raise InputError(f"it has arrays of no strategy of the run: {', '.join(sorted(strange))}")
    for plugin, like in start.strategy_states.items():
        vectors = checkpoint.group(f"memory/{plugin}")
        problem = saved_strategy_state_error(like, _table(strategy_states, plugin), vectors, units)
        if problem:
            raise InputError(f"the strategy state of {plugin!r} has {problem}")


def _table(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = facts.get(name)
    if not isinstance(table, Mapping):
        raise InputError(f"its {name} is {table!r}; expected a table")
    return table


def _having(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in arrays.items() if name.startswith(prefix)}
