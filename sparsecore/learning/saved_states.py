"""Checks of a learner's saved state, before anything of it is taken up."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsecore.errors import InputError


def check_saved(state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check that a saved state has all buffers, each of its shape.

    Args:
        state: the saved arrays, by the names of the buffers.
        shapes: of all buffers, by name.

    Raises:
        InputError: a buffer is missing, or has another shape.
    """
    for name, shape in shapes.items():
        if name not in state:
            raise InputError(f"the saved state has no buffer named {name!r}; it has: {', '.join(sorted(state))}")
        check_shape(name, state[name], shape)


def check_shape(name: str, given: Any, expected: Sequence[int]) -> None:
    """Check the shape of an array.

    Args:
        name: of what it is, for the error message.
        given: an array of any library.
        expected: its shape.

    Raises:
        InputError: the array has another one.
    """
    if tuple(given.shape) != tuple(expected):
        raise InputError(f"{name} must have the shape {tuple(expected)}; given {tuple(given.shape)}")
