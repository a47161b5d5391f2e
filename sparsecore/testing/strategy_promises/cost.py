"""Promises about arguments and memory: hooks leave their arguments unchanged and need memory for the weights only."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Engine
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.testing.peak_memory import (
    LARGE_SIZE,
    MEMORY_LIMIT,
    few_positions,
    peak_memory,
    sparsity_with_few_weights,
)
from sparsecore.testing.promises import InconclusiveError, Promise, expect
from sparsecore.testing.runs import Snapshot, make_engine, snapshot_before_update, step_gradients
from sparsecore.testing.scenarios import VAST_SIZE, Scenario, scenarios
from sparsecore.testing.starts import start
from sparsecore.testing.subjects import StrategySubject, oracle_arrays


class _WritableArrays:
    """The oracle's array operations without read-only views, as on backends that have none."""

    def __getattr__(self, operation: str) -> Any:
        return getattr(oracle_arrays(), operation)

    def readonly(self, array: Any) -> Any:
        return array


def _check_arguments(_: StrategySubject, scenario: Scenario) -> None:
    engine = make_engine(scenario, _WritableArrays())
    before = snapshot_before_update(engine, scenario)
    gradients = scenario.gradients_on(engine.arrays)
    given = _given(engine, before, scenario, gradients)
    weight_gradient = before.values * 0.5
    arguments = {**_arguments(before, gradients), "the gradient of the weights": np.asarray(weight_gradient)}
    copies = {name: array.copy() for name, array in arguments.items()}
    for act in _step_and_update(engine, before, scenario, given, weight_gradient):
        after = act()
        changed = [name for name, copy in copies.items() if copy.tobytes() != arguments[name].tobytes()]
        expect(not changed, f"a hook has changed its arguments in place: {', '.join(changed)}")
        for field, kept in _state_arrays(after).items():
            shared = [name for name in ("values", *_by_name(gradients)) if np.shares_memory(kept, arguments[name])]
            expect(
                not shared,
                f"{field} shares memory with {', '.join(shared)}, which training may change in place; store a copy",
            )


def _given(
    engine: Engine, before: Snapshot, scenario: Scenario, gradients: Mapping[str, Array]
) -> Callable[[Topology | None], dict[str, Any]]:
    """Return a function from candidates to the gradients that the engine is given."""
    dense = {"gradient": gradients.__getitem__} if gradients else {}
    return lambda candidates: {**step_gradients(engine, scenario, before.state.topology, candidates), **dense}


def _step_and_update(
    engine: Engine,
    before: Snapshot,
    scenario: Scenario,
    given: Callable[[Topology | None], dict[str, Any]],
    weight_gradient: Array,
) -> tuple[Callable[[], State], ...]:
    """Return functions that change the gradient, take a step and perform an update, and return the state after it."""
    state, values = before.state, before.values

    def perturb() -> State:
        engine.perturbed_gradient(state, values, weight_gradient)
        return state

    return (
        perturb,
        lambda: engine.advance(state, values, scenario.learning_rate, **given(engine.plan(state).candidates)).state,
        lambda: engine.update(state, values, **given(engine.candidates(state)))[0],
    )


def _arguments(snapshot: Snapshot, gradients: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Return every array that a hook is given, by its name in a sentence."""
    return {
        "positions": np.asarray(snapshot.state.topology.positions),
        "values": np.asarray(snapshot.values),
        **_state_arrays(snapshot.state),
        **_by_name(gradients),
    }


def _by_name(gradients: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    return {f"the gradient of {name}": np.asarray(gradient) for name, gradient in gradients.items()}


def _state_arrays(state: State) -> dict[str, NDArray[Any]]:
    """Return the arrays of the strategies' states by their names in a sentence."""
    return {
        f"{field.name} of {plugin}": getattr(strategy_state, field.name)
        for plugin, strategy_state in state.strategy_states.items()
        for field in attrs.fields(type(strategy_state))
        if isinstance(getattr(strategy_state, field.name), np.ndarray)
    }


@st.composite
def _scenarios_with_few_weights(draw: DrawFn, subject: StrategySubject, size: int) -> Scenario:
    return attrs.evolve(_with_few_weights(draw(scenarios(subject)), size), gradients={})


def _with_few_weights(scenario: Scenario, size: int) -> Scenario:
    """Replace the network by one of few weights in a small tensor and in one of ``size`` positions."""
    layout = Layout.of({"small": (10, 20), "vast": (size,)})
    random = np.random.default_rng(scenario.noise_seed)
    positions = few_positions(layout, random)
    return attrs.evolve(
        scenario,
        layout=layout,
        positions=positions,
        values=random.standard_normal(len(positions)).astype(scenario.values.dtype),
        sparsity=sparsity_with_few_weights(layout),
        previous_updates=0,
    )


def _check_memory(_: StrategySubject, scenario: Scenario) -> None:
    peak = peak_memory(partial(_start_step_and_update, scenario))
    expect(
        peak < MEMORY_LIMIT,
        f"an update of {len(scenario.values)} weights among {scenario.layout.size:,} positions took {peak:,} bytes of "
        f"memory; {MEMORY_LIMIT:,} are enough if no array has an entry for each position",
    )


def _check_vast_tensors(_: StrategySubject, scenario: Scenario) -> None:
    if peak_memory(partial(_start_step_and_update, _with_few_weights(scenario, LARGE_SIZE))) >= MEMORY_LIMIT:
        raise InconclusiveError("the strategy needs memory for each position, and there are too many of them")
    _start_step_and_update(scenario)


def _start_step_and_update(scenario: Scenario) -> None:
    engine = make_engine(scenario)
    start(engine, scenario.sparsity, scenario.clock)
    snapshot = snapshot_before_update(engine, scenario)
    given = _given(engine, snapshot, scenario, {})
    for act in _step_and_update(engine, snapshot, scenario, given, snapshot.values * 0.5):
        act()


def _needs_no_dense_memory(subject: StrategySubject) -> bool:
    return subject.needs_no_dense_memory


COST = (
    Promise(
        "inputs",
        "hooks do not change their arguments, and strategy states store copies of values and gradients",
        scenarios,
        _check_arguments,
        fraction=0.5,
    ),
    Promise(
        "size",
        "memory grows with the number of weights and not of positions, unless the dense gradient or all initial values "
        "are requested, or target_size is implemented",
        partial(_scenarios_with_few_weights, size=LARGE_SIZE),
        _check_memory,
        applies=_needs_no_dense_memory,
        fraction=0.1,
    ),
    Promise(
        "vast",
        "positions beyond 32 bits are handled like all others",
        partial(_scenarios_with_few_weights, size=VAST_SIZE),
        _check_vast_tensors,
        hooks=("initial_topology", "prune", "allocate", "grow", "initial_values", "strategy_state", "target_size"),
        errors=True,
        applies=_needs_no_dense_memory,
        fraction=0.1,
    ),
)
