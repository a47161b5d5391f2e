"""The hash that ties weights: its definition, and that nothing of it can be seen in a network."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from ties_oracle import place

from sparsecore.engine.randomness import Randomness
from sparsecore.learning.parameters import HeNormal, Parameter, Ties, hash_slots, tied

CONV, MATRIX = (128, 128, 3, 3), (300, 784)
KEYS = [Ties.of(name, MATRIX, seed).key for name in ("a", "b", "layer1.weight") for seed in (0, 1)]


def places_of(count, key, size=math.prod(MATRIX)):
    return hash_slots(np.arange(size), count, key)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(1, 2**31 - 1), st.integers(0, 2**62 - 1))
def test_the_hash_equals_its_definition_at_every_position(positions, count, key):
    slots, signs = hash_slots(np.array(positions, np.int64), count, key)
    assert list(zip(slots.tolist(), signs.tolist(), strict=True)) == [place(p, count, key) for p in positions]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(1, 2**31 - 1), st.integers(0, 2**62 - 1))
def test_the_hash_is_the_same_on_torch(positions, count, key):
    torch = pytest.importorskip("torch")
    here = hash_slots(np.array(positions, np.int64), count, key)
    there = hash_slots(torch.tensor(positions, dtype=torch.int64), count, key)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("count", [2, 7, 100, 1024, 2352, 23_520, 117_600])
def test_every_value_is_equally_likely(key, count):
    slots, _ = places_of(count, key)
    assert slots.min() >= 0
    assert stats.chisquare(np.bincount(slots, minlength=count)).pvalue > 1e-3


def test_values_are_reused_as_often_as_by_chance():
    slots, _ = places_of(23_520, KEYS[0])
    times = np.bincount(slots, minlength=23_520)
    assert times.mean() == 10
    assert times.var() == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("apart", [1, 2, 3, 9, 16, 256, 784, 1152, 2**16])
def test_values_at_different_positions_are_independent(key, apart):
    words, signs = places_of(16, key)
    both = words + 16 * (signs > 0)
    table = np.zeros((32, 32))
    np.add.at(table, (both[:-apart], both[apart:]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-6


@pytest.mark.parametrize("key", KEYS)
def test_both_signs_are_equally_likely_for_every_value(key):
    slots, signs = places_of(1000, key)
    plus = np.bincount(slots, signs > 0, 1000)
    times = np.bincount(slots, minlength=1000)
    assert stats.chisquare(np.concatenate([plus, times - plus]), np.tile(times / 2, 2)).pvalue > 1e-3


def test_ties_of_different_tensors_and_seeds_are_independent():
    everywhere = np.arange(2**16)
    slots = [hash_slots(everywhere, 64, key)[0] for key in KEYS]
    for i, one in enumerate(slots):
        for j, other in enumerate(slots[:i]):
            differ = KEYS[i] ^ KEYS[j]
            for moved in (everywhere, everywhere ^ (differ % 2**16), everywhere[::-1]):
                assert np.mean(one == other[moved]) == pytest.approx(1 / 64, abs=0.003)


def test_the_hash_key_depends_on_name_and_seed():
    assert len(set(KEYS)) == len(KEYS)
    assert Ties.of("a", (2, 3), 0).key == Ties.of("a", (5,), 0).key == KEYS[0]
    assert all(0 <= key < 2**62 for key in KEYS)


def test_a_tied_parameter_learns_a_vector_of_values_that_starts_as_the_dense_tensor_would():
    dense = Parameter("conv", CONV, HeNormal(), sparse=True)
    values = tied(dense, 14_745, seed=3)
    assert (values.name, values.shape, values.sparse, values.trained) == ("conv", (14_745,), True, True)
    assert values.ties == Ties.of("conv", CONV, 3)
    place = Randomness(1).child("conv")
    drawn = values.initial(values.shape, np.arange(14_745), place)
    assert stats.kstest(drawn, "norm", (0, math.sqrt(2 / (128 * 9)))).pvalue > 1e-3


@pytest.mark.parametrize("count", [2352, 23_520, 235_200])
def test_sums_of_a_unit_have_the_variance_of_a_dense_network(count):
    """Without signs, inputs of one sign would have it grow with the number of positions that share a value."""
    slots, signs = places_of(count, KEYS[4])
    values = tied(Parameter("m", MATRIX, HeNormal()), count, 0).initial((count,), np.arange(count), Randomness(5))
    sums = (values[slots] * signs).reshape(MATRIX).sum(axis=1)
    assert sums.var() == pytest.approx(784 * 2 / 300, rel=0.25)
