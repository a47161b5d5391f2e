"""The norms of the inputs of weights on host backends, for strategies that ask for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.arrays import InputNorms
from sparsecore.errors import InputError


class InputMeter:
    """Adds up the squares of the inputs that a weight is multiplied by in a step."""

    def __init__(self) -> None:
        self._squares: NDArray[np.float64] | None = None

    def add(self, squares: NDArray[np.float64]) -> None:
        """Add the inputs of one use of the weight.

        Args:
            squares: the sum of the squares of each input over examples and pixels, (in,).
        """
        self._squares = squares if self._squares is None else self._squares + squares

    def norms(self, dtype: Any) -> NDArray[Any] | None:
        """Return the ℓ2 norm of each input, (in,); None where the weight was not used.

        Args:
            dtype: of the result.
        """
        return None if self._squares is None else np.sqrt(self._squares).astype(dtype)


def input_norms(meters: Mapping[str, InputMeter], dtype: Any) -> InputNorms:
    """Return the norms of the inputs of the latest step.

    Args:
        meters: of each sparse tensor, by name.
        dtype: of the norms.

    Returns:
        A function from a tensor's name to the norm of each of its inputs, which raises an :class:`InputError` for a
        tensor that no layer multiplies its input by, such as a vector or the values of a tied weight.
    """

    def of(name: str) -> NDArray[Any]:
        norms = meters[name].norms(dtype)
        if norms is None:
            raise InputError(f"no layer has multiplied an input by the sparse tensor {name!r}, which so has no norms")
        return norms

    return of
