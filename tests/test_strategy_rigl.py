"""RigL follows the paper: dense gradients, tensor by tensor, in place of the optimizer's step."""

import math

import attrs
import numpy as np
import pytest
from dense_oracles import drawn, floored, gathered, largest, masks_of, same, without_smallest
from engine_examples import engine, topologies, topology, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import erdos_renyi, erdos_renyi_kernel, uniform
from sparsecore.engine.schedules import Clock, Cosine, Every
from sparsecore.engine.topology import Layout
from sparsecore_strategies.rigl import RigL

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
CONSTANT = RigL(drop_fraction=0.3, schedule=Every(steps=1))


def started(strategy=CONSTANT, layout=ROOMY, sparsity=0.8, clock=Clock(step=100, total_steps=1000), **options):
    algorithm = engine(layout, {"rigl": strategy}, **options)
    return algorithm, algorithm.start(sparsity, clock=clock)


@given(st.integers(0, 100), st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.5]))
def test_each_tensor_drops_its_smallest_weights_and_grows_as_many_where_the_dense_gradient_is_largest(seed, fraction):
    algorithm, state = started(attrs.evolve(CONSTANT, drop_fraction=fraction), seed=seed, regrow_pruned=False)
    weights, gradient = drawn(ROOMY, seed), drawn(ROOMY, seed + 1000)
    after, got = algorithm.update(state, gathered(state.topology, weights), gradient.__getitem__)
    expected = {}
    for name, mask in masks_of(state.topology).items():
        count = min(floored(fraction, mask.sum()), int((~mask).sum()))
        expected[name] = without_smallest(mask, weights[name], count) | largest(~mask, gradient[name], count)
    assert same(after.topology, expected)
    assert (got.values[got.grown_slots] == 0).all()
    assert after.topology.counts.tolist() == state.topology.counts.tolist()


def test_growth_reads_the_gradient_where_there_is_no_weight_and_not_where_there_is_one():
    # from a masked gradient, zero where there is no weight, it would take the lowest positions
    algorithm = engine(Layout.of({"w": (20,)}), [attrs.evolve(CONSTANT, drop_fraction=0.5)], regrow_pruned=False)
    state = algorithm.start_at(topology(Layout.of({"w": (20,)}), [0, 1, 2, 3]))
    gradient = np.zeros(20)
    gradient[:4] = 1000.0
    gradient[[13, 17]] = [-5.0, 3.0]
    gradient[[9, 19]] = 2.0
    after, _ = algorithm.update(state, np.array([4.0, 1.0, -2.0, -3.0]), lambda _: gradient)
    assert after.topology.positions.tolist() == [0, 3, 13, 17]


@pytest.mark.parametrize(("regrow", "expected"), [(False, [0, 3, 8, 9]), (True, [0, 1, 2, 3])])
def test_dropped_positions_regrow_at_once_only_with_regrow_pruned(regrow, expected):
    layout = Layout.of({"w": (20,)})
    algorithm = engine(layout, [attrs.evolve(CONSTANT, drop_fraction=0.5)], regrow_pruned=regrow)
    gradient = np.zeros(20)
    gradient[[1, 2, 8, 9]] = [9.0, 9.0, 1.0, 1.0]
    state = algorithm.start_at(topology(layout, [0, 1, 2, 3]))
    after, got = algorithm.update(state, np.array([4.0, 1.0, -2.0, -3.0]), lambda _: gradient)
    assert after.topology.positions.tolist() == expected
    assert got.values.tolist().count(0.0) == 2


@given(topologies(), st.data())
def test_every_tensor_keeps_its_number_of_weights_however_full_it_is(before, data):
    values = data.draw(values_of(before))
    regrow_pruned = data.draw(st.sampled_from([False, True, "keep"]))
    algorithm = engine(before.layout, [attrs.evolve(CONSTANT, drop_fraction=0.9)], regrow_pruned=regrow_pruned)
    after, got = algorithm.update(algorithm.start_at(before), values, drawn(before.layout).__getitem__)
    assert after.topology.counts.tolist() == before.counts.tolist()
    assert (got.pruned <= before.room).all()


def test_the_fraction_falls_along_half_a_cosine():
    total = 1000
    for step in (100, 200, 400, 700):
        algorithm, state = started(RigL(), clock=Clock(step=step, total_steps=total), regrow_pruned=False)
        weights = gathered(state.topology, drawn(ROOMY))
        _, got = algorithm.update(state, weights, drawn(ROOMY, 1).__getitem__)
        fraction = 0.3 / 2 * (1 + math.cos(math.pi * step / (0.75 * total)))
        expected = [
            min(math.floor(fraction * count), room)
            for count, room in zip(state.topology.counts, state.topology.room, strict=True)
        ]
        assert got.pruned.tolist() == expected
        assert sum(expected) > 0 or step == 700


def test_an_update_replaces_its_own_step_and_no_other():
    algorithm, state = started(RigL(schedule=Every(steps=10, until=0.75)), clock=Clock(total_steps=40))
    values = gathered(state.topology, drawn(ROOMY))
    replaced, updated = [], []
    for step in range(1, 41):
        if algorithm.plan(state).replaces_step:
            assert algorithm.plan(state).wants_gradient
            replaced.append(step)
        advance = algorithm.advance(state, values, 0.1, drawn(ROOMY, step).__getitem__)
        state, values = advance.state, advance.values
        if advance.reallocation:
            updated.append(step)
    assert replaced == updated == [10, 20]


@pytest.mark.parametrize(("start", "counts"), [("er", erdos_renyi), ("erk", erdos_renyi_kernel), ("uniform", uniform)])
def test_the_start_distribution_is_an_option(start, counts):
    _, state = started(RigL(start=start), sparsity=0.9)
    assert state.topology.counts.tolist() == counts(ROOMY, 0.9).tolist()


def test_the_defaults_are_the_papers():
    default = RigL()
    assert (default.drop_fraction, default.start) == (Cosine(0.3, 0.0, until=0.75), "erk")
    assert default.schedule == Every(steps=100, until=0.75)


@pytest.mark.parametrize(
    "arguments",
    [
        {"drop_fraction": -0.1},
        {"drop_fraction": 1.0},
        {"drop_fraction": {"start": 1.5, "end": 0.0}},
        {"drop_fraction": {0: 0.3, 5: -0.3}},
        {"start": "dense"},
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|no start distribution named 'dense'"):
        RigL(**arguments)
