"""Writes to weights in compact storage, which are lost as a weight is made whenever it is read, are refused.

Functions such as those of ``nn.init`` write in place to a tensor that they have read, and torch asks nobody then. So it
is found when weights are next read, used, saved or trained. Not found are writes that torch does not count: through
``.data``, and to tensors of inference mode; nor writes to a view after the tensor that was read is gone.
"""

from typing import final
from weakref import ref

import attrs
from torch import Tensor

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.tensors import write_count


@attrs.frozen(eq=False)
class _Read:
    """A weight that somebody has read and still has.

    Attributes:
        name: of the weight.
        reader: what was read.
        memory: a tensor on the same memory, whose writes can be counted when the reader's is about to go.
        write_count: how often it had been written to.
    """

    name: str
    reader: "ref[Tensor]"
    memory: Tensor
    write_count: int

    @property
    def is_written(self) -> bool:
        return write_count(self.memory) != self.write_count


@final
class LostWrites:
    """Watches the weights that have been read for as long as their readers have them."""

    def __init__(self) -> None:
        self._reads: dict[int, _Read] = {}
        self._written: str | None = None

    def watch(self, name: str, dense: Tensor) -> None:
        """Watch a weight that is about to be handed out.

        Args:
            name: of the weight.
            dense: made for the reader alone.
        """
        if dense.is_inference():
            return
        key = id(dense)

        def gone(_: "ref[Tensor]") -> None:
            read = self._reads.pop(key, None)
            if read is not None and read.is_written:
                self._written = read.name

        self._reads[key] = _Read(name, ref(dense, gone), dense.detach(), write_count(dense))

    def ignore(self, dense: Tensor) -> None:
        """No longer watch a weight: what is written to it is meant for its reader alone."""
        self._reads.pop(id(dense), None)

    def check(self, values_name: str) -> None:
        """Check that no weight that has been read has been written to, and forget those that have.

        Args:
            values_name: of the Parameter that weights are made of.

        Raises:
            InputError: one has been.
        """
        for key, read in list(self._reads.items()):
            if read.is_written:
                self._written = self._reads.pop(key).name
        name, self._written = self._written, None
        if name is not None:
            raise InputError(
                f"{name} has been written to, as functions of nn.init do, and what was written is lost: in compact "
                f"storage it is made of the model's Parameter {values_name} whenever it is read. Initialize the model "
                f"before sparsify, write to the active values ({values_name}), or take storage='masked'"
            )
