"""The forward view: weights that are stored and trained, but silent, as in Top-KAST.

The network computes with a part of its weights. The others are zero wherever it computes, and have values of their own
when the optimizer steps and when strategies decide.
"""

import attrs

from sparsecore.engine.arrays import Array, Arrays


@attrs.frozen(eq=False)
class ForwardView:
    """Which weights the network computes with, and the values of the others.

    Attributes:
        visible: whether the network computes with it, one bool a weight.
        silent: the values of the other weights, (N,); zero where a weight is visible.
        arrays: the operations of the backend that holds both.
    """

    visible: Array
    silent: Array
    arrays: Arrays

    @classmethod
    def of(cls, visible: Array, values: Array, arrays: Arrays) -> "ForwardView":
        """Return the view of weights with these values.

        Args:
            visible: one bool a weight.
            values: of all weights, (N,).
            arrays: the operations of their backend.
        """
        return cls(visible, arrays.where(visible, arrays.zeros_like(values, len(values)), values), arrays)

    def seen(self, values: Array) -> Array:
        """Return the values that the network computes with: zero for silent weights.

        Args:
            values: of all weights, (N,).
        """
        return self.arrays.where(self.visible, values, self.arrays.zeros_like(values, len(values)))

    def whole(self, seen: Array) -> Array:
        """Return the values of all weights.

        Args:
            seen: those that the network computes with, (N,).
        """
        return self.arrays.where(self.visible, seen, self.silent)
