"""Iterative pruning as in the released code of Mostafa & Wang: when, how much, and of which tensors."""

import numpy as np
import pytest
from engine_examples import engine, normal_values

from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.iterative_pruning import IterativePruning

LENET = Layout.of({"layer1.weight": (300, 784), "layer2.weight": (100, 300), "classifier.weight": (10, 100)})
SMALL = Layout.of({"a": (40, 50), "b": (30, 20), "c": (10, 10)})
STEPS = 4
"""Steps of an epoch."""


def pruned_epochs(layout, sparsity, epochs=48, **options):
    """The numbers of weights of each tensor after each epoch in which weights were pruned, by the epoch from 0."""
    algorithm = engine(layout, [IterativePruning(**options)])
    state = algorithm.start(sparsity, clock=Clock(steps_per_epoch=STEPS, total_steps=epochs * STEPS))
    assert state.topology.size == layout.size
    values, found = normal_values(state.topology), {}
    for step in range(1, epochs * STEPS + 1):
        before = abs(values)
        advance = algorithm.advance(state, values)
        if advance.reallocation is not None:
            assert step % STEPS == 0
            assert advance.reallocation.grown.sum() == 0
            _check_smallest_went(advance.reallocation, before)
            found[step // STEPS - 1] = advance.state.topology.counts.tolist()
        state, values = advance.state, advance.values
    return found


def _check_smallest_went(update, magnitudes):
    for name in update.before.layout.names:
        slots = update.before.slots(name)
        stays = update.survives[slots]
        assert stays.all() or magnitudes[slots][~stays].max() <= magnitudes[slots][stays].min()


def test_a_network_is_pruned_at_the_ends_of_every_second_epoch_by_one_cubic_for_all_tensors():
    found = pruned_epochs(SMALL, 0.9)
    assert list(found) == list(range(0, 40, 2))
    # the loop of the released code: each time a fraction of what is left goes, of every tensor
    left = np.ones(3)
    for number, counts in enumerate(found.values()):
        rest, next_rest = ((1 - done / 20) ** 3 for done in (number, number + 1))
        left *= (0.1 + 0.9 * next_rest) / (0.1 + 0.9 * rest)
        np.testing.assert_allclose(counts, left * SMALL.sizes, atol=1)
    assert list(found.values())[-1] == [200, 60, 10]


def test_above_sparsity_0_9_the_last_layer_of_lenet_keeps_100_weights_and_the_others_are_the_sparser():
    kept = {"classifier.weight": 0.9}
    *_, counts = pruned_epochs(LENET, 0.99, highest_sparsity=kept).values()
    assert counts[2] == 100
    assert sum(counts) == sum(size // 100 for size in LENET.sizes) == 2662
    assert counts[0] / counts[1] == pytest.approx(784 * 300 / (300 * 100), rel=0.01)
    for sparsity in (0.9, 0.8):
        *_, counts = pruned_epochs(LENET, sparsity, highest_sparsity=kept).values()
        assert counts == [round(size * (1 - sparsity)) for size in LENET.sizes]


@pytest.mark.parametrize("epochs", [1, 2, 7, 200])
def test_in_a_run_of_any_length_the_last_pruning_is_at_its_fraction_and_leaves_the_sparsity(epochs):
    algorithm = engine(SMALL, [IterativePruning(until=0.5)])
    state = algorithm.start(0.9, clock=Clock(total_steps=epochs * STEPS))
    values, last = normal_values(state.topology), 0
    for step in range(1, epochs * STEPS + 1):
        advance = algorithm.advance(state, values)
        last = step if advance.reallocation is not None else last
        state, values = advance.state, advance.values
    assert last == epochs * STEPS // 2
    assert state.topology.counts.tolist() == [200, 60, 10]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"highest_sparsity": {"d": 0.5}}, "names 'd'; the sparse tensors are a, b, c"),
        ({"highest_sparsity": {"a": 0.5}}, "there are 27 weights, and .* alone would keep 1000"),
        ({"highest_sparsity": {"a": 1.0}}, "below 1; given 1.0 for 'a'"),
    ],
)
def test_a_highest_sparsity_that_cannot_be_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        engine(SMALL, [IterativePruning(**options)]).start(0.99, clock=Clock(total_steps=9))
