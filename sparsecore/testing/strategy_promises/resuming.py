"""Promises about saving and resuming: a strategy's state holds everything that it remembers."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.engine import Engine
from sparsecore.engine.position_validation import topology_error
from sparsecore.engine.saved_states import saved_strategy_state_error
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.run.checkpoint import Checkpoint, from_checkpoint, to_checkpoint
from sparsecore.testing.promises import Promise, expect
from sparsecore.testing.runs import (
    Snapshot,
    first_difference,
    forced_update,
    initial_snapshot,
    make_engine,
    run_steps,
    snapshot_before_update,
    training_step,
)
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.subjects import StrategySubject, implementer


class _ValuesHolder:
    """Stands for a learner where a checkpoint is made or loaded: it holds the values and nothing else."""

    def __init__(self, values: Any, arrays: Arrays) -> None:
        self.values, self._arrays = values, arrays

    def state(self) -> dict[str, NDArray[Any]]:
        return {"values": self._arrays.to_numpy(self.values).copy()}

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        return {}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:  # noqa: ARG002
        self.values = self._arrays.from_numpy(state["values"])


@attrs.frozen
class _SavedRun:
    """The contents of a checkpoint: scalars as JSON, arrays in safetensors' format."""

    facts: str
    arrays: bytes


def _save(snapshot: Snapshot) -> _SavedRun:
    from safetensors.numpy import save

    learner: Any = _ValuesHolder(snapshot.values, snapshot.state.topology.arrays)
    checkpoint = to_checkpoint(snapshot.state, learner, {})
    return _SavedRun(json.dumps(checkpoint.facts, sort_keys=True, allow_nan=False), save(dict(checkpoint.arrays)))


def _load(engine: Engine, start: State, saved: _SavedRun) -> Snapshot:
    """Load a run that was saved.

    Args:
        engine: an engine of the same strategies.
        start: its state at the start of the run.
        saved: the checkpoint.
    """
    from safetensors.numpy import load

    learner: Any = _ValuesHolder(None, engine.arrays)
    checkpoint = Checkpoint(json.loads(saved.facts), load(saved.arrays))
    state = from_checkpoint(checkpoint, start, learner)
    units = engine.unit_map.units(state.topology)
    for plugin, like in start.strategy_states.items():
        error = saved_strategy_state_error(
            like, checkpoint.facts["memories"][plugin], checkpoint.group(f"memory/{plugin}"), units
        )
        expect(error is None, f"a state that {plugin!r} has returned is refused when it is loaded: it has {error}")
    return Snapshot(state, learner.values)


@attrs.frozen(eq=False)
class _Run:
    """A run between two steps, with its engine."""

    scenario: Scenario
    engine: Engine
    snapshot: Snapshot

    @classmethod
    def of(cls, scenario: Scenario) -> "_Run":
        engine = make_engine(scenario)
        return cls(scenario, engine, snapshot_before_update(engine, scenario))

    def at(self, snapshot: Snapshot) -> "_Run":
        return attrs.evolve(self, snapshot=snapshot)


class InterruptedRun:
    """A run that can be saved, stopped and resumed, with the same run without interruptions for comparison.

    Args:
        scenario: what the runs begin with.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._run, self._uninterrupted = _Run.of(scenario), _Run.of(scenario)

    def train(self, number: int) -> None:
        """Take a step of training in both runs.

        Args:
            number: determines, with the scenario's seed, the random numbers of the step, which are the same in both.
        """
        self._in_both(lambda run: training_step(run.engine, run.scenario, run.snapshot, number))

    def update(self) -> None:
        """Perform an update in both runs, whether or not it is due."""
        self._in_both(lambda run: forced_update(run.engine, run.scenario, run.snapshot))

    def save_and_load(self) -> None:
        """Replace the run by what a checkpoint of it restores in the same engine."""
        run = self._run
        self._run = run.at(_load(run.engine, initial_snapshot(run.engine, run.scenario).state, _save(run.snapshot)))

    def stop_and_resume(self) -> None:
        """Replace the run by what a checkpoint of it restores in a new engine."""
        scenario, engine = self._run.scenario, make_engine(self._run.scenario)
        snapshot = _load(engine, initial_snapshot(engine, scenario).state, _save(self._run.snapshot))
        self._run = _Run(scenario, engine, snapshot)

    def check(self) -> None:
        """Check that both runs are the same, sound, and have the number of weights they should have.

        Raises:
            BrokenPromiseError: they are not.
        """
        scenario, state, values = self._run.scenario, self._run.snapshot.state, self._run.snapshot.values
        difference = first_difference(self._run.snapshot, self._uninterrupted.snapshot)
        expect(difference is None, f"a run that was saved, stopped and resumed differs in {difference}")
        error = topology_error(state.topology, scenario.layout)
        expect(error is None, f"the topology of the run is invalid: {error}")
        size, expected = state.topology.size, len(scenario.positions)
        expect(
            size == expected or implementer(scenario.stack, "target_size"),
            f"there are {size} weights instead of {expected}",
        )
        expect(
            len(values) == size and state.topology.arrays.all_finite(values),
            "there is not one finite value for each weight",
        )

    def _in_both(self, act: Callable[[_Run], Snapshot]) -> None:
        first, second = act(self._run), act(self._uninterrupted)
        self._run, self._uninterrupted = self._run.at(first), self._uninterrupted.at(second)


_STEPS = 4


def _check_saving(_: StrategySubject, scenario: Scenario) -> None:
    engine = make_engine(scenario)
    start = snapshot_before_update(engine, scenario)
    snapshot = run_steps(engine, scenario, start, range(_STEPS))
    difference = first_difference(snapshot, _load(engine, start.state, _save(snapshot)))
    expect(difference is None, f"what was saved and loaded differs in {difference}")


def _check_resuming(_: StrategySubject, scenario: Scenario) -> None:
    engine = make_engine(scenario)
    start = snapshot_before_update(engine, scenario)
    half = run_steps(engine, scenario, start, range(_STEPS))
    saved, whole = _save(half), run_steps(engine, scenario, half, range(_STEPS, 2 * _STEPS))
    _run_something_else(scenario)
    new_engine = make_engine(scenario)
    loaded = _load(new_engine, initial_snapshot(new_engine, scenario).state, saved)
    resumed = run_steps(new_engine, scenario, loaded, range(_STEPS, 2 * _STEPS))
    difference = first_difference(whole, resumed)
    expect(
        difference is None,
        f"a run that was stopped after {_STEPS} steps and resumed ends with other {difference}",
    )


def _run_something_else(scenario: Scenario) -> None:
    """Run another scenario in this process, which changes whatever state the runs may share."""
    other = attrs.evolve(scenario, seed=scenario.seed + 1, noise_seed=scenario.noise_seed + 1)
    engine = make_engine(other)
    run_steps(engine, other, snapshot_before_update(engine, other), range(_STEPS + 1))


def _check_any_order(_: StrategySubject, scenario: Scenario) -> None:
    """Take the steps of the state machine in an order that the scenario determines."""
    runs, random = InterruptedRun(scenario), np.random.default_rng([scenario.noise_seed, 1])
    for number, choice in enumerate(random.integers(0, 4, 3 * _STEPS)):
        acts: tuple[Callable[[], None], ...] = (
            partial(runs.train, number),
            runs.update,
            runs.save_and_load,
            runs.stop_and_resume,
        )
        acts[choice]()
        runs.check()


RESUMING = (
    Promise("saving", "a saved run is the same after loading", scenarios, _check_saving, fraction=0.5),
    Promise(
        "resume",
        "a run that was stopped and resumed ends like one that was not",
        scenarios,
        _check_resuming,
        fraction=0.5,
    ),
    Promise(
        "any-order",
        "training, updates, saving, loading, stopping and resuming in any order give the same as no interruption",
        scenarios,
        _check_any_order,
        fraction=0.5,
    ),
)
