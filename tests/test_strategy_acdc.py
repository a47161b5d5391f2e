"""AC/DC follows the paper: compressed phases of the largest weights, and decompressed ones of all, from zero."""

import attrs
import numpy as np
import pytest
from dense_oracles import drawn, gathered, masks_of, without_smallest
from engine_examples import engine, topologies, topology, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import uniform
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.acdc import AlternatingCompression

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "vector": (12,)})
BUDGET = int(uniform(ROOMY, 0.9).sum())


def run(strategy, total=100, sparsity=0.9):
    """(step, update) of each update, and the state at the end."""
    algorithm = engine(ROOMY, [strategy])
    state, updates = algorithm.start(sparsity, clock=Clock(total_steps=total)), []
    for step in range(1, total + 1):
        values = gathered(state.topology, drawn(ROOMY, step))
        advance = algorithm.advance(state, values)
        state = advance.state
        if advance.reallocation is not None:
            updates.append((step, advance.reallocation))
    return updates, state


def test_by_default_phases_begin_where_they_do_in_the_authors_runs_of_100_epochs():
    updates, state = run(AlternatingCompression())
    pruned, restored = [*range(10, 71, 10), 85], [*range(15, 66, 10), 75]
    assert [step for step, update in updates if update.after.size == BUDGET] == pruned
    assert [step for step, update in updates if update.after.size == ROOMY.size] == restored
    assert len(updates) == len(pruned) + len(restored)
    assert state.topology.size == BUDGET


def test_the_authors_runs_on_cifar_are_four_numbers():
    updates, _ = run(AlternatingCompression(begin=0.05, phase=0.1, until=0.75, last=0.85), total=200)
    assert [step for step, _ in updates] == [10, 30, 50, 70, 90, 110, 130, 150, 170]


@pytest.mark.parametrize("scope", ["network", "tensor"])
def test_compression_keeps_the_largest_weights_and_decompression_starts_the_others_at_zero(scope):
    updates, _ = run(AlternatingCompression(scope=scope))
    for step, update in updates:
        weights, before = drawn(ROOMY, step), masks_of(update.before)
        if update.after.size == ROOMY.size:
            assert (update.values[update.grown_slots] == 0).all()
            assert update.pruned_count == 0
            continue
        if scope == "tensor":
            counts = uniform(ROOMY, 0.9)
            expected = [
                without_smallest(before[name], weights[name], before[name].sum() - count)
                for name, count in zip(ROOMY.names, counts, strict=True)
            ]
        else:
            for each in weights.values():  # the largest weight of each tensor stays
                each[abs(each).argmax()] = np.inf
            joined = np.concatenate(list(weights.values()))
            expected = [without_smallest(np.ones(ROOMY.size, bool), joined, ROOMY.size - BUDGET)]
        assert np.concatenate(list(masks_of(update.after).values())).tolist() == np.concatenate(expected).tolist()
        assert update.grown.sum() == 0


@given(st.integers(2, 60), st.data())
def test_any_phases_end_compressed_and_alternate(total, data):
    fractions = sorted(data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 0.99]), min_size=3, max_size=3)))
    if fractions[0] == fractions[1]:
        fractions[0], fractions[2] = 0.0, max(fractions[2], 0.3)
        fractions[1] = fractions[2]
    phase = data.draw(st.sampled_from([0.01, 0.05, 0.1, 1.0]))
    strategy = AlternatingCompression(begin=fractions[0], until=fractions[1], last=fractions[2], phase=phase)
    updates, state = run(strategy, total)
    assert state.topology.size == BUDGET
    sizes = [update.after.size for _, update in updates]
    assert sizes == [BUDGET if number % 2 == 0 else ROOMY.size for number in range(len(sizes))]
    assert all(step < total for step, _ in updates)


@pytest.mark.parametrize("scope", ["network", "tensor"])
@given(topologies(), st.data())
def test_the_number_of_weights_holds_for_any_start(scope, before, data):
    algorithm = engine(before.layout, [AlternatingCompression(scope=scope)])
    values, sparsity = data.draw(values_of(before)), data.draw(st.sampled_from([0.5, 0.9]))
    counts = uniform(before.layout, sparsity)
    for step, expected in (
        (10, min(before.size, counts.sum()) if scope == "network" else np.minimum(before.counts, counts).sum()),
        (15, before.layout.size),
    ):
        state = algorithm.start_at(before, sparsity=sparsity, clock=Clock(step=step, total_steps=100))
        after, _ = algorithm.update(state, values)
        assert after.topology.size == expected
        assert (after.topology.counts >= 1).all()


def test_a_frozen_tensor_is_neither_compressed_nor_decompressed():
    start = topology(ROOMY, range(0, ROOMY.size, 3))
    algorithm = engine(ROOMY, [AlternatingCompression()])
    for step in (10, 15):
        state = algorithm.start_at(start, sparsity=0.9, clock=Clock(step=step, total_steps=100))
        after, _ = algorithm.update(state, gathered(start, drawn(ROOMY)), frozen=["matrix"])
        assert after.topology.local("matrix").tolist() == start.local("matrix").tolist()
        assert (after.topology.size > start.size) == (step == 15)


def test_a_run_without_end_is_refused():
    algorithm = engine(ROOMY, [AlternatingCompression()])
    with pytest.raises(InputError, match="total_steps"):
        algorithm.plan(algorithm.start(0.9))


@pytest.mark.parametrize(
    "options", [{"begin": 0.8}, {"until": 0.9}, {"last": 1.0}, {"begin": -0.1}, {"phase": 0.0}, {"scope": "layer"}]
)
def test_phases_out_of_order_are_refused(options):
    with pytest.raises((ValueError, InputError), match=r"0 <= begin < until <= last < 1|must be"):
        attrs.evolve(AlternatingCompression(), **options)
