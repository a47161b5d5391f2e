"""Strategy states: plain values that are carried along and saved."""

from typing import Any

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS, engine

from sparsecore.engine.saved_states import saved_strategy_state_error
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
from sparsecore.plugins.discovery import installed, load
from sparsecore.strategy import Clock


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


def started(name: str) -> Any:
    """An engine with a strategy on two tensors, and its state before the first step."""
    kind = load("strategy", name)
    one = engine(TWO_TENSORS, [kind(target=5) if name == "dpr" else kind()])
    dense = {name: np.linspace(-1, 1, size, dtype=np.float32) for name, size in sizes_of_tensors().items()}
    return one.start(0.8, clock=Clock(steps_per_epoch=10, total_steps=100), values=dense.__getitem__)


def sizes_of_tensors() -> dict[str, int]:
    return dict(zip(TWO_TENSORS.names, TWO_TENSORS.sizes, strict=True))


def damages(name: str, array: np.ndarray, *, may_be_zero: bool) -> dict[str, Any]:
    """What no training of a built-in strategy has written in the place of a vector of its state."""
    is_whole = array.dtype.kind == "i"
    return {
        "text": "x",
        "nothing": None,
        "list": array.tolist(),
        "letters": np.array(["x"] * len(array)),
        "shorter": array[:-1],
        "longer": np.r_[array, array],
        "table": array[None],
        "16 bits": array.astype(np.float16),
        **({} if name == "momentum" else {"64 bits": array.astype(np.float64)}),
        "complex": array.astype(np.complex128),
        **({"not finite": np.full_like(array, np.nan)} if array.dtype.kind == "f" else {}),
        **({"all": np.ones_like(array)} if array.dtype.kind == "b" else {}),
        **(
            {"too large": np.full_like(array, np.iinfo(array.dtype).max), "below -1": -2 - abs(array)}
            if is_whole
            else {}
        ),
        **({} if may_be_zero else {"zeros": np.zeros_like(array)}),
    }


SCALARS = (0, -1, float("nan"), float("inf"), 1e300, None, True, "x", [], [1], np.zeros(2))
MAY_BE_ZERO = {
    ("gradient-deepr", "signs"),
    ("snfs", "momentum"),
    ("momentum-growth", "momentum"),
    ("topkast", "latest"),
}
WITH_STATE = "acdc deepr density-schedule dpr gmp gradient-deepr granet iterative-pruning mest momentum-growth snfs"


@pytest.mark.parametrize("name", [*WITH_STATE.split(), "soft-deepr", "topkast"])
def test_a_state_in_a_file_that_no_training_has_written_is_refused(name):
    state = started(name)
    [like] = state.strategy_states.values()
    scalars, vectors = dump_strategy_state(like, ARRAYS)
    assert saved_strategy_state_error(like, scalars, vectors, state.topology) is None
    given = [({**scalars, field: value}, vectors, f"{field} {value}") for field in scalars for value in SCALARS]
    for field, array in vectors.items():
        changes = damages(field, array, may_be_zero=(name, field) in MAY_BE_ZERO)
        given += [(scalars, {**vectors, field: value}, f"{field} {kind}") for kind, value in changes.items()]
    given += [(scalars, {**vectors, "more": np.zeros(2)}, "more"), ({}, {}, "none")]
    for changed_scalars, changed_vectors, what in given:
        error = saved_strategy_state_error(like, changed_scalars, changed_vectors, state.topology)
        assert error, what
        assert "\n" not in error


def test_the_states_of_all_installed_strategies_are_damaged_above():
    with_state = {entry.name for entry in installed("strategy") if hasattr(load("strategy", entry.name), _FIRST)}
    assert with_state - {"set"} == {*WITH_STATE.split(), "soft-deepr", "topkast"}


_FIRST = "initial_strategy_state"


def test_sums_that_gradients_of_double_precision_have_widened_are_loaded():
    state = started("snfs")
    like = state.strategy_states["SparseMomentum"]
    wide = {"momentum": np.zeros(TWO_TENSORS.size, np.float64)}
    assert like.momentum.dtype == np.float32
    assert saved_strategy_state_error(like, {}, wide, state.topology) is None
