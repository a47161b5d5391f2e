"""Strategies that grow where the dense gradient is large, and steps after which the engine need not see the values."""

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS, engine, normal_values, plugin

from sparsecore import Clock, Every, InputError, hookimpl


@attrs.frozen(eq=False)
class GrowByGradient:
    """Drop the smaller half of the first tensor, grow where the gradient is largest."""

    @hookimpl
    def update_due(self, clock):
        return Every(steps=3)(clock)

    @hookimpl
    def prune(self, topology, values):
        slots = topology.slots("first")
        return topology.all_but(ARRAYS.argsort(abs(values[slots]))[: topology.counts[0] // 2])

    @hookimpl
    def allocate(self, pruned):
        return pruned

    @hookimpl
    def grow(self, occupied, counts, gradient):
        magnitudes = abs(gradient("first"))
        magnitudes[occupied.local("first")] = -1
        return np.sort(np.argsort(-magnitudes, kind="stable")[: counts[0]]).astype(occupied.layout.position_dtype)


def _start():
    eng = engine(TWO_TENSORS, [GrowByGradient()])
    state = eng.start(0.9)
    return eng, state, np.linspace(-1, 1, state.topology.size)


def test_gradient_growth_selects_the_largest_dense_gradients():
    eng, state, values = _start()
    free = np.setdiff1d(np.arange(100), state.topology.local("first"))[[3, 20, 33, 50, 71]]
    dense = {"first": np.zeros(100), "second": np.zeros(100)}
    dense["first"][free] = [5.0, -4.0, 3.0, -2.0, 1.0]
    _, reallocation = eng.update(state, values, dense.__getitem__)
    assert reallocation.pruned_count == 5
    np.testing.assert_array_equal(reallocation.grown_positions, free)


def test_the_gradient_is_requested_only_before_an_update_of_a_strategy_that_uses_it():
    eng, state, values = _start()
    wanted = []
    for _ in range(7):
        wanted.append(eng.plan(state).wants_gradient)
        advance = eng.advance(state, values, gradient=lambda _: np.zeros(100))
        state, values = advance.state, advance.values
    assert wanted == [False, False, True, False, False, True, False]
    passive = engine(TWO_TENSORS, [plugin(update_due=lambda clock: True)])  # noqa: ARG005
    assert not passive.plan(passive.start(0.9)).wants_gradient


def test_a_missing_gradient_is_an_error_that_names_the_strategy():
    eng, state, values = _start()
    with pytest.raises(InputError, match="the strategy 'GrowByGradient' asks for the dense gradient, and this way"):
        eng.update(state, values)


def test_an_idle_step_equals_advance():
    eng, state, values = _start()
    plan = eng.plan(state)
    assert plan.is_idle
    assert not plan.update_due
    advance = eng.advance(state, values, plan=plan)
    assert plan.next_state.clock == advance.state.clock == Clock(step=1)
    assert advance.values is values


def test_a_step_is_not_idle_before_an_update_or_where_a_strategy_perturbs():
    eng, state, _ = _start()
    plan = eng.plan(attrs.evolve(state, clock=Clock(step=2)))
    assert plan.update_due
    assert not plan.is_idle
    noisy = engine(TWO_TENSORS, [plugin(perturb=lambda values: values + 1)])
    assert not noisy.plan(noisy.start(0.9)).is_idle


def test_the_gradient_is_changed_by_the_topmost_strategy_with_the_state_of_before_the_step():
    seen = []
    steep = plugin(
        perturb_gradient=lambda weight_gradient, values, clock: seen.append(clock.step) or values - weight_gradient
    )
    eng = engine(TWO_TENSORS, {"below": plugin(perturb_gradient=lambda: 0 / 0), "above": steep})
    state, values = eng.start(0.9, clock=Clock(step=7)), normal_values(eng.start(0.9).topology)
    gradient = normal_values(state.topology, 1)
    np.testing.assert_array_equal(eng.perturbed_gradient(state, values, gradient), values - gradient)
    assert seen == [7]
    assert eng.plan(state).perturbs_gradient
    assert not eng.plan(state).wants_gradient


def test_without_a_strategy_that_changes_it_or_where_it_is_not_finite_the_gradient_stays_as_it_is():
    plain = engine(TWO_TENSORS, [])
    state = plain.start(0.9)
    gradient = normal_values(state.topology, 1)
    assert plain.perturbed_gradient(state, gradient, gradient) is gradient
    assert not plain.plan(state).perturbs_gradient
    eng = engine(TWO_TENSORS, [plugin(perturb_gradient=lambda weight_gradient: weight_gradient + 1)])
    broken = np.where(np.arange(len(gradient)) == 3, np.float32(np.inf), gradient)
    assert eng.perturbed_gradient(eng.start(0.9), gradient, broken) is broken


def test_a_step_that_an_update_replaces_has_no_gradient_to_change():
    replacing = plugin(
        perturb_gradient=lambda weight_gradient: weight_gradient,
        replaces_step=lambda: True,
        update_due=lambda clock: clock.step % 2 == 0,
    )
    eng = engine(TWO_TENSORS, [replacing])
    state = eng.start(0.9)
    assert eng.plan(state).perturbs_gradient
    assert not eng.plan(attrs.evolve(state, clock=Clock(step=1))).perturbs_gradient


def test_after_the_last_step_every_step_is_idle():
    eng, state, _ = _start()
    assert eng.plan(attrs.evolve(state, clock=Clock(step=2, total_steps=3))).is_idle


def test_update_due_and_replaces_step_are_called_once_per_step():
    asked = []

    def answer(hook, result):
        return lambda clock: asked.append((hook, clock.step)) or result(clock)

    hooks = {
        "update_due": answer("update_due", lambda clock: clock.step % 2 == 0),
        "replaces_step": answer("replaces_step", lambda _: True),
    }
    eng = engine(TWO_TENSORS, [plugin(**hooks)])
    state = eng.start(0.9)
    for _ in range(4):
        plan = eng.plan(state)
        state = eng.advance(state, np.ones(state.topology.size), plan=plan).state
    assert asked == [
        ("update_due", 1),
        ("update_due", 2),
        ("replaces_step", 2),
        ("update_due", 3),
        ("update_due", 4),
        ("replaces_step", 4),
    ]


def test_a_plan_of_another_state_is_refused():
    eng, state, values = _start()
    plan = eng.plan(state)
    with pytest.raises(InputError, match="plan is of another state"):
        eng.advance(plan.next_state, values, plan=plan)
