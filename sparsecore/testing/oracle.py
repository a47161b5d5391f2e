"""The backend that every other one is compared with."""

from functools import cache
from typing import Any

from sparsecore.arrays import Arrays
from sparsecore.learning import Backend
from sparsecore.plugins import load

ORACLE = "numpy"


@cache
def oracle(dtype: str = "float32") -> Backend:
    """The oracle, computing in this dtype."""
    backend: Backend = load("backend", ORACLE)(dtype=dtype)
    return backend


def oracle_arrays() -> Arrays:
    """Its array verbs."""
    return oracle().arrays


class WritableArrays:
    """The oracle's verbs, but what is to be looked at can be written to, as on backends that cannot prevent it."""

    def __getattr__(self, verb: str) -> Any:
        return getattr(oracle_arrays(), verb)

    def shown(self, array: Any) -> Any:
        """The array itself."""
        return array
