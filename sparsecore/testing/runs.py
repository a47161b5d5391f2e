"""Runs scenarios: engines, steps of training and updates, and the comparison of two runs."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import Array, Arrays, Gradient, InputNorms
from sparsecore.engine.engine import Engine
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.reallocation import Reallocation, RegrowPruned
from sparsecore.engine.state import State
from sparsecore.engine.step import Advance
from sparsecore.engine.topology import Topology
from sparsecore.engine.update import regrow_pruned_of
from sparsecore.errors import NoRoomError
from sparsecore.testing.scenarios import Scenario
from sparsecore.testing.starts import normal_values
from sparsecore.testing.subjects import Stack, fresh_copies, oracle_arrays


@attrs.frozen(eq=False)
class Snapshot:
    """A run between two steps.

    Attributes:
        state: the engine's state.
        values: one value for each weight, on the engine's backend.
    """

    state: State
    values: Array


@attrs.frozen(eq=False)
class UpdateRecord:
    """An update.

    Attributes:
        before: the run before it.
        state: the engine's state after it.
        reallocation: what was pruned and grown.
        kept: the survivors of the pruning, before any weight grew again.
    """

    before: Snapshot
    state: State
    reallocation: Reallocation
    kept: Topology


@attrs.frozen(eq=False)
class _KeptRecorder:
    """Records the survivors that growth is given, and decides nothing.

    Attributes:
        topologies: the survivors of each update.
    """

    only_looks_on: ClassVar = True

    topologies: list[Topology] = attrs.field(factory=list)

    @hookimpl
    def grow(self, kept: Topology) -> None:
        """Record the survivors, and leave the growth to the strategies below."""
        self.topologies.append(kept)


def make_engine(
    scenario: Scenario,
    arrays: Arrays | None = None,
    stack: Stack | None = None,
    regrow_pruned: RegrowPruned | None = None,
) -> Engine:
    """Make an engine with strategies that have seen no run.

    Args:
        scenario: the layout, the strategies and the seed.
        arrays: the array operations of a backend; None for the oracle's.
        stack: strategies to use in place of the scenario's.
        regrow_pruned: whether what was pruned may grow again; None for what the strategies are made for.
    """
    stack = fresh_copies(scenario.stack) if stack is None else stack
    return Engine(
        scenario.layout,
        stack,
        arrays=arrays or oracle_arrays(),
        seed=scenario.seed,
        regrow_pruned=regrow_pruned,
    )


def regrows(scenario: Scenario) -> bool:
    """Return whether what is pruned may grow again in the same update, by what the strategies are made for.

    Args:
        scenario: the strategies.
    """
    return bool(regrow_pruned_of(scenario.stack.values(), None))


def initial_snapshot(engine: Engine, scenario: Scenario) -> Snapshot:
    """Return the beginning of the scenario, before its previous updates.

    Args:
        engine: an engine of the scenario's layout and strategies.
        scenario: the initial positions and values, and the clock.
    """
    topology = scenario.topology_on(engine.arrays)
    clock = attrs.evolve(
        scenario.clock,
        step=max(0, scenario.clock.step - scenario.previous_updates),
        updates=max(0, scenario.clock.updates - scenario.previous_updates),
    )
    values = normal_values(engine, scenario.values.dtype.name)
    sparsity = max(scenario.sparsity, topology.sparsity)
    state = engine.start_at(topology, sparsity=sparsity, clock=clock, values=values)
    return Snapshot(state, engine.arrays.from_numpy(scenario.values.copy()))


def snapshot_before_update(engine: Engine, scenario: Scenario) -> Snapshot:
    """Run the scenario's previous updates, and return the run before the update that is checked.

    Args:
        engine: an engine of the scenario's layout and strategies, which has seen no run.
        scenario: the scenario.
    """
    return deque((snapshot for snapshot, _ in replay(engine, scenario)), maxlen=1).pop()


def replay(engine: Engine, scenario: Scenario) -> Iterator[tuple[Snapshot, Reallocation | None]]:
    """Run the scenario's previous updates step by step.

    Args:
        engine: an engine of the scenario's layout and strategies, which has seen no run.
        scenario: the scenario.

    Yields:
        The run at the beginning and after each step, each with the update that led to it (None if there was none). In
        the last one the weights have the scenario's values.
    """
    snapshot = initial_snapshot(engine, scenario)
    yield snapshot, None
    for number in range(scenario.previous_updates):
        snapshot, reallocation = _step_and_update(engine, scenario, snapshot, _PREVIOUS_STEPS + number)
        if number == scenario.previous_updates - 1:
            snapshot = Snapshot(snapshot.state, _scenario_values(scenario, snapshot.state.topology))
        yield snapshot, reallocation


_PREVIOUS_STEPS = 10**6
"""The number of the first previous step: so large that no later step draws the same random numbers."""


def _step_and_update(
    engine: Engine, scenario: Scenario, snapshot: Snapshot, number: int
) -> tuple[Snapshot, Reallocation | None]:
    """Take a step of training and an update, whether or not it is due; leave out what there is no room for."""
    try:
        advance = _advance(engine, scenario, snapshot, number)
    except NoRoomError:
        return snapshot, None
    if advance.reallocation is not None:
        return Snapshot(advance.state, advance.values), advance.reallocation
    try:
        state, reallocation = _update(engine, scenario, Snapshot(advance.state, advance.values), number)
    except NoRoomError:
        return Snapshot(advance.state, advance.values), None
    return Snapshot(state, reallocation.values), reallocation


def _scenario_values(scenario: Scenario, topology: Topology) -> Array:
    """Give each tensor the scenario's values for it, repeated if it has more weights now."""
    bounds = np.searchsorted(scenario.positions, scenario.layout.offsets)
    by_tensor = [scenario.values[first:last] for first, last in pairwise(bounds)]
    counts = topology.counts.tolist()
    parts = [np.resize(values, count) for values, count in zip(by_tensor, counts, strict=True)]
    return topology.arrays.from_numpy(np.concatenate(parts))


def run_update(
    scenario: Scenario,
    arrays: Arrays | None = None,
    regrow_pruned: RegrowPruned | None = None,
    change_values: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray,
) -> UpdateRecord:
    """Run a scenario with its update.

    Args:
        scenario: the scenario.
        arrays: the array operations of a backend; None for the oracle's.
        regrow_pruned: as of :func:`make_engine`.
        change_values: returns the values for the update that is checked, given those of the scenario on the host.
    """
    recorder = _KeptRecorder()
    stack = {**fresh_copies(scenario.stack), "the recorder of the test kit": recorder}
    engine = make_engine(scenario, arrays, stack, regrow_pruned)
    before = snapshot_before_update(engine, scenario)
    if change_values is not np.asarray:
        values = change_values(engine.arrays.to_numpy(before.values))
        before = Snapshot(before.state, engine.arrays.from_numpy(values))
    state, reallocation = perform_update(engine, scenario, before)
    return UpdateRecord(before, state, reallocation, recorder.topologies[-1])


def perform_update(engine: Engine, scenario: Scenario, before: Snapshot) -> tuple[State, Reallocation]:
    """Perform the update that is checked.

    Args:
        engine: the engine that has run the previous updates.
        scenario: the gradients.
        before: the run before the update.

    Returns:
        The engine's state after the update, and what was pruned and grown.
    """
    return _update(engine, scenario, before)


def training_step(engine: Engine, scenario: Scenario, snapshot: Snapshot, number: int) -> Snapshot:
    """Take a step of training, and the update after it if one is due.

    Args:
        engine: the engine.
        scenario: the seed of the noise that stands for training, and the learning rate.
        snapshot: the run before the step.
        number: determines, with the seed, the random numbers of the step.
    """
    advance = _advance(engine, scenario, snapshot, number)
    return Snapshot(advance.state, advance.values)


def _advance(engine: Engine, scenario: Scenario, snapshot: Snapshot, number: int) -> Advance:
    topology = snapshot.state.topology
    draws = [
        _random(scenario, number, "step", name).standard_normal(count)
        for name, count in zip(topology.layout.names, topology.counts.tolist(), strict=True)
    ]
    noise = engine.arrays.from_numpy(np.concatenate(draws).astype(scenario.values.dtype))
    noise = engine.perturbed_gradient(snapshot.state, snapshot.values, noise)
    plan = engine.plan(snapshot.state)
    gradients = step_gradients(engine, scenario, topology, plan.candidates, number)
    return engine.advance(snapshot.state, snapshot.values + noise * 0.1, scenario.learning_rate, plan=plan, **gradients)


def _update(
    engine: Engine, scenario: Scenario, before: Snapshot, number: int | None = None
) -> tuple[State, Reallocation]:
    """Perform an update by the gradients of a step, or by the scenario's if no number is given."""
    candidates = engine.candidates(before.state)
    gradients = step_gradients(engine, scenario, before.state.topology, candidates, number)
    return engine.update(before.state, before.values, **gradients)


def _random(scenario: Scenario, number: int, *purpose: str) -> np.random.Generator:
    """Return a generator that depends on the step and the names alone, and not on the order of the tensors."""
    return np.random.default_rng([scenario.noise_seed, number, zlib.crc32("/".join(purpose).encode())])


def forced_update(engine: Engine, scenario: Scenario, snapshot: Snapshot, number: int | None = None) -> Snapshot:
    """Perform an update, whether or not one is due.

    Args:
        engine: the engine.
        scenario: the gradients.
        snapshot: the run before the update.
        number: the step whose gradients are used; None for the scenario's.
    """
    state, reallocation = _update(engine, scenario, snapshot, number)
    return Snapshot(state, reallocation.values)


def run_step(engine: Engine, scenario: Scenario, snapshot: Snapshot, number: int) -> Snapshot:
    """Take a step of training, and in every second step an update, whether or not it is due.

    Args:
        engine: the engine.
        scenario: the seed of the noise, the learning rate and the gradients.
        snapshot: the run before the step.
        number: determines, with the seed, the random numbers of the step; odd numbers have an update.
    """
    after = training_step(engine, scenario, snapshot, number)
    is_updated = after.state.clock.updates > snapshot.state.clock.updates
    return after if is_updated or number % 2 == 0 else forced_update(engine, scenario, after, number)


def run_steps(engine: Engine, scenario: Scenario, snapshot: Snapshot, numbers: range) -> Snapshot:
    """Take the steps of these numbers, one after another, as :func:`run_step` does.

    Args:
        engine: the engine.
        scenario: the seed of the noise, the learning rate and the gradients.
        snapshot: the run before the first of the steps.
        numbers: of the steps; with the seed they determine the random numbers, and odd ones have an update.
    """
    for number in numbers:
        snapshot = run_step(engine, scenario, snapshot, number)
    return snapshot


def step_gradients(
    engine: Engine, scenario: Scenario, topology: Topology, candidates: Topology | None, number: int | None = None
) -> dict[str, Any]:
    """Return the gradients of a step as :meth:`Engine.advance` takes them.

    Args:
        engine: the engine.
        scenario: with dense gradients, from which the engine takes others; without them, those of active weights and of
            candidates are drawn if strategies ask for them.
        topology: the active positions.
        candidates: those whose gradients the step takes; None where there are none.
        number: the step, which determines the random numbers; None for the scenario's gradients.
    """
    drawn: dict[str, Any] = {}
    if engine.gradient_requests.inputs:
        drawn["input_norms"] = _input_norms(engine, scenario, number or 0)
    if scenario.gradients:
        return {"gradient": _dense_gradient(engine, scenario, number), **drawn}
    if engine.gradient_requests.weight:
        drawn["weight_gradient"] = _drawn(engine, scenario, topology, "active gradient", number or 0)
    if candidates is not None:
        drawn["candidate_gradient"] = _drawn(engine, scenario, candidates, "candidate gradient", number or 0)
    return drawn


def _input_norms(engine: Engine, scenario: Scenario, number: int) -> InputNorms:
    """Draw norms of inputs, some of them zero."""

    def of(name: str) -> Array:
        random = _random(scenario, number, "input norms", name)
        inputs = scenario.layout.shapes[scenario.layout.index(name)][:2][-1]
        norms = random.exponential(size=inputs) * (random.random(inputs) > 0.1)
        return engine.arrays.from_numpy(norms.astype(scenario.values.dtype))

    return of


def _drawn(engine: Engine, scenario: Scenario, positions: Topology, purpose: str, number: int) -> Array:
    draws = [
        _random(scenario, number, purpose, name).standard_normal(count)
        for name, count in zip(positions.layout.names, positions.counts.tolist(), strict=True)
    ]
    return engine.arrays.from_numpy(np.concatenate(draws).astype(scenario.values.dtype))


def _dense_gradient(engine: Engine, scenario: Scenario, number: int | None = None) -> Gradient:
    """Return the dense gradients of a step, or the scenario's if no number is given."""
    if number is None:
        return scenario.gradients_on(engine.arrays).__getitem__
    return {
        name: engine.arrays.from_numpy(
            _random(scenario, number, "gradient", name).standard_normal(len(dense)).astype(dense.dtype)
        )
        for name, dense in scenario.gradients.items()
    }.__getitem__


def first_difference(one: Snapshot, other: Snapshot) -> str | None:
    """Compare two runs bit for bit; they may be on different backends.

    Args:
        one: a run.
        other: another run of the same layout and strategies.

    Returns:
        What differs first, as the end of a sentence; None if the runs are the same.
    """
    if _positions(one.state.topology) != _positions(other.state.topology):
        return "positions"
    if _on_host(one.values, one).tobytes() != _on_host(other.values, other).tobytes():
        return "values"
    if one.state.clock != other.state.clock:
        return "the clock"
    first, second = strategy_state_contents(one.state), strategy_state_contents(other.state)
    changed = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return f"the strategy state {', '.join(changed)}" if changed else None


def strategy_state_contents(state: State) -> Mapping[str, Any]:
    """Return the fields of all strategy states by 'strategy.field'.

    Returns:
        Scalars as they are, and arrays as tuples of dtype, shape and bytes.
    """
    arrays = state.topology.arrays
    return {
        f"{plugin}.{field.name}": _comparable(getattr(strategy_state, field.name), arrays)
        for plugin, strategy_state in state.strategy_states.items()
        for field in attrs.fields(type(strategy_state))
    }


def _comparable(content: Any, arrays: Arrays) -> Any:
    if not hasattr(content, "shape"):
        return content
    host = content if isinstance(content, np.ndarray) else arrays.to_numpy(content)
    return str(host.dtype), host.shape, host.tobytes()


def _positions(topology: Topology) -> list[int]:
    return list(map(int, topology.arrays.to_numpy(topology.positions)))


def _on_host(values: Array, snapshot: Snapshot) -> Any:
    return snapshot.state.topology.arrays.to_numpy(values)
