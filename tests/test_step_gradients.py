"""Gradients of active weights and of candidates: what the engine passes on, and what learners compute for them."""

import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS, engine, normal_values, plugin
from gradient_examples import Seen, SeenInEveryStep
from test_learner import SUBJECTS
from test_numpy_learner import batch_of

from sparsecore.engine.engine import Engine
from sparsecore.engine.gradients import entries_at
from sparsecore.engine.growth import random_free_positions
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import Blocks
from sparsecore.errors import InputError, InvariantError
from sparsecore.learning.flops import ForwardPass, StepSums, flops
from sparsecore.learning.gradients import backward
from sparsecore.testing.peak_memory import peak_memory

AT_CANDIDATES = [name for name in SUBJECTS if name != "jax"]
"""The learners that have a way to compute gradients at candidates alone; that of JAX computes dense ones."""


def dense_of(layout, seed=1):
    draws = np.random.default_rng(seed)
    return {name: draws.standard_normal(size) for name, size in zip(layout.names, layout.sizes, strict=True)}


def due(algorithm, sparsity=0.7):
    """The state and the values one step before an update."""
    state = algorithm.start(sparsity, clock=Clock(step=1, total_steps=9))
    return state, normal_values(state.topology)


@pytest.mark.parametrize("units", [None, Blocks(2, 5)])
def test_gradients_of_weights_and_candidates_may_be_given_or_taken_from_dense_ones(units):
    seen, moved = [], []
    for is_dense in (True, False):
        strategy = Seen()
        algorithm = engine(TWO_TENSORS, [strategy], **({} if units is None else {"units": units}))
        (state, values), dense = due(algorithm), dense_of(TWO_TENSORS)
        plan = algorithm.plan(state)
        assert plan.update_due
        assert plan.wants_weight_gradient
        assert not plan.wants_gradient
        given = {
            "weight_gradient": entries_at(dense.__getitem__, state.topology),
            "candidate_gradient": entries_at(dense.__getitem__, plan.candidates),
        }
        advance = algorithm.advance(
            state, values, 0.1, plan=plan, **({"gradient": dense.__getitem__} if is_dense else given)
        )
        seen.append(strategy.seen[0])
        moved.append(advance.reallocation)
        inactive = set(plan.candidates.host_positions.tolist())
        assert not inactive & set(state.topology.host_positions.tolist())
        assert set(advance.reallocation.grown_positions.tolist()) <= inactive
    for name, entries in seen[0].items():
        np.testing.assert_array_equal(entries, seen[1][name])
    np.testing.assert_array_equal(moved[0].after.positions, moved[1].after.positions)
    # of blocks the mean magnitude, computed here by reshaping
    if units is not None:
        blocks = abs(dense["first"]).reshape(5, 2, 2, 5).mean((1, 3)).ravel()
        first = seen[0]["positions"] < 10
        np.testing.assert_allclose(seen[0]["active"][first], blocks[seen[0]["positions"][first]])
        mine = seen[0]["candidates"] < 10
        np.testing.assert_allclose(seen[0]["of candidates"][mine], blocks[seen[0]["candidates"][mine]])


def test_observing_weight_gradients_alone_asks_for_them_in_every_step_and_never_for_dense_ones():
    algorithm = engine(TWO_TENSORS, [SeenInEveryStep()])
    state, values = due(algorithm)
    plan = algorithm.plan(state)
    assert (plan.wants_gradient, plan.wants_weight_gradient, plan.candidates) == (False, True, None)
    given = normal_values(state.topology, 3)
    algorithm.advance(state, values, weight_gradient=given)
    np.testing.assert_array_equal(algorithm.strategies["SeenInEveryStep"].seen[0], given)
    # a strategy that observes without any gradient asks for none, and one that takes dense ones gets them
    asking = {
        "none": plugin(observe=lambda clock: None, update_due=lambda: False),  # noqa: ARG005
        "dense": plugin(observe=lambda gradient: None, update_due=lambda: False),  # noqa: ARG005
    }
    for name, wants in {"none": False, "dense": True}.items():
        plan = (other := engine(TWO_TENSORS, [asking[name]])).plan(other.start(0.5))
        assert (plan.wants_gradient, plan.wants_weight_gradient) == (wants, False)


def test_missing_gradients_and_those_of_other_lengths_are_refused():
    algorithm = engine(TWO_TENSORS, [Seen()])
    state, values = due(algorithm)
    with pytest.raises(InputError, match=r"'Seen' asks for the gradient of the active weights.*weight_gradient="):
        algorithm.advance(state, values)
    good = normal_values(state.topology)
    with pytest.raises(InputError, match=r"'Seen' asks for the gradient of candidates.*candidate_gradient="):
        algorithm.advance(state, values, weight_gradient=good)
    with pytest.raises(InputError, match=f"one entry a weight, {state.topology.size}; given"):
        algorithm.advance(state, values, weight_gradient=good[1:], candidate_gradient=good)
    with pytest.raises(InputError, match=r"asks for the gradients of candidates, and no strategy of the stack names"):
        engine(TWO_TENSORS, [plugin(prune=lambda candidate_gradient: None)])  # noqa: ARG005


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ([5, 5], "position 5 twice"),
        ([7, 5], "position 5 after 7"),
        ([5, 200], "positions 5 to 200"),
        ([0], "position 0 of 'first', which is active"),
        (np.array([3.0]), "positions of float64"),
    ],
)
def test_positions_that_cannot_be_candidates_are_refused(positions, sentence):
    given = np.array(positions, np.int32) if isinstance(positions, list) else positions
    algorithm = engine(TWO_TENSORS, [plugin(candidates=lambda: given, update_due=lambda: True)])
    state = algorithm.start_at(algorithm.start(0.5).topology.at(np.array([0, 1, 150], np.int32)))
    with pytest.raises(
        InvariantError, match=f"plugin 'Plugin' broke a promise in 'candidates': it returned {sentence}"
    ):
        algorithm.plan(state)


def test_candidates_of_frozen_tensors_are_left_out():
    strategy = Seen()
    algorithm = engine(TWO_TENSORS, [strategy])
    (state, values), dense = due(algorithm), dense_of(TWO_TENSORS)
    _, reallocation = algorithm.update(state, values, dense.__getitem__, frozen=["first"])
    assert strategy.seen[0]["candidates"].min() >= 100
    assert reallocation.grown[0] == 0 < reallocation.grown[1]


@pytest.mark.parametrize("name", AT_CANDIDATES)
def test_learners_compute_gradients_at_candidates_as_dense_ones_and_train_on(name):
    subject = SUBJECTS[name]
    densely, sparsely = subject.learner(), subject.learner()
    task = subject.task()
    topology, arrays = task.topology, task.topology.arrays
    counts = np.minimum(topology.room, 2)
    candidates = topology.at(random_free_positions(topology, counts, Randomness(3)))
    for step in range(2):
        batch = batch_of(range(step, step + 6))
        dense = densely.backward(batch, dense=True)
        found = arrays.to_numpy(sparsely.backward_at(batch, candidates))
        active = arrays.to_numpy(sparsely.weight_gradient).copy()
        densely.optimizer_step(0.1)
        sparsely.optimizer_step(0.1)  # which may write to gradients
        for entries, positions in ((found, candidates), (active, topology)):
            expected = arrays.to_numpy(entries_at(dense, positions))
            assert np.any(expected)
            np.testing.assert_allclose(entries, expected, rtol=subject.rounding, atol=subject.rounding)
    np.testing.assert_allclose(
        arrays.to_numpy(sparsely.values), arrays.to_numpy(densely.values), rtol=10 * subject.rounding, atol=1e-5
    )


class Counted:
    """A learner that counts its dense backward passes."""

    def __init__(self, inner, hidden=()):
        self.inner, self.hidden, self.dense = inner, hidden, []

    def __getattr__(self, name):
        if name in self.hidden:
            raise AttributeError(name)
        return getattr(self.inner, name)

    def backward(self, batch, *, dense=False):
        self.dense.append(dense)
        return self.inner.backward(batch, dense=dense)


@pytest.mark.parametrize("name", AT_CANDIDATES)
def test_no_dense_gradient_is_computed_unless_a_learner_has_no_other_way(name):
    subject = SUBJECTS[name]
    task = subject.task()
    moved = {}
    for hidden in ((), ("backward_at",)):
        learner, strategy = Counted(subject.learner(), hidden), Seen()
        algorithm = Engine(task.topology.layout, [strategy], arrays=task.topology.arrays)
        state = algorithm.start_at(task.topology, clock=Clock(total_steps=9))
        for step in range(4):
            plan = algorithm.plan(state)
            found = backward(learner, batch_of(range(step, step + 6)), plan)
            advance = algorithm.advance(
                state,
                learner.values,
                plan=plan,
                gradient=found.dense,
                weight_gradient=found.of_weights,
                candidate_gradient=found.of_candidates,
            )
            state = advance.state
            if advance.reallocation is not None:
                learner.reallocate(advance.reallocation)
        # steps without an update ask for no gradient; a learner without a way computes dense ones in the others
        assert learner.dense == ([False, True] * 2 if hidden else [False] * 2), hidden
        moved[hidden] = (state.topology.host_positions.tolist(), strategy.seen)
    assert len(moved[()][1]) == 2
    assert len({tuple(positions) for positions, _ in moved.values()}) == 1


def test_the_host_takes_no_memory_for_all_positions_of_a_wide_tensor():
    from sparsecore.host.parameters import ParameterVectors, SparseParameters

    layout = Layout.of({"wide": (1000, 4000)})
    algorithm = Engine(layout, [], arrays=ARRAYS)
    topology = algorithm.start(1 - 1e-4).topology
    tensors = SparseParameters.of(topology, ParameterVectors.of(np.ones(topology.size), {})).tensors
    candidates = random_free_positions(topology, [300], Randomness(0))
    assert peak_memory(lambda: tensors["wide"].widened(candidates)) < 200_000


def test_silent_weights_count_in_the_gradients_of_weights_alone():
    sums = StepSums.none(1).after(np.array([10]), dense_gradient=False, silent=np.array([6]))
    sums = sums.after(np.array([10]), dense_gradient=True, silent=np.array([6]))
    topology = Topology.of(Layout.of({"weight": (10, 10)}), np.arange(10, dtype=np.int32), ARRAYS)
    counted = flops(ForwardPass({"weight": 100}, {"weight": 100}), topology, sums, 2, np.array([6]))
    # forward and input's gradient by 4 weights, the weights' gradient of all 10, and then of all positions
    assert counted.training == (4 + 4 + 10) + (4 + 4 + 100)
    assert counted.inference == 4
    assert (counted.tensors[0].active, counted.tensors[0].used) == (10, 4)
    saved = sums.dump()
    assert StepSums.load(saved, 1, 2, has_silent=True).silent.tolist() == [12]
    with pytest.raises(ValueError, match="more in 'silent' than in 'weights'"):
        StepSums.load({**saved, "silent": [10**6]}, 1, 2, has_silent=True)
    del saved["silent"]  # as in files of before they were counted: right where no weight is silent, else unknown
    assert StepSums.load(saved, 1, 2).silent.tolist() == [0]
    assert StepSums.load(saved, 1, 2, has_silent=True) is None


def test_operations_at_candidates_count_as_gradients_of_weights():
    sums = StepSums.none(1).after(np.array([10]), dense_gradient=False)
    sums = sums.after(np.array([10]), dense_gradient=False, candidates=np.array([5]))
    sums = sums.after(np.array([10]), dense_gradient=True, candidates=np.array([5]))
    topology = Topology.of(Layout.of({"weight": (10, 10)}), np.arange(10, dtype=np.int32), ARRAYS)
    counted = flops(ForwardPass({"weight": 100}, {"weight": 100}), topology, sums, 3)
    # forward, input's gradient and weights' gradient: 10 + 10 + 10, then 5 more, then 100 in place of the last 10
    assert counted.training == 30 + 35 + 120
    saved = sums.dump()
    np.testing.assert_array_equal(StepSums.load(saved, 1, 3).candidates, sums.candidates)
    del saved["candidates"]  # as in files of before there were candidates
    assert StepSums.load(saved, 1, 3).candidates.tolist() == [0]
    with pytest.raises(ValueError, match="no table of candidates, dense_gradient_steps"):
        StepSums.load({**saved, "more": 1}, 1, 3)
