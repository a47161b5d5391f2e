"""A draw is a function of its key and of nothing else.

The statistical tests run on fixed seeds, so that they either always pass or never; the threshold p > 1e-3 was chosen
before the seeds.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsecore.engine.randomness import Randomness, philox_words
from sparsecore.errors import InputError

KEYS = st.lists(st.text(max_size=5) | st.integers(-3, 10**6), max_size=3)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=5), st.integers(0, 2**128 - 1))
def test_philox_words_equal_numpy_s(positions, key):
    words = philox_words(np.array(positions, np.int64), key)
    for place, position in enumerate(positions):
        wanted = np.random.Philox(key=key, counter=position).random_raw(2)
        assert [int(word[place]) for word in words] == wanted.tolist()


def test_philox_words_do_not_depend_on_chunk_boundaries():
    positions = np.arange(40_000)
    whole = philox_words(positions, 77)
    for start in (0, 1, 16_383, 16_384, 39_999):
        part = philox_words(positions[start : start + 1], 77)
        assert [int(word[0]) for word in part] == [int(word[start]) for word in whole]


@given(st.integers(0, 2**53), KEYS, KEYS)
def test_equal_keys_give_equal_numbers_whatever_their_path(seed, above, below):
    one = Randomness(seed).child(*above).generator(*below)
    other = Randomness(seed, tuple(above)).child(*below).generator()
    np.testing.assert_array_equal(one.integers(0, 2**60, 4), other.integers(0, 2**60, 4))


@given(st.tuples(st.integers(0, 50), KEYS), st.tuples(st.integers(0, 50), KEYS))
def test_different_keys_give_different_numbers(one, other):
    draws = [Randomness(seed).generator(*keys).integers(0, 2**60, 4).tolist() for seed, keys in (one, other)]
    assert (draws[0] == draws[1]) == (one == other)


def test_a_number_and_its_digits_are_different_keys():
    root = Randomness(0)
    assert root.generator(1).random() != root.generator("1").random()
    assert root.generator("a", "b").random() != root.generator("ab").random()
    assert root.generator("a,b").random() != root.generator("a", "b").random()


def test_a_draw_does_not_affect_later_draws():
    place = Randomness(3).child("x")
    first = place.generator("y").random(5)
    place.generator("z").random(100)
    np.random.default_rng().random(3)
    np.testing.assert_array_equal(first, place.generator("y").random(5))


@pytest.mark.parametrize("draw", ["normal_at", "uniform_at", "signs_at"])
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.data())
def test_the_number_of_a_position_does_not_depend_on_which_others_are_drawn(draw, positions, data):
    numbers = getattr(Randomness(5), draw)(np.array(positions), "w")
    chosen = data.draw(st.lists(st.sampled_from(range(len(positions)))))
    again = getattr(Randomness(5), draw)(np.array(positions)[chosen], "w")
    np.testing.assert_array_equal(again, numbers[chosen])


def test_positions_of_either_integer_dtype_give_the_same_numbers():
    positions = np.arange(100)
    np.testing.assert_array_equal(
        Randomness(5).normal_at(positions.astype(np.int32)), Randomness(5).normal_at(positions.astype(np.int64))
    )


def test_no_positions_give_no_numbers():
    assert Randomness(0).normal_at(np.empty(0, np.int32)).shape == (0,)


@pytest.mark.parametrize("offset", [0, 2**33])
def test_normal_numbers_are_normally_distributed(offset):
    numbers = Randomness(1).normal_at(np.arange(offset, offset + 100_000), "w")
    assert numbers.dtype == np.float64
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert abs(numbers.mean()) < 4 / np.sqrt(100_000)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / 100_000)
    assert abs(stats.kurtosis(numbers)) < 4 * np.sqrt(24 / 100_000)


def test_uniform_numbers_are_uniformly_distributed_in_the_half_open_interval():
    numbers = Randomness(1).uniform_at(np.arange(100_000), "w")
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3


def test_both_signs_are_equally_likely():
    signs = Randomness(1).signs_at(np.arange(100_000), "w")
    assert signs.dtype == np.int8
    assert set(signs.tolist()) == {-1, 1}
    assert stats.binomtest(int((signs > 0).sum()), signs.size).pvalue > 1e-3


@pytest.mark.parametrize(("one", "other"), [("a", "b"), (0, 1), ("tensor1", "tensor10")])
def test_draws_of_different_keys_look_independent(one, other):
    positions = np.arange(50_000)
    a, b = (Randomness(2).normal_at(positions, key) for key in (one, other))
    assert stats.pearsonr(a, b).pvalue > 1e-3
    assert stats.pearsonr(a**2, b**2).pvalue > 1e-3


def test_neighbouring_positions_look_independent():
    numbers = Randomness(2).normal_at(np.arange(50_000), "w")
    assert stats.pearsonr(numbers[1:], numbers[:-1]).pvalue > 1e-3


def test_neighbouring_seeds_look_independent():
    positions = np.arange(50_000)
    a, b = (Randomness(seed).normal_at(positions, "w") for seed in (0, 1))
    assert stats.pearsonr(a, b).pvalue > 1e-3


def test_root_keeps_the_seed_and_drops_the_path():
    assert Randomness(4).child("a", 3).root == Randomness(4)


@pytest.mark.parametrize("seed", [-1, 0.5, "1", None, True, 2**53 + 1, np.int64(-1)])
def test_a_seed_that_is_no_exact_natural_number_is_refused_with_a_sentence(seed):
    with pytest.raises(InputError, match="a seed is a whole number from 0 to 9007199254740992; given"):
        Randomness(seed)


def test_a_numpy_integer_is_the_same_seed_as_a_python_integer():
    assert Randomness(np.int64(3)).generator("a").random() == Randomness(3).generator("a").random()
