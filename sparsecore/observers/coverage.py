"""Coverage: which positions were ever active, as a bitmap."""

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError

_CHUNK = 1 << 22
"""The most positions that are added at once, which bounds the temporary memory."""


class Coverage:
    """The positions of a layout that were active at any time since this began, in a bit each: D/8 bytes on the host.

    Args:
        positions: D, the number of positions of the layout.

    Attributes:
        count: how many positions were ever active.
    """

    def __init__(self, positions: int) -> None:
        self._size = positions
        self._bits = np.zeros(-(-positions // 8), np.uint8)
        self.count = 0

    @property
    def rate(self) -> float:
        """The share of positions that were ever active, in [0, 1]: the ITOP rate."""
        return self.count / self._size

    def add(self, positions: NDArray[np.integer]) -> None:
        """Add active positions.

        Args:
            positions: distinct, in [0, D), on the host.
        """
        for first in range(0, len(positions), _CHUNK):
            chunk = positions[first : first + _CHUNK].astype(np.int64)
            bytes_, bits = chunk >> 3, np.left_shift(1, chunk & 7).astype(np.uint8)
            self.count += int(((self._bits[bytes_] & bits) == 0).sum())
            np.bitwise_or.at(self._bits, bytes_, bits)

    def add_topology(self, topology: Topology) -> None:
        """Add all active positions of a topology.

        Args:
            topology: of the layout.
        """
        self.add(topology.arrays.to_numpy(topology.positions))

    def dump(self) -> NDArray[np.uint8]:
        """Return a copy of the bitmap, (⌈D/8⌉,): bit p mod 8 of byte p // 8 is set if position p was active."""
        return self._bits.copy()

    @classmethod
    def load(cls, bits: NDArray[np.uint8], positions: int) -> "Coverage":
        """Return the coverage whose bitmap :meth:`dump` has returned.

        Args:
            bits: the bitmap.
            positions: D, the number of positions of the layout.

        Raises:
            InputError: it is no bitmap of so many positions.
        """
        coverage = cls(positions)
        if bits.shape != coverage._bits.shape or bits.dtype != np.uint8:
            raise InputError(
                f"the bitmap of positions that were ever active has the shape {bits.shape} and the dtype {bits.dtype}; "
                f"expected uint8 of {coverage._bits.shape} for {positions} positions"
            )
        counts = np.bitwise_count(bits)
        if positions % 8 and bits[-1] >> (positions % 8):
            raise InputError(f"the bitmap of positions that were ever active has bits beyond {positions} positions")
        coverage._bits, coverage.count = bits.copy(), int(counts.sum(dtype=np.int64))
        return coverage
