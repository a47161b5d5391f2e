"""Which steps weights take that have grown recently, under an optimizer like Adam: their own counts, and damping."""

from types import MappingProxyType
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError

_at_least_0: Any = attrs.validators.ge(0)


@attrs.frozen
class YoungWeights:
    """Which steps weights take that have grown recently, under an optimizer with Adam's bias correction.

    Adam divides its moments by 1 − β₁ᵗ and 1 − β₂ᵗ, where t counts the steps of the whole tensor. A weight that grows
    late starts with moments of zero: by t they are corrected far too little, and it takes steps of several learning
    rates. A derived class may override :meth:`damping`; ``warm_up`` says for how many steps it holds.

    Attributes:
        own_steps: whether the bias correction counts the weight's own steps since it grew, in place of t. It then moves
            as if it were alone with an optimizer that has just been made.
        warm_up: the number of steps over which its steps grow linearly to their full size; 0 for none. Decoupled weight
            decay is not damped.
    """

    own_steps: bool = False
    warm_up: int = attrs.field(default=0, validator=[attrs.validators.instance_of(int), _at_least_0])

    def __str__(self) -> str:
        known = {one: name for name, one in _BY_NAME.items()}
        return known.get(self, repr(self))

    @property
    def changes_steps(self) -> bool:
        """Whether young weights take other steps than the optimizer's."""
        return self.own_steps or self.warm_up > 0

    def damping(self, ages: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return by what the steps of weights are multiplied.

        Args:
            ages: the numbers of these steps, from 1 for the first after growth, of any shape.

        Returns:
            Factors in [0, 1], of that shape; 1 from ``warm_up`` on.
        """
        return np.minimum(1.0, ages / max(1, self.warm_up))


_BY_NAME: Final = MappingProxyType(
    {
        "none": YoungWeights(),
        "own-steps": YoungWeights(own_steps=True),
        "damped": YoungWeights(own_steps=True, warm_up=100),
    }
)
YOUNG_WEIGHTS: Final = tuple(_BY_NAME)
"""The names that :func:`as_young_weights` reads."""


def as_young_weights(given: object) -> YoungWeights:
    """Return what young weights get by its name: 'none', 'own-steps', or 'damped', which is both over 100 steps.

    Args:
        given: the name, or a value, which is returned as it is.

    Raises:
        InputError: there is none of this name.
    """
    if isinstance(given, YoungWeights):
        return given
    if not isinstance(given, str) or given not in _BY_NAME:
        raise InputError(f"young weights get {', '.join(_BY_NAME)}, or a YoungWeights; given {given!r}")
    return _BY_NAME[given]
