"""The memory ledger: what a network in training takes, by formula and as it is."""

from collections.abc import Mapping

import attrs

_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}


@attrs.frozen
class Bytes:
    """Bytes of one kind.

    Attributes:
        theoretical: entries times their size, for the way in which they are stored.
        measured: the memory behind the tensors that are alive.
    """

    theoretical: int
    measured: int


@attrs.frozen
class Ledger:
    """Memory of the trained parameters, sparse and dense ones together; activations are not part of it.

    Attributes:
        values: the weights.
        indices: what says where they are: positions, or masks.
        gradients: of the weights.
        optimizer_state: momentum and the like.
    """

    values: Bytes
    indices: Bytes
    gradients: Bytes
    optimizer_state: Bytes

    @property
    def total(self) -> Bytes:
        """All four together."""
        parts = (self.values, self.indices, self.gradients, self.optimizer_state)
        return Bytes(sum(part.theoretical for part in parts), sum(part.measured for part in parts))

    @property
    def parts(self) -> dict[str, Bytes]:
        """The four by name, and the total."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(Ledger)} | {"total": self.total}

    def __str__(self) -> str:
        """As it is, in a line."""
        return format_memory(self.parts)


def format_memory(parts: Mapping[str, Bytes]) -> str:
    """What :attr:`Ledger.parts` measures, in a line."""
    told = ", ".join(
        f"{name.replace('_', ' ')} {_size(part.measured)}" for name, part in parts.items() if name != "total"
    )
    return f"{_size(parts['total'].measured)} of memory for parameters: {told}"


def _size(count: int) -> str:
    return next((f"{count / unit:.1f} {name}" for name, unit in _UNITS.items() if count >= unit), f"{count} B")
