"""GMP follows the paper: from dense to sparse along a cubic, keeping the largest weights, without growth."""

from fractions import Fraction

import attrs
import numpy as np
import pytest
from dense_oracles import drawn, gathered
from engine_examples import TWO_TENSORS, engine, topologies, topology, values_of
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.distributions import uniform
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.gmp import GradualPruning

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
OFTEN = GradualPruning(schedule=Every(steps=10))


def run(strategy, layout=ROOMY, sparsity=0.9, total=100, seed=0):
    """(step, state, values, update) after each step."""
    algorithm = engine(layout, {"gmp": strategy}, seed=seed)
    state = algorithm.start(sparsity, clock=Clock(total_steps=total))
    values = gathered(state.topology, drawn(layout, seed))
    for step in range(1, total + 1):
        advance = algorithm.advance(state, values)
        state, values = advance.state, advance.values
        yield step, state, values, advance.reallocation


def cubic(first, last, step, begin, end):
    """(1 - s_t)·D, in numbers of weights."""
    way = min(Fraction(1), max(Fraction(0), Fraction(step - begin, end - begin)))
    return last + int((first - last) * (1 - way) ** 3)


@pytest.mark.parametrize(
    ("begin", "until", "total"), [(0.0, 0.75, 100), (0.2, 0.5, 100), (0.0, 1.0, 100), (0.0, 0.75, 150)]
)
def test_the_number_of_weights_follows_the_cubic_schedule_of_the_paper(begin, until, total):
    strategy = attrs.evolve(OFTEN, begin=begin, until=until)
    start, end = round(begin * total), min(total - 1, int(until * total))
    size, last = ROOMY.size, int(uniform(ROOMY, 0.9).sum())
    for step, state, _, update in run(strategy, total=total):
        due = step == end or (start < step < end and step % 10 == 0)
        assert (update is not None) == due
        if due:
            size = cubic(ROOMY.size, last, step, start, end)
        assert state.topology.size == size
    assert size == last


@given(st.integers(2, 60), st.integers(1, 100), st.floats(0.05, 1.0), st.sampled_from([0.0, 0.5, 0.9, 0.98]))
def test_every_schedule_ends_with_exactly_the_same_number_of_weights(total, steps, until, sparsity):
    # the last regular update is rarely the last step of the cubic
    strategy = GradualPruning(until=until, schedule=Every(steps=steps))
    *_, (_, state, _, _) = run(strategy, TWO_TENSORS, sparsity, total)
    assert state.topology.size == uniform(TWO_TENSORS, sparsity).sum()


@pytest.mark.parametrize("scope", ["network", "tensor"])
def test_nothing_grows_and_survivors_keep_their_values(scope):
    dense = drawn(ROOMY)
    for _, state, values, update in run(attrs.evolve(OFTEN, scope=scope)):
        assert update is None or update.grown.sum() == 0
        np.testing.assert_array_equal(values, gathered(state.topology, dense))


def test_the_largest_of_the_network_are_kept():
    everything = np.concatenate(list(drawn(ROOMY).values()))
    for _, state, _, _ in run(OFTEN):
        kept = np.argsort(-abs(everything), kind="stable")[: state.topology.size]
        assert state.topology.positions.tolist() == sorted(kept.tolist())


def test_the_largest_of_each_tensor_are_kept_by_option_and_all_tensors_are_equally_sparse():
    dense = drawn(ROOMY)
    for _, state, _, _ in run(attrs.evolve(OFTEN, scope="tensor"), sparsity=0.8):
        for name, count in zip(ROOMY.names, state.topology.counts, strict=True):
            kept = np.argsort(-abs(dense[name]), kind="stable")[:count]
            assert state.topology.local(name).tolist() == sorted(kept.tolist())
    assert state.topology.counts.tolist() == uniform(ROOMY, 0.8).tolist()


def test_a_tensor_of_small_weights_keeps_its_largest_weight_and_the_count_is_exact():
    layout = Layout.of({"weak": (50,), "strong": (50,)})
    algorithm = engine(layout, {"gmp": OFTEN})
    state = algorithm.start(0.96, clock=Clock(step=75, total_steps=100))
    values = np.concatenate([np.linspace(0.001, 0.002, 50), np.linspace(1, 2, 50)])
    _, got = algorithm.update(state, values)
    assert got.after.positions.tolist() == [49, 97, 98, 99]


@pytest.mark.parametrize("scope", ["network", "tensor"])
@given(topologies(), st.data())
def test_the_declared_number_holds_for_any_values_and_no_tensor_is_emptied(scope, before, data):
    values = data.draw(values_of(before))
    sparsity = data.draw(st.sampled_from([0.5, 0.8, 0.99]))
    clock = Clock(step=data.draw(st.integers(1, 99)), total_steps=100)
    algorithm = engine(before.layout, {"gmp": attrs.evolve(OFTEN, scope=scope)})
    state = algorithm.start_at(before, sparsity=sparsity, clock=clock)
    last = np.minimum(uniform(before.layout, sparsity), before.counts)
    counts = [cubic(int(first), int(end), clock.step, 0, 75) for first, end in zip(before.counts, last, strict=True)]
    total = cubic(before.size, min(before.size, int(uniform(before.layout, sparsity).sum())), clock.step, 0, 75)
    after, got = algorithm.update(state, values)
    assert after.topology.size == {"network": total, "tensor": sum(counts)}[scope]
    assert (after.topology.counts >= 1).all()
    assert got.grown.sum() == 0
    if scope == "tensor":
        assert after.topology.counts.tolist() == counts


def test_a_dense_run_stays_dense():
    assert all(update is None for _, _, _, update in run(OFTEN, sparsity=0.0))


def test_a_sparse_start_is_an_option():
    steps = list(run(attrs.evolve(OFTEN, initial_sparsity=0.5), sparsity=0.9))
    assert steps[0][1].topology.counts.tolist() == uniform(ROOMY, 0.5).tolist()
    assert steps[-1][1].topology.size == uniform(ROOMY, 0.9).sum()


def test_a_start_sparser_than_the_end_is_refused():
    with pytest.raises(InputError, match=r"starts at most at its sparsity, 0.5; given 0.6"):
        engine(ROOMY, [attrs.evolve(OFTEN, initial_sparsity=0.6)]).start(0.5)


def test_a_run_of_unknown_length_is_refused():
    algorithm = engine(TWO_TENSORS, [OFTEN])
    with pytest.raises(InputError, match="give the total number of steps"):
        algorithm.advance(algorithm.start(0.9), np.ones(200))


def test_pruning_starts_from_a_given_topology():
    before = topology(TWO_TENSORS, range(0, 200, 2))
    algorithm = engine(TWO_TENSORS, [OFTEN])
    state = algorithm.start_at(before, sparsity=0.9, clock=Clock(step=75, total_steps=100))
    assert algorithm.update(state, np.arange(100.0))[0].topology.size == 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"initial_sparsity": -0.1}, "must be"),
        ({"initial_sparsity": 1.0}, "must be"),
        ({"begin": 0.75}, "given begin = 0.75, until = 0.75"),
        ({"until": 1.1}, "given begin = 0.0, until = 1.1"),
        ({"begin": -0.1}, "given begin = -0.1"),
        ({"until": float("nan")}, "until = nan"),
        ({"scope": "layer"}, "must be"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        GradualPruning(**arguments)
