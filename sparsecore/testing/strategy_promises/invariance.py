"""Promises that decisions do not depend on the backend or on the order of the tensors."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from sparsecore.engine.arrays import Arrays
from sparsecore.engine.distributions import DISTRIBUTIONS
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.state import vectors_of
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError, PluginError
from sparsecore.plugins.discovery import load
from sparsecore.testing.promises import BrokenPromiseError, InconclusiveError, Promise, abbreviated, expect
from sparsecore.testing.runs import (
    Snapshot,
    UpdateRecord,
    make_engine,
    perform_update,
    regrows,
    replay,
    run_update,
    strategy_state_contents,
)
from sparsecore.testing.scenarios import Scenario, scenarios
from sparsecore.testing.strategy_promises.updates import exact_shares
from sparsecore.testing.subjects import StrategySubject

_PositionsByTensor: TypeAlias = Mapping[str, list[int]]
"""Positions within each tensor, by the tensor's name."""


@st.composite
def _scenarios_without_ties(draw: DrawFn, subject: StrategySubject) -> Scenario:
    """Draw scenarios without equal values, because these are ranked by position, which depends on the order."""
    scenario = draw(scenarios(subject, min_tensors=2))
    random, dtype = np.random.default_rng(scenario.noise_seed), scenario.values.dtype
    gradients = {name: random.standard_normal(len(dense)).astype(dtype) for name, dense in scenario.gradients.items()}
    values = random.standard_normal(len(scenario.values)).astype(dtype)
    return attrs.evolve(scenario, values=values, gradients=gradients)


def _check_order(subject: StrategySubject, scenario: Scenario) -> None:
    for number, (one, other) in enumerate(zip(_updates(scenario), _updates(_reversed(scenario)), strict=True)):
        reallocations = one.reallocation, other.reallocation
        if regrows(scenario):  # what grows again was not pruned, so that these depend on the numbers that grow
            _check_counts(subject, one.reallocation, *(_positions_of(each.after) for each in reallocations))
        for change, attribute in (("pruned", "pruned_positions"), ("grown", "grown_positions")):
            first, second = (_by_tensor(reallocation, attribute) for reallocation in reallocations)
            if change == "grown":
                _check_counts(subject, one.reallocation, first, second)
            name = next((name for name in first if first[name] != second[name]), None)
            expect(
                name is None,
                f"with the tensors in reverse order, other positions of {name!r} are {change} in update {number + 1}: "
                f"{abbreviated(second.get(name or '', []))} instead of {abbreviated(first.get(name or '', []))}",
            )
        _check_strategy_states(scenario, one.after, other.after)


@attrs.frozen(eq=False)
class _Update:
    """An update, and the run after it."""

    reallocation: Reallocation
    after: Snapshot


def _updates(scenario: Scenario) -> list[_Update]:
    """Run a scenario, and return its previous updates and the one after them."""
    engine = make_engine(scenario)
    replayed = list(replay(engine, scenario))
    previous = [_Update(reallocation, snapshot) for snapshot, reallocation in replayed if reallocation]
    state, reallocation = perform_update(engine, scenario, replayed[-1][0])
    return [*previous, _Update(reallocation, Snapshot(state, reallocation.values))]


def _reversed(scenario: Scenario) -> Scenario:
    """Return the scenario with the tensors in reverse order."""
    tensors = range(len(scenario.layout))[::-1]
    layout = Layout(scenario.layout.names[::-1], scenario.layout.shapes[::-1])
    owner = np.searchsorted(scenario.layout.offsets, scenario.positions, "right") - 1
    slots = np.concatenate([np.flatnonzero(owner == tensor) for tensor in tensors])
    shift = np.array([layout.offsets[::-1][1:][tensor] - scenario.layout.offsets[tensor] for tensor in tensors[::-1]])
    positions = scenario.positions.astype(np.int64) + shift[owner]
    return attrs.evolve(
        scenario,
        layout=layout,
        positions=positions[slots].astype(layout.position_dtype),
        values=scenario.values[slots],
    )


def _by_tensor(reallocation: Reallocation, attribute: str) -> _PositionsByTensor:
    return _positions_of(reallocation.before.at(getattr(reallocation, attribute)))


def _positions_of(topology: Topology) -> _PositionsByTensor:
    return {name: topology.local(name).tolist() for name in topology.layout.names}


def _check_counts(
    subject: StrategySubject, update: Reallocation, first: _PositionsByTensor, second: _PositionsByTensor
) -> None:
    """Check how many weights grow in each tensor.

    Two tensors whose exact shares have the same fraction, a half each say, may get different numbers by their order.
    """
    before, pruned = update.before, update.pruned
    shares = exact_shares(int(update.grown.sum()), (before.counts - pruned).tolist(), before.room.tolist())
    fractions = Counter(share % 1 for share in shares if share % 1)
    may_be_tied = not subject.uses_default("allocate") or any(tensors > 1 for tensors in fractions.values())
    counts = {name: (len(first[name]), len(second[name])) for name in first}
    if may_be_tied and any(one != other for one, other in counts.values()):
        expect(
            all(abs(one - other) <= 1 for one, other in counts.values()),
            "with the tensors in reverse order, other numbers of weights grow (number, number in reverse order): "
            f"{counts}",
        )
        raise InconclusiveError("the shares of two tensors are tied")


def _check_strategy_states(scenario: Scenario, one: Snapshot, other: Snapshot) -> None:
    """Check the strategy states, in which there may be numbers of weights that a start distribution gives."""
    for plugin, strategy_state in one.state.strategy_states.items():
        first, second = (
            _contents_by_tensor(snapshot.state.strategy_states[plugin], snapshot.state.topology)
            for snapshot in (one, other)
        )
        changed = [name for name in first if not np.array_equal(first[name], second[name])]
        if changed and _starts_are_tied(scenario):
            raise InconclusiveError("the numbers of weights of two tensors are tied in a start distribution")
        expect(
            not changed,
            f"with the tensors in reverse order, the {type(strategy_state).__name__} of {plugin!r} has other contents: "
            f"{', '.join(changed)}",
        )


def _starts_are_tied(scenario: Scenario) -> bool:
    """Return whether a start distribution rounds the numbers of weights by the order of the tensors."""
    layout, sparsity = scenario.layout, max(scenario.sparsity, 1 - len(scenario.positions) / scenario.layout.size)
    other = Layout(layout.names[::-1], layout.shapes[::-1])
    return any(
        not np.array_equal(each(layout, sparsity), each(other, sparsity)[::-1]) for each in DISTRIBUTIONS.values()
    )


def _contents_by_tensor(strategy_state: Any, topology: Topology) -> dict[str, Any]:
    """Return a state's vectors cut by tensors, and its texts and numbers, rounded because sums depend on the order."""
    vectors = vectors_of(strategy_state)
    scalars = {
        field.name: getattr(strategy_state, field.name)
        for field in attrs.fields(type(strategy_state))
        if isinstance(getattr(strategy_state, field.name), str | int | float | None)
    }
    rounded = {name: f"{content:.6g}" if isinstance(content, float) else content for name, content in scalars.items()}
    by_tensor = {
        f"{field} of {name}": topology.arrays.to_numpy(vector[topology.slots(name)])
        for field, vector in vectors.items()
        for name in topology.layout.names
    }
    return {**rounded, **by_tensor}


def _importable(names: tuple[str, ...]) -> dict[str, Arrays]:
    """Return the array operations of those of these backends that can be imported."""
    found = {}
    for name in names:
        try:
            found[name] = load("backend", name)().arrays
        except (PluginError, InputError, ImportError):
            continue
    return found


def _has_other_backends(subject: StrategySubject) -> bool:
    return bool(_importable(subject.backends))


def _check_backends(subject: StrategySubject, scenario: Scenario) -> None:
    oracle = run_update(scenario)
    for name, arrays in _importable(subject.backends).items():
        other = _run_update_on(name, scenario, arrays)
        expected, found = (_positions(update) for update in (oracle, other))
        only_found, only_expected = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
        expect(
            expected == found,
            f"after the update, only the backend {name!r} has weights at positions {abbreviated(only_found)}, and only "
            f"the oracle at {abbreviated(only_expected)}",
        )
        values = (_on_host(update, update.reallocation.values) for update in (oracle, other))
        expect(np.array_equal(*values), f"after the update on {name!r}, the values differ from the oracle's")
        changed = _changed_contents(oracle, other)
        expect(not changed, f"on {name!r} the strategy state {', '.join(changed)} differs from the oracle's")


def _run_update_on(name: str, scenario: Scenario, arrays: Arrays) -> UpdateRecord:
    try:
        return run_update(scenario, arrays)
    except Exception as error:  # the oracle has raised none
        raise BrokenPromiseError(
            f"on the backend {name!r}, unlike on the oracle, there was {type(error).__name__}: {error}"
        ) from error


def _positions(update: UpdateRecord) -> list[int]:
    positions: list[int] = _on_host(update, update.state.topology.positions).tolist()
    return positions


def _on_host(update: UpdateRecord, array: Any) -> Any:
    return update.state.topology.arrays.to_numpy(array)


def _changed_contents(one: UpdateRecord, other: UpdateRecord) -> list[str]:
    first, second = strategy_state_contents(one.state), strategy_state_contents(other.state)
    names = first.keys() | second.keys()
    return sorted(name for name in names if not _is_nearly_equal(first.get(name), second.get(name)))


def _is_nearly_equal(one: Any, other: Any) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return bool(one == other)
    first, second = (np.frombuffer(content, dtype).reshape(shape) for dtype, shape, content in (one, other))
    # another backend may add up sums in another order
    return first.dtype == second.dtype and first.shape == second.shape and np.allclose(first, second, 1e-6, 1e-9)


INVARIANCE = (
    Promise("order", "the order of the tensors does not change the decisions", _scenarios_without_ties, _check_order),
    Promise(
        "backends",
        "every installed backend makes the same decisions",
        scenarios,
        _check_backends,
        applies=_has_other_backends,
        fraction=0.5,
    ),
)
