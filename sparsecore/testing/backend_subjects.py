"""A backend under test."""

from functools import cache
from typing import Any

import attrs

from sparsecore.engine.arrays import Arrays
from sparsecore.learning.protocols import Backend
from sparsecore.plugins.discovery import load

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

    def readonly(self, array: Any) -> Any:
        """The array itself."""
        return array


_TOLERANCES = {"float32": 2e-4, "float64": 1e-8}


@attrs.frozen(eq=False)
class BackendSubject:
    """A backend under test.

    Attributes:
        backend: as it was given.
        precise: the same in float64, where it can be had.
    """

    backend: Backend
    precise: Backend | None

    @classmethod
    def of(cls, backend: Any) -> "BackendSubject":
        """The backend, and the same in double precision."""
        try:
            precise: Backend | None = attrs.evolve(backend, dtype="float64")
        except (TypeError, ValueError):
            precise = None
        return cls(backend, precise)

    @property
    def finest(self) -> Backend:
        """In double precision, if it can be had."""
        return self.precise or self.backend

    @property
    def is_oracle(self) -> bool:
        """Whether there is nothing to compare it with but definitions."""
        return type(self.backend) is type(oracle())

    @property
    def name(self) -> str:
        """Of its class."""
        return type(self.backend).__name__

    def tolerance(self, backend: Backend) -> float:
        """How far numbers may be from the oracle's, relative to the largest of them."""
        return _TOLERANCES.get(backend.dtype, 2e-2)
