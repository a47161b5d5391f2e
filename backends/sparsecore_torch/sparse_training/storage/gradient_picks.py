"""Single entries of dense gradients: those of the active weights, and those at candidates."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from sparsecore.engine.topology import Topology
from sparsecore_torch.arrays import gather_active


class GradientPicks:
    """The entries of the gradients of one step at some positions.

    Attributes:
        active: the active positions; None where their gradients are not asked for.
        candidates: other positions; None likewise.

    Args:
        active: see above.
        candidates: see above.
    """

    def __init__(self, active: Topology | None = None, candidates: Topology | None = None) -> None:
        self.active, self.candidates = active, candidates
        self._entries: dict[tuple[int, str], Tensor] = {}

    @property
    def are_expected(self) -> bool:
        """Whether any gradients are asked for."""
        return self.active is not None or self.candidates is not None

    def has_candidates(self, name: str) -> bool:
        """Return whether the entries of this tensor at candidates have been taken."""
        return (id(self.candidates), name) in self._entries

    def take(self, positions: Topology | None, name: str, gradient: Tensor | None, scale: Tensor | None = None) -> None:
        """Take the entries of a gradient.

        Args:
            positions: :attr:`active` or :attr:`candidates`; nothing is taken where that is None.
            name: of the tensor.
            gradient: dense, of the tensor's shape; None where none has arrived.
            scale: the number that the gradient is multiplied by; None for 1.
        """
        if positions is None:
            return
        if gradient is None:
            self._entries.pop((id(positions), name), None)
            return
        entries = gather_active(gradient, positions, positions.layout.index(name))
        self._entries[id(positions), name] = entries if scale is None else entries / scale

    def joined(self, positions: Topology | None, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the entries of all tensors.

        Args:
            positions: :attr:`active` or :attr:`candidates`.
            parameters: the tensors by name, in the order of the layout.

        Returns:
            One entry for each position, in the common dtype of the tensors, at least float32; zeros where no gradient
            has arrived.

        Raises:
            RuntimeError: the gradients at these positions were not expected.
        """
        if positions is None:
            raise RuntimeError("these gradients have not been collected")
        dtype = reduce(torch.promote_types, (one.dtype for one in parameters.values()), torch.float32)
        parts = []
        for name, parameter in parameters.items():
            taken = self._entries.get((id(positions), name))
            slots = positions.slots(name)
            zeros = torch.zeros(slots.stop - slots.start, dtype=dtype, device=parameter.device)
            parts.append(zeros if taken is None else taken.to(dtype))
        return torch.cat(parts)
