"""GraNet follows the paper: global magnitude pruning on the cubic, then regeneration tensor by tensor."""

import math

import attrs
import numpy as np
import pytest
from dense_oracles import ceiled, drawn, gathered, largest, masks_of, same, without_smallest
from engine_examples import engine, topologies, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import erdos_renyi_kernel, uniform
from sparsecore.engine.schedules import Clock, Cosine, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.granet import GradualRegeneration

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
OFTEN = GradualRegeneration(schedule=Every(steps=10))
LAST = int(uniform(ROOMY, 0.9).sum())


def run(strategy, sparsity=0.9, total=100, seed=0):
    """(step, state before, state, values before, update) of each step."""
    algorithm = engine(ROOMY, {"granet": strategy}, seed=seed, regrow_pruned=False)
    state = algorithm.start(sparsity, clock=Clock(total_steps=total))
    for step in range(1, total + 1):
        values = gathered(state.topology, drawn(ROOMY, step))
        advance = algorithm.advance(state, values, 0.1, drawn(ROOMY, 1000 + step).__getitem__)
        yield step, state, advance.state, values, advance.reallocation
        state = advance.state


def planned(first, step, end=68):
    return LAST + math.floor((first - LAST) * (1 - min(step, end) / end) ** 3 + 1e-9)


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_each_update_prunes_the_network_and_then_regenerates_each_tensor(initial):
    strategy = attrs.evolve(OFTEN, initial_sparsity=initial)
    first, regenerated = None, 0
    for step, before, after, values, update in run(strategy):
        first = first or before.topology.size
        assert (update is not None) == ((step % 10 == 0 and step < 100) or step == 68)
        if update is None:
            continue
        weights = drawn(ROOMY, step)
        excess = before.topology.size - planned(first, step)
        pruned = set(before.topology.positions[np.argsort(abs(values), kind="stable")[:excess]].tolist())
        expected = {}
        for name, mask in masks_of(before.topology).items():
            offset = ROOMY.offsets[ROOMY.index(name)]
            kept = mask & ~np.isin(np.arange(mask.size) + offset, list(pruned))
            fraction = 0.005 + (0.5 - 0.005) / 2 * (1 + math.cos(math.pi * step / 100))
            count = min(ceiled(fraction, kept.sum()), kept.sum() - 1, int((~mask).sum()))
            gradient = drawn(ROOMY, 1000 + step)[name]
            expected[name] = without_smallest(kept, weights[name], count) | largest(~mask, gradient, count)
            regenerated += count
        assert same(after.topology, expected)
    assert after.topology.size == LAST
    assert regenerated > 200


@given(topologies(), st.data())
def test_the_declared_number_holds_for_any_values(before, data):
    values = data.draw(values_of(before))
    sparsity = data.draw(st.sampled_from([0.5, 0.8, 0.99]))
    algorithm = engine(before.layout, {"granet": OFTEN})
    clock = Clock(step=data.draw(st.integers(1, 99)), total_steps=100)
    state = algorithm.start_at(before, sparsity=sparsity, clock=clock)
    after, _ = algorithm.update(state, values, drawn(before.layout).__getitem__)
    last = min(before.size, int(uniform(before.layout, sparsity).sum()))
    left = (1 - min(clock.step, 68) / 68) ** 3
    assert after.topology.size == last + math.floor((before.size - last) * left + 1e-9)
    assert (after.topology.counts >= 1).all()


def test_regeneration_stays_in_its_tensor_while_pruning_does_not():
    layout = Layout.of({"weak": (50,), "strong": (50,)})
    algorithm = engine(
        layout, {"granet": attrs.evolve(OFTEN, drop_fraction=0.5, initial_sparsity=0.2)}, regrow_pruned=False
    )
    state = algorithm.start(0.6, clock=Clock(step=75, total_steps=100))
    values = np.concatenate([np.linspace(0.1, 0.2, 40), np.linspace(1, 2, 40)])
    _, got = algorithm.update(state, values, drawn(layout).__getitem__)
    # the cubic leaves 40 of 80: one weak, 39 strong; half of these are dropped, as far as there was room
    assert got.after.counts.tolist() == [1, 39]
    assert got.grown.tolist() == [0, 10]


def test_a_tensor_without_free_positions_regenerates_where_what_it_drops_keeps_its_value():
    layout = Layout.of({"w": (10,)})
    algorithm = engine(layout, [attrs.evolve(OFTEN, drop_fraction=0.5)])
    state = algorithm.start(0.4, clock=Clock(step=80, total_steps=100))
    values = np.linspace(0.1, 1, 10)
    gradient = np.linspace(10, 1, 10)
    _, got = algorithm.update(state, values, lambda _: gradient)
    # four are pruned, three of the other six dropped; the gradient is largest where the first three were
    assert got.after.positions.tolist() == [0, 1, 2, 7, 8, 9]
    assert got.values.tolist() == [0, 0, 0, *values[7:]]
    backwards = np.array([1, 1, 1, 1, 9, 8, 7, 1, 1, 1.0])
    _, got = algorithm.update(state, values, lambda _: backwards)
    assert got.after.positions.tolist() == [4, 5, 6, 7, 8, 9]
    assert got.values.tolist() == values[4:].tolist()
    assert (got.pruned_count, got.grown.tolist()) == (4, [0])


def test_after_pruning_has_ended_only_regeneration_remains():
    late = [update for step, *_, update in run(OFTEN) if update is not None and step > 68]
    assert len(late) == 3
    for update in late:
        assert update.pruned.tolist() == update.grown.tolist()
    assert sum(update.pruned_count for update in late) > 0


def test_after_a_dense_start_the_first_update_only_prunes_where_nothing_may_grow_again():
    first, second, *_ = (update for *_, update in run(OFTEN) if update is not None)
    assert first.grown.sum() == 0
    assert second.grown.sum() > 0


def test_a_start_that_is_not_dense_is_distributed_by_erk():
    state = engine(ROOMY, [attrs.evolve(OFTEN, initial_sparsity=0.5)]).start(0.9)
    assert state.topology.counts.tolist() == erdos_renyi_kernel(ROOMY, 0.5).tolist()


def test_a_start_sparser_than_the_end_is_refused():
    with pytest.raises(InputError, match=r"starts at most at its sparsity, 0.3; given 0.5"):
        engine(ROOMY, [attrs.evolve(OFTEN, initial_sparsity=0.5)]).start(0.3)


def test_updates_do_not_replace_the_optimizers_step():
    algorithm = engine(ROOMY, [attrs.evolve(OFTEN, initial_sparsity=0.5)])
    assert not algorithm.plan(algorithm.start(0.9, clock=Clock(step=9, total_steps=100))).replaces_step


def test_the_defaults_are_the_papers():
    default = GradualRegeneration()
    assert (default.drop_fraction, default.initial_sparsity, default.start) == (Cosine(0.5, 0.005), 0.0, "erk")
    assert (default.schedule, default.until) == (Every(steps=1000), 110 / 160)


@pytest.mark.parametrize(
    "arguments", [{"drop_fraction": 1.0}, {"initial_sparsity": 1.0}, {"start": "dense"}, {"begin": 0.8}]
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|given begin|no start distribution named 'dense'"):
        GradualRegeneration(**arguments)
