"""Whole shares: exact, proportional, within the room."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from engine_oracles import fair_shares, whole_shares
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecore.engine.growth import shares, whole_numbers
from sparsecore.errors import NoRoomError

TENSORS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=7)
HUGE = st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=7)


@st.composite
def questions(draw, tensors=TENSORS):
    weights, room = zip(*draw(tensors), strict=True)
    return draw(st.integers(0, sum(room))), list(weights), list(room)


@given(questions() | questions(HUGE))
def test_shares_are_those_of_the_largest_remainder_at_the_capped_fixed_point(question):
    assert shares(*question).tolist() == whole_shares(*question)


@given(questions() | questions(HUGE))
def test_shares_add_up_and_stay_within_the_room(question):
    total, _, room = question
    given_ = shares(*question)
    assert given_.dtype == np.int64
    assert given_.sum() == total
    assert all(0 <= share <= places for share, places in zip(given_, room, strict=True))


@given(questions())
def test_shares_are_within_one_of_proportional_where_no_room_is_short(question):
    total, weights, _ = question
    assume(sum(weights) > 0)
    for share, weight in zip(shares(total, weights, [10**6] * len(weights)), weights, strict=True):
        assert floor(total * weight / sum(weights)) <= share <= ceil(total * weight / sum(weights))


@given(questions())
def test_shares_are_within_one_of_the_capped_fixed_point(question):
    for share, fair in zip(shares(*question), fair_shares(*question), strict=True):
        assert abs(share - fair) < 1


@given(questions())
def test_shares_are_the_same_for_every_integer_type(question):
    total, weights, room = question
    arrays = shares(np.int64(total), np.array(weights, np.int64), np.array(room, np.int32))
    assert arrays.tolist() == shares(*question).tolist()


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ((10, [1, 1, 1], [99, 99, 99]), [4, 3, 3]),
        ((10, [5, 3, 2], [99, 99, 99]), [5, 3, 2]),
        ((10, [5, 3, 2], [1, 99, 99]), [1, 5, 4]),
        ((10, [5, 3, 2], [1, 2, 99]), [1, 2, 7]),
        ((3, [0, 0], [2, 4]), [1, 2]),
        ((5, [1, 0, 0], [2, 1, 2]), [2, 1, 2]),
        ((0, [1, 2], [0, 0]), [0, 0]),
        ((0, [], []), []),
        ((20_000, [3, 1], [2**40, 2**40]), [15_000, 5_000]),
    ],
)
def test_shares_equal_those_computed_by_hand(question, answer):
    assert shares(*question).tolist() == answer


@given(TENSORS, st.integers(1, 50))
def test_too_little_room_is_an_error_that_states_both_numbers(tensors, excess):
    weights, room = zip(*tensors, strict=True)
    total = sum(room) + excess
    with pytest.raises(NoRoomError, match=rf"^{total} weights .* only {sum(room)} free"):
        shares(total, weights, room)


@given(questions())
def test_shares_of_the_total_demand_meet_it_and_excess_is_allocated(question):
    _, wanted, room = question
    wanted, room = np.array(wanted), np.array(room)
    if wanted.sum() > room.sum():
        return
    given_ = shares(int(wanted.sum()), wanted, room)
    assert (given_ >= np.minimum(wanted, room)).all()
    if (wanted <= room).all():
        assert given_.tolist() == wanted.tolist()


@given(st.lists(st.floats(0, 1e300) | st.sampled_from([0.0, 5e-324, 0.1, 1 / 3]), max_size=6))
def test_integer_shares_follow_the_exact_proportions(numbers):
    whole = whole_numbers(numbers)
    assert all(isinstance(number, int) for number in whole)
    scales = {Fraction(one) / Fraction(other) for one, other in zip(whole, numbers, strict=True) if other}
    assert len(scales) <= 1
    assert [number == 0 for number in whole] == [number == 0 for number in numbers]
