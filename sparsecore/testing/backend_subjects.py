"""A backend under test."""

from typing import Any

import attrs

from sparsecore.learning import Backend
from sparsecore.testing.oracle import oracle

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
