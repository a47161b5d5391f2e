"""Tables of cases in which every pair of settings occurs; the other combinations are slow tests."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def every_pair(**settings: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by a few combinations that contain each pair of settings, and by all others as slow tests.

    Most of what goes wrong by a combination goes wrong by two of its settings.

    Args:
        settings: the arguments of the test, each with its settings; with two arguments, there is nothing to leave out.
    """
    columns = [list(each) for each in settings.values()]
    numbers = list(itertools.product(*(range(len(column)) for column in columns)))
    chosen = _covering(numbers)
    cases = [
        pytest.param(
            *(column[index] for column, index in zip(columns, row, strict=True)),
            marks=[] if row in chosen else pytest.mark.slow,
        )
        for row in numbers
    ]
    return pytest.mark.parametrize(tuple(settings), cases)


def every_other(**settings: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by combinations in which each setting occurs, with two in turns; all others are slow tests.

    For a test whose two arguments have nothing to do with each other. Each setting of the first argument comes with one
    of the second, these in turns, so that none of either is left out.

    Args:
        settings: the two arguments of the test, each with its settings; the first has at least as many.
    """
    first, second = (list(each) for each in settings.values())
    assert len(first) >= len(second), "settings of the second argument would be left out"
    cases = [
        pytest.param(one, other, marks=[] if row % len(second) == column else pytest.mark.slow)
        for row, one in enumerate(first)
        for column, other in enumerate(second)
    ]
    return pytest.mark.parametrize(tuple(settings), cases)


def _covering(rows: Sequence[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Return rows that contain every pair of numbers at every pair of places: each time the one with most new ones."""
    missing = {pair for row in rows for pair in _pairs(row)}
    chosen = set()
    while missing:
        best = max(rows, key=lambda row: len(_pairs(row) & missing))
        chosen.add(best)
        missing -= _pairs(best)
    return chosen


def _pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return set(itertools.combinations(enumerate(row), 2))
