"""What a strategy may promise beyond what holds for all of them, for the test kit to hold it to.

A strategy says so in an attribute ``declares``, a constant of its class or a property; the engine does not look at it:

    declares: ClassVar = Declares(smallest_first="network")
"""

from collections.abc import Callable
from typing import Any, Literal

import attrs

from sparsecore.layout import Layout
from sparsecore.shares import Counts

Scope = Literal["network", "tensor", "sign"]


def _one_of(*options: str | None) -> Any:
    return attrs.validators.in_(options)


@attrs.frozen
class Declares:
    """What a strategy promises of the steps that it decides.

    Where it leaves a step to the engine, the engine's own promise holds: shares in proportion to the survivors, zero
    for what has grown.

    Attributes:
        smallest_first: no weight is pruned that is larger than one that stays, and among equals the lowest positions
            go first: in the whole 'network', within each 'tensor', or within each 'sign' of each tensor, that is among
            its positive and among its negative weights, while those that are exactly zero go before both.
        shares: what grows is shared out in proportion to the 'survivors' or to the 'pruned' of each tensor, within one.
        grown_value: what a weight starts with that has just grown.
        start_multiples: for a layout, one number a tensor: at the start the tensor has a multiple of so many weights,
            and where that leads away from the sparsity that was asked for, it is by less than once that number.
        growth: 'fixed' where the positions that grow are meant to be the same for every seed, although ``grow`` takes
            ``random``, as with hyperparameters that leave nothing to chance.
        start: 'fixed' where the positions of the start are meant to be the same for every seed.
    """

    smallest_first: Scope | None = attrs.field(default=None, validator=_one_of("network", "tensor", "sign", None))
    shares: Literal["survivors", "pruned"] | None = attrs.field(
        default=None, validator=_one_of("survivors", "pruned", None)
    )
    grown_value: float | None = None
    start_multiples: Callable[[Layout], Counts] | None = None
    growth: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))
    start: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))
