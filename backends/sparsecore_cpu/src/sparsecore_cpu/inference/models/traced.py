"""Tensors and operations of a module that is being translated to a program."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from sparsecore.errors import InputError
from sparsecore_cpu.inference.models.program import Shape


@attrs.frozen(eq=False)
class Traced:
    """A tensor in a graph.

    Attributes:
        shape: negative sizes are multiples of the number of examples.
        operand: the number of its value, or the constant tensor itself.
    """

    shape: Shape
    operand: Any

    @property
    def is_constant(self) -> bool:
        """Whether it does not depend on the input."""
        return not isinstance(self.operand, int)

    @property
    def number(self) -> float | None:
        """Its entry where it is a constant of one entry without dimensions; else None."""
        return float(self.operand) if self.is_constant and self.shape == () else None


@attrs.frozen(eq=False)
class Step:
    """One operation of a program, before its operands are numbered.

    Attributes:
        operation: its name.
        operands: tensors, or None for one that is left out.
        attributes: its settings.
        alias: a tensor that is the output itself, for an operation that does nothing; None for others.
    """

    operation: str
    operands: tuple[Traced | None, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})
    alias: Traced | None = None


class TranslationError(InputError):
    """An operation that cannot be taken over; the message says why."""
