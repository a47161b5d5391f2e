"""What a strategy declares of its hooks beyond the engine's own promises, for `sparsecore check` to test."""

from collections.abc import Callable
from typing import Any, Literal

import attrs

from sparsecore.engine.arrays import Counts
from sparsecore.engine.topology import Layout

Scope = Literal["network", "tensor", "sign"]


def _one_of(*options: str | None) -> Any:
    return attrs.validators.in_(options)


@attrs.frozen
class Declares:
    """What a strategy promises of the hooks that it implements, for `sparsecore check` to test.

    Of a hook that it does not implement the engine's own promise holds: shares in proportion to the survivors, zero for
    weights that have grown.

    Attributes:
        smallest_first: no weight is pruned that is larger than one that stays, and among equals the lowest positions
            go first: in the whole 'network', within each 'tensor', or within each 'sign' of each tensor, that is among
            its positive and among its negative weights, while those that are exactly zero go before both.
        shares: growth is shared out in proportion to the 'survivors' or to the 'pruned' of each tensor, within one.
        grown_value: the value with which a weight starts that has just grown.
        start_multiples: a function from a layout to one number a tensor: at the start the tensor has a multiple of that
            number of weights, and differs by less than it from what the requested sparsity says.
        growth: 'fixed' if the same positions grow with every seed, although ``grow`` takes ``random``, as with
            hyperparameters that leave nothing to chance.
        start: 'fixed' if the positions at the start are the same with every seed.
        pruned_counts: 'fixed' if the number of weights that ``prune`` takes from each tensor, or from each 'sign' of it
            if the smallest of each go first, follows from the clock and from how many of its weights are zero, positive
            and negative. Backends that trace updates rely on it, as on ``grows_first``.
        grows_first: 'gradient' if weights grow where the dense gradient is largest in absolute value, and among equals
            at the lowest positions.
        grows_at: 'candidates' if weights grow only at positions that the strategy's own ``candidates`` has named.
    """

    smallest_first: Scope | None = attrs.field(default=None, validator=_one_of("network", "tensor", "sign", None))
    shares: Literal["survivors", "pruned"] | None = attrs.field(
        default=None, validator=_one_of("survivors", "pruned", None)
    )
    grown_value: float | None = None
    start_multiples: Callable[[Layout], Counts] | None = None
    growth: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))
    start: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))
    grows_at: Literal["candidates"] | None = attrs.field(default=None, validator=_one_of("candidates", None))
    pruned_counts: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))
    grows_first: Literal["gradient"] | None = attrs.field(default=None, validator=_one_of("gradient", None))
