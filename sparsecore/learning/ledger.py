"""The memory ledger: the bytes of a network in training, theoretical and measured."""

from collections.abc import Mapping

import attrs

_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}


@attrs.frozen
class Bytes:
    """Bytes of one kind.

    Attributes:
        theoretical: the number of entries times their size, as the storage format needs them.
        measured: the memory of the tensors that exist.
    """

    theoretical: int
    measured: int


@attrs.frozen
class Ledger:
    """Memory of the trained parameters, sparse and dense ones together; activations are not part of it.

    Attributes:
        values: the weights.
        indices: where the active weights are: positions, or masks.
        gradients: the gradients of the weights.
        optimizer_state: momentum and other state of the optimizer.
    """

    values: Bytes
    indices: Bytes
    gradients: Bytes
    optimizer_state: Bytes

    @property
    def total(self) -> Bytes:
        """The sum of all four."""
        parts = (self.values, self.indices, self.gradients, self.optimizer_state)
        return Bytes(sum(part.theoretical for part in parts), sum(part.measured for part in parts))

    @property
    def parts(self) -> dict[str, Bytes]:
        """The four by name, and their ``total``."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(Ledger)} | {"total": self.total}

    def __str__(self) -> str:
        """The measured bytes, in a line."""
        return format_memory(self.parts)


def format_memory(parts: Mapping[str, Bytes]) -> str:
    """Describe the measured bytes of :attr:`Ledger.parts` in a line, such as "3.1 MB of memory for parameters: ...".

    Args:
        parts: the four kinds and 'total', by name. Bytes are described in decimal units: 1 kB is 1000 B.
    """
    described = ", ".join(
        f"{name.replace('_', ' ')} {_size(part.measured)}" for name, part in parts.items() if name != "total"
    )
    return f"{_size(parts['total'].measured)} of memory for parameters: {described}"


def _size(count: int) -> str:
    return next((f"{count / unit:.1f} {name}" for name, unit in _UNITS.items() if count >= unit), f"{count} B")
