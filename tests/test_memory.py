"""Memories: plain values that are carried along and saved."""

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS

from sparsecore.engine.state import (
    carry_memory,
    dump_memory,
    load_memory,
    per_position,
    per_weight,
    shown_memory,
    trouble_with_memory,
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


def test_vectors_marked_as_one_entry_a_weight_are_carried_and_nothing_else_is():
    memory = everything()
    carried = carry_memory(memory, lambda slots: slots[::-1])
    assert carried.ages.tolist() == [2.5, 1.5]
    assert carried.signs.tolist() == [-1, 1]
    assert carried.table is memory.table
    assert (carried.count, carried.rate, carried.name, carried.flag, carried.nothing) == (3, 0.1, "x", True, None)
    assert memory.ages.tolist() == [1.5, 2.5]


def test_a_memory_without_vectors_is_carried_as_it_is():
    assert carry_memory(Plain(0.5), lambda _: pytest.fail("nothing to carry")) == Plain(0.5)


def test_a_saved_memory_comes_back():
    scalars, vectors = dump_memory(everything(), ARRAYS)
    assert scalars == {"count": 3, "rate": 0.1, "name": "x", "flag": True, "nothing": None}
    assert set(vectors) == {"table", "ages", "signs"}
    like = Everything(0, 0.0, "", False, None, np.zeros(0), np.zeros(9), np.zeros(9))
    again = load_memory(like, scalars, vectors, ARRAYS)
    for field in attrs.fields(Everything):
        one, other = getattr(again, field.name), getattr(everything(), field.name)
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


def test_what_cannot_be_saved_is_told_with_the_name_of_the_field():
    assert trouble_with_memory(Plain([1, 2]), 9, 1, 20).startswith("'threshold' = [1, 2]; expected a finite number")
    assert trouble_with_memory(everything(), 2, 2, 20) is None
    assert "make it a per_weight() field" in trouble_with_memory(Plain(np.zeros(9)), 9, 3, 20)
    assert "make it a per_position() field" in trouble_with_memory(Plain(np.zeros(20)), 9, 3, 20)
    both = trouble_with_memory(Plain(np.zeros(20)), 20, 3, 20)
    assert "per_weight()" in both
    assert "per_position()" in both
    assert trouble_with_memory(Plain(np.zeros(3)), 3, 3, 3) is None


@pytest.mark.parametrize("scalars", [{}, {"treshold": 1.0}, {"threshold": 1.0, "more": 2}])
def test_a_saved_memory_of_another_strategy_is_refused_with_both_lists_of_fields(scalars):
    with pytest.raises(InputError, match=r"the saved memory has the fields .*Plain has threshold"):
        load_memory(Plain(0.1), scalars, {}, ARRAYS)


@attrs.frozen(eq=False)
class Private:
    _ages: np.ndarray = per_weight()
    _count: int = 0


def test_a_private_field_is_carried_and_saved_like_any_other():
    carried = carry_memory(Private(np.arange(3.0), 7), lambda vector: vector[::-1])
    np.testing.assert_array_equal(carried._ages, [2.0, 1.0, 0.0])
    again = load_memory(Private(np.zeros(0)), *dump_memory(carried, ARRAYS), ARRAYS)
    np.testing.assert_array_equal(again._ages, carried._ages)
    assert again._count == 7


@attrs.frozen(eq=False)
class Dense:
    momentum: np.ndarray = per_position()
    ages: np.ndarray = per_weight()


def test_a_vector_with_one_entry_a_position_stays_where_it_is_and_is_saved():
    memory = Dense(np.arange(6.0), np.arange(3.0))
    carried = carry_memory(memory, lambda vector: vector[::-1])
    assert carried.momentum is memory.momentum
    assert carried.ages.tolist() == [2.0, 1.0, 0.0]
    again = load_memory(Dense(np.zeros(6), np.zeros(3)), *dump_memory(memory, ARRAYS), ARRAYS)
    assert again.momentum.tolist() == memory.momentum.tolist()
    assert not shown_memory(memory, ARRAYS).momentum.flags.writeable


def test_a_vector_with_one_entry_a_position_has_as_many():
    memory = Dense(np.zeros(6), np.zeros(3))
    assert trouble_with_memory(memory, 3, 1, 6) is None
    assert trouble_with_memory(memory, 3, 1, 7).endswith("expected one entry a position, 7")
