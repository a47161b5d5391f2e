"""Dense gradients, for strategies that grow where the gradient is large (RigL, SNFS)."""

from collections.abc import Callable
from typing import TypeAlias

from sparsecore.arrays import Array

Gradient: TypeAlias = Callable[[str], Array]
"""The gradient of a tensor, by name: D_i entries, active or not, row-major; not to be written to."""
