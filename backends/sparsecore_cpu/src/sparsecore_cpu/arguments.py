"""Checks of the arguments of operations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsecore.errors import InputError
from sparsecore.host.weights import WeightSource
from sparsecore_cpu.runtime import Floats, Form


def finite(name: str, value: float) -> float:
    """A setting that must be a finite number.

    Args:
        name: the setting's name, for the error.
        value: the number.

    Returns:
        The number.

    Raises:
        InputError: it is infinite or NaN.
    """
    if not math.isfinite(value):
        raise InputError(f"the {name} must be finite; given {value}")
    return value


def pair_of(name: str, given: Any, least: int = 1) -> tuple[int, int]:
    """Height and width of a setting that is given as one number for both, or as two.

    Args:
        name: the setting's name, for the error.
        given: an integer, or a sequence of one or two.
        least: the smallest number that is accepted.

    Raises:
        InputError: it is something else, or a number is too small.
    """
    numbers = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    if len(numbers) != 2 or not all(isinstance(one, int) and one >= least for one in numbers):
        raise InputError(
            f"the {name} must be an integer of at least {least}, or two of them for height and width; given {given!r}"
        )
    return numbers


def check_images(form: Form, operation: str) -> None:
    """Check that an operation's input is images.

    Args:
        form: of the input.
        operation: what is done with it, for the error.

    Raises:
        InputError: they are vectors.
    """
    if form.features:
        raise InputError(f"{operation} takes images (batch, height, width, channels); given a tensor of {form.dense}")


def channel_values(name: str, weight: WeightSource, form: Form) -> Floats:
    """The entries of a parameter with one for each channel, float32, (channels,).

    Args:
        name: of the parameter, for the error message.
        weight: the parameter.
        form: of the activation that has the channels.

    Returns:
        The values.

    Raises:
        InputError: the parameter has another number of entries.
    """
    if math.prod(weight.shape) != form.channels:
        raise InputError(
            f"a {name} of shape {weight.shape} does not have one entry for each of {form.channels} channels"
        )
    return weight.to_array().reshape(-1).astype(np.float32)
