"""The forward view: weights that are stored and trained, but silent, as in Top-KAST.

The network computes with a part of its weights. The others are zero wherever it computes, and have values of their own
when the optimizer steps and when strategies decide.
"""

from collections.abc import Callable

import attrs

from sparsecore.engine.arrays import Array, Arrays, Counts


@attrs.frozen(eq=False)
class VisibleWeights:
    """The weights that the network computes with.

    Attributes:
        mask: whether the network computes with it, one bool a weight.
        counts: how many these are in each tensor.
    """

    mask: Array
    counts: Counts


class SilentValues:
    """Hides the silent weights of a store: they are zero in it, and their values are kept here until they are shown.

    Args:
        read: returns the values in the store, (N,).
        write: replaces them.
        arrays: the operations of their backend.

    Attributes:
        kept: the values of silent weights, (N,), zero for visible ones; None while the store has all values.
    """

    def __init__(self, read: Callable[[], Array], write: Callable[[Array], None], arrays: Arrays) -> None:
        self._read, self._write, self._arrays = read, write, arrays
        self._visible: Array | None = None
        self.kept: Array | None = None

    def hide(self, visible: VisibleWeights) -> Array:
        """Hide the silent weights, unless they are hidden.

        Args:
            visible: the others.

        Returns:
            Their values, as :attr:`kept`.
        """
        if self.kept is None:
            values = self._read()
            zeros = self._arrays.zeros_like(values, len(values))
            self._visible, self.kept = visible.mask, self._arrays.where(visible.mask, zeros, values)
            self._write(self._arrays.where(visible.mask, values, zeros))
        return self.kept

    def show(self) -> bool:
        """Give the silent weights their values in the store.

        Returns:
            Whether they were hidden.
        """
        is_hidden = self.kept is not None
        if is_hidden:
            self._write(self.values())
            self.kept = None
        return is_hidden

    def values(self) -> Array:
        """Return the values of all weights, (N,), silent ones too."""
        seen = self._read()
        return seen if self.kept is None else self._arrays.where(self._visible, seen, self.kept)

    def keep(self, visible: VisibleWeights, silent: Array) -> None:
        """Take the values of silent weights, which are zero in the store.

        Args:
            visible: the others.
            silent: (N,), zero for visible ones.
        """
        self._visible, self.kept = visible.mask, silent

    def forget(self) -> None:
        """Forget what was kept: the store has been given all values."""
        self.kept = None
