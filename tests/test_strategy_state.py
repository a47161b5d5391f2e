"""Strategy states: plain values that are carried along and saved."""

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS

from sparsecore.engine.state import (
    carry_strategy_state,
    dump_strategy_state,
    load_strategy_state,
    per_position,
    per_weight,
    readonly_strategy_state,
    strategy_state_error,
)
from sparsecore.errors import InputError


@attrs.frozen(eq=False)
class Everything:
    count: int
    rate: float
    name: str
    flag: bool
    nothing: None
    table: np.ndarray
    ages: np.ndarray = per_weight()
    signs: np.ndarray = per_weight()


@attrs.frozen
class Plain:
    threshold: float


def everything():
    return Everything(
        3, 0.1, "x", True, None, np.arange(6).reshape(2, 3), np.array([1.5, 2.5]), np.array([1, -1], np.int8)
    )


def test_only_vectors_marked_as_one_entry_per_weight_are_carried():
    strategy_state = everything()
    carried = carry_strategy_state(strategy_state, lambda slots: slots[::-1])
    assert carried.ages.tolist() == [2.5, 1.5]
    assert carried.signs.tolist() == [-1, 1]
    assert carried.table is strategy_state.table
    assert (carried.count, carried.rate, carried.name, carried.flag, carried.nothing) == (3, 0.1, "x", True, None)
    assert strategy_state.ages.tolist() == [1.5, 2.5]


def test_a_state_without_vectors_is_carried_unchanged():
    assert carry_strategy_state(Plain(0.5), lambda _: pytest.fail("nothing to carry")) == Plain(0.5)


def test_a_saved_state_is_restored():
    scalars, vectors = dump_strategy_state(everything(), ARRAYS)
    assert scalars == {"count": 3, "rate": 0.1, "name": "x", "flag": True, "nothing": None}
    assert set(vectors) == {"table", "ages", "signs"}
    like = Everything(0, 0.0, "", False, None, np.zeros(0), np.zeros(9), np.zeros(9))
    again = load_strategy_state(like, scalars, vectors, ARRAYS)
    for field in attrs.fields(Everything):
        one, other = getattr(again, field.name), getattr(everything(), field.name)
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


def test_a_field_that_cannot_be_saved_is_refused_by_name():
    assert strategy_state_error(Plain([1, 2]), 9, 1, 20).startswith("'threshold' = [1, 2]; expected a finite number")
    assert strategy_state_error(everything(), 2, 2, 20) is None
    assert "make it a per_weight() field" in strategy_state_error(Plain(np.zeros(9)), 9, 3, 20)
    assert "make it a per_position() field" in strategy_state_error(Plain(np.zeros(20)), 9, 3, 20)
    both = strategy_state_error(Plain(np.zeros(20)), 20, 3, 20)
    assert "per_weight()" in both
    assert "per_position()" in both
    assert strategy_state_error(Plain(np.zeros(3)), 3, 3, 3) is None


@pytest.mark.parametrize("scalars", [{}, {"treshold": 1.0}, {"threshold": 1.0, "more": 2}])
def test_a_saved_state_of_another_strategy_is_refused_with_both_lists_of_fields(scalars):
    with pytest.raises(InputError, match=r"the saved strategy state has the fields .*Plain has threshold"):
        load_strategy_state(Plain(0.1), scalars, {}, ARRAYS)


@attrs.frozen(eq=False)
class Private:
    _ages: np.ndarray = per_weight()
    _count: int = 0


def test_a_private_field_is_carried_and_saved_like_any_other():
    carried = carry_strategy_state(Private(np.arange(3.0), 7), lambda vector: vector[::-1])
    np.testing.assert_array_equal(carried._ages, [2.0, 1.0, 0.0])
    again = load_strategy_state(Private(np.zeros(0)), *dump_strategy_state(carried, ARRAYS), ARRAYS)
    np.testing.assert_array_equal(again._ages, carried._ages)
    assert again._count == 7


@attrs.frozen(eq=False)
class Dense:
    momentum: np.ndarray = per_position()
    ages: np.ndarray = per_weight()


def test_a_vector_with_one_entry_per_position_is_not_moved_and_is_saved():
    strategy_state = Dense(np.arange(6.0), np.arange(3.0))
    carried = carry_strategy_state(strategy_state, lambda vector: vector[::-1])
    assert carried.momentum is strategy_state.momentum
    assert carried.ages.tolist() == [2.0, 1.0, 0.0]
    again = load_strategy_state(Dense(np.zeros(6), np.zeros(3)), *dump_strategy_state(strategy_state, ARRAYS), ARRAYS)
    assert again.momentum.tolist() == strategy_state.momentum.tolist()
    assert not readonly_strategy_state(strategy_state, ARRAYS).momentum.flags.writeable


def test_a_vector_with_one_entry_per_position_must_have_that_length():
    strategy_state = Dense(np.zeros(6), np.zeros(3))
    assert strategy_state_error(strategy_state, 3, 1, 6) is None
    assert strategy_state_error(strategy_state, 3, 1, 7).endswith("expected one entry a position, 7")
