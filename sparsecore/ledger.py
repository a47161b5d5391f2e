"""The memory ledger: what a network in training takes, by formula and as it is."""

import attrs


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
