"""What the product of a linear layer and its gradients are, by NumPy in float64."""

from typing import Any

import numpy as np


class LinearDefinition:
    """A sparse matrix, inputs, and gradients of outputs; subclasses store them.

    Attributes:
        shape: (outputs, inputs).
        positions: the active ones, row-major.
        values: of the active weights.
        x: (batch, inputs).
        gradient: of the outputs, (batch, outputs).
    """

    shape: Any
    positions: Any
    values: Any
    x: Any
    gradient: Any

    @property
    def matrix(self) -> Any:
        dense = np.zeros(self.shape)
        dense.flat[self.positions] = self.values
        return dense

    @property
    def outputs(self) -> Any:
        return self.x.astype(float) @ self.matrix.T

    @property
    def by_weight(self) -> Any:
        return (self.gradient.astype(float).T @ self.x).reshape(-1)[self.positions]

    @property
    def by_input(self) -> Any:
        return self.gradient.astype(float) @ self.matrix
