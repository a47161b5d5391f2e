"""Adam's steps of weights that have grown recently, on the flat vectors of the host."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.host.parameters import ParameterVectors
from sparsecore.learning.optimizers import Adam, AdamW
from sparsecore.learning.young_steps import maturity, step_tables, table_size

Ages = NDArray[np.int32]


class YoungSteps:
    """Corrects the steps of young weights right after the optimizer has taken them, at a cost of the young weights.

    Args:
        young: what young weights get.
        rule: the optimizer, Adam or AdamW.
    """

    def __init__(self, young: YoungWeights, rule: Any) -> None:
        self._young: YoungWeights = young
        self._rule: Adam | AdamW = rule
        self._maturity = maturity(young, self._rule.betas)
        self._slots: NDArray[np.intp] = np.zeros(0, np.intp)
        self._ages: Ages = np.zeros(0, np.int32)

    def correct(self, vectors: ParameterVectors, learning_rate: float, count: int) -> None:
        """Replace the step that young weights have taken by their own one.

        Args:
            vectors: after the optimizer's step.
            learning_rate: η of the step.
            count: its number, from 1.
        """
        if not len(self._slots):
            return
        self._ages += 1
        oldest = int(self._ages.max())
        tables = step_tables(self._young, self._rule.betas, table_size(oldest))
        first, second = (vectors.buffers[name][self._slots] for name in ("first_moment", "second_moment"))
        root, epsilon = np.sqrt(second), self._rule.epsilon
        rate, divisor = 1 - self._rule.betas[0] ** count, float(np.sqrt(1 - self._rule.betas[1] ** count))
        own_rate, own_root = (table[self._ages].astype(root.dtype) for table in (tables.rate, tables.root))
        if not self._young.own_steps:
            own_rate, own_root = own_rate / rate, own_root * divisor
        taken = learning_rate / rate * (first / (root / divisor + epsilon))
        vectors.values[self._slots] += taken - learning_rate * own_rate * (first / (root / own_root + epsilon))
        if oldest >= self._maturity:
            self._keep(self._ages < self._maturity)

    def carry(self, reallocation: Reallocation) -> None:
        """Follow the weights to another topology, where those that have grown are young.

        Args:
            reallocation: from the present topology.
        """
        marks = reallocation.carry(self.marks(reallocation.before.size))
        marks[np.asarray(reallocation.grown_slots)] = 1
        self.load(marks)

    def marks(self, size: int) -> Ages:
        """Return what is saved of the ages.

        Args:
            size: N, the number of weights.

        Returns:
            (N,): one more than the number of steps since a weight grew; 0 for one that is no longer young.
        """
        marks = np.zeros(size, np.int32)
        marks[self._slots] = self._ages + 1
        return marks

    def load(self, marks: NDArray[Any]) -> None:
        """Take up ages.

        Args:
            marks: of :meth:`marks`.
        """
        self._slots = np.flatnonzero(marks)
        self._ages = marks[self._slots].astype(np.int32) - 1

    def _keep(self, which: NDArray[np.bool_]) -> None:
        self._slots, self._ages = self._slots[which], self._ages[which]
