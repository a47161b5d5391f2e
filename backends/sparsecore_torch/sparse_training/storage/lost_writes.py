"""Writes to weights in compact storage, which are lost as a weight is made whenever it is read, are refused.

Functions such as those of ``nn.init`` write in place to a tensor that they have read, and torch asks nobody then. So it
is found when weights are next read, used, saved or trained. Found are writes to the weight that was read last, except
those that torch does not count: through ``.data``, and to tensors of inference mode.
"""

from typing import final

import attrs
from torch import Tensor

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.tensors import write_count


@attrs.frozen(eq=False)
class _Read:
    """A weight that has been read.

    Attributes:
        name: of the weight.
        dense: shares the memory of what was read, and is kept so that its writes can be counted.
        write_count: how often it had been written to.
    """

    name: str
    dense: Tensor
    write_count: int


@final
class LostWrites:
    """Remembers the weight that was read last."""

    def __init__(self) -> None:
        self._read: _Read | None = None

    def note(self, name: str, dense: Tensor) -> None:
        """Remember a weight that is about to be handed out.

        Args:
            name: of the weight.
            dense: made for the reader alone.
        """
        if not dense.is_inference():
            self._read = _Read(name, dense.detach(), write_count(dense))

    def forget(self) -> None:
        """Forget it: what is written to it is meant for its reader alone."""
        self._read = None

    def check(self, values_name: str) -> None:
        """Check that the weight that was read last has not been written to, and forget it.

        Args:
            values_name: of the Parameter that weights are made of.

        Raises:
            InputError: it has been.
        """
        read, self._read = self._read, None
        if read is not None and write_count(read.dense) != read.write_count:
            raise InputError(
                f"{read.name} has been written to, as functions of nn.init do, and what was written is lost: in "
                f"compact storage it is made of the model's Parameter {values_name} whenever it is read. Initialize "
                f"the model before sparsify, write to the active values ({values_name}), or take storage='masked'"
            )
