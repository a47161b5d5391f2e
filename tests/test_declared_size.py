"""Strategies that declare the number of weights, that take an optimizer step's place, that see all gradients."""

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS, engine, normal_values, plugin
from hypothesis import given
from hypothesis import strategies as st

from sparsecore import Clock, Every, InputError, InvariantError, Topology, hookimpl


@attrs.frozen(eq=False)
class Final:
    """The number of weights at the end."""

    weights: int


@attrs.frozen(eq=False)
class Halving:
    """Start with all weights; every update keeps the larger half, down to what the sparsity asks for."""

    @hookimpl
    def initial_topology(self, layout, arrays):
        return Topology.of(layout, arrays.arange(layout.size, layout.position_dtype), arrays)

    @hookimpl
    def initial_strategy_state(self, topology, sparsity):
        return Final(round((1 - sparsity) * topology.layout.size))

    @hookimpl
    def update_due(self, clock):
        return Every(steps=1)(clock)

    @hookimpl
    def target_size(self, topology, strategy_state):
        return max(strategy_state.weights, topology.size // 2)

    @hookimpl
    def prune(self, topology, values, strategy_state):
        return topology.all_but(
            ARRAYS.argsort(abs(values))[: topology.size - self.target_size(topology, strategy_state)]
        )


def _sizes(strategy, steps, sparsity=0.9):
    eng = engine(TWO_TENSORS, [strategy])
    state = eng.start(sparsity)
    values, sizes = normal_values(state.topology), [state.topology.size]
    for _ in range(steps):
        advance = eng.advance(state, values)
        state, values = advance.state, advance.values
        sizes.append(state.topology.size)
        assert len(values) == state.topology.size
    return sizes


def test_the_number_of_weights_follows_what_the_strategy_declares():
    assert _sizes(Halving(), 5) == [200, 100, 50, 25, 20, 20]


def test_survivors_of_a_shrinking_update_keep_position_and_value():
    eng = engine(TWO_TENSORS, [Halving()])
    state = eng.start(0.9)
    values = normal_values(state.topology)
    after, reallocation = eng.update(attrs.evolve(state, clock=Clock(step=1)), values)
    kept = np.sort(np.argsort(-abs(values), kind="stable")[:100])
    np.testing.assert_array_equal(after.topology.positions, kept)
    np.testing.assert_array_equal(reallocation.values, values[kept])
    np.testing.assert_array_equal(reallocation.carry(values), values[kept])
    assert (reallocation.pruned_count, reallocation.grown.sum()) == (100, 0)


@given(target=st.integers(10, 30))
def test_growth_fills_up_to_the_declared_size(target):
    dropping = plugin(prune=lambda topology: topology.all_but(np.arange(0, 20, 2)), target_size=lambda: target)
    eng = engine(TWO_TENSORS, [dropping])
    state = eng.start(0.9)
    after, reallocation = eng.update(state, normal_values(state.topology))
    assert after.topology.size == target
    assert reallocation.grown.sum() == target - 10


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (19, "returned 19; 20 weights survive and there are 200 positions"),
        (201, "returned 201; 20 weights survive and there are 200 positions"),
        (20.0, "returned 20.0; expected a whole number of weights"),
        (True, "returned True; expected a whole number of weights"),
    ],
)
def test_an_impossible_size_is_an_error_that_names_the_plugin(target, sentence):
    eng = engine(TWO_TENSORS, {"broken": plugin(target_size=lambda: target)})
    state = eng.start(0.9)
    with pytest.raises(InvariantError, match=f"plugin 'broken' broke a promise in 'target_size': it {sentence}"):
        eng.update(state, normal_values(state.topology))


def test_a_full_topology_changes_only_when_it_shrinks():
    static = engine(TWO_TENSORS, [plugin(update_due=lambda: True)])
    assert static.plan(static.start(0.0)).is_idle
    shrinking = engine(TWO_TENSORS, [Halving()])
    assert shrinking.plan(shrinking.start(0.9)).update_due


def test_an_update_replaces_a_step_only_where_the_strategy_requests_it():
    replacing = plugin(update_due=lambda clock: clock.step % 3 == 0, replaces_step=lambda: True)
    eng = engine(TWO_TENSORS, [replacing])
    state, replaced = eng.start(0.9), []
    for _ in range(6):
        replaced.append(eng.plan(state).replaces_step)
        state = eng.advance(state, normal_values(state.topology)).state
    assert replaced == [False, False, True, False, False, True]
    ordinary = engine(TWO_TENSORS, [plugin(update_due=lambda: True)])
    assert not ordinary.plan(ordinary.start(0.9)).replaces_step


@attrs.frozen(eq=False)
class Sum:
    """The sum of all gradients so far."""

    total: float


@attrs.frozen(eq=False)
class Watchful:
    """Sees the gradients of every step."""

    @hookimpl
    def initial_strategy_state(self):
        return Sum(0.0)

    @hookimpl
    def observe(self, gradient, strategy_state):
        return Sum(strategy_state.total + float(gradient("first").sum()))


def test_an_observing_strategy_sees_the_dense_gradients_of_every_step():
    eng = engine(TWO_TENSORS, {"watchful": Watchful()})
    state = eng.start(0.9)
    for step in range(4):
        plan = eng.plan(state)
        assert plan.wants_gradient
        assert not plan.is_idle
        state = eng.advance(state, normal_values(state.topology), gradient=lambda _, s=step: np.full(100, s)).state
    assert state.strategy_states["watchful"].total == 100 * (0 + 1 + 2 + 3)


def test_an_observing_strategy_without_gradients_is_an_error_that_names_it():
    eng = engine(TWO_TENSORS, {"watchful": Watchful()})
    state = eng.start(0.9)
    with pytest.raises(InputError, match="'watchful' asks for the dense gradient"):
        eng.advance(state, normal_values(state.topology))
