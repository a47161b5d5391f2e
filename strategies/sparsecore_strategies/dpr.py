"""DPR, dynamic parameter reallocation (Mostafa & Wang 2018): one adaptive threshold for the whole network."""

from typing import ClassVar

import attrs

from sparsecore.strategy import (
    Amount,
    Array,
    Clock,
    Counts,
    Declares,
    Every,
    InputError,
    Topology,
    as_amount,
    as_written,
    hookimpl,
)

_HIGHEST = 1e38
"""The largest threshold: no weight is larger, and float32 can still represent it."""

_TINY = 1e-7
"""Numbers above this are not rounded to zero in any floating point dtype, float16 included."""


@attrs.frozen
class Threshold:
    """DPR's state.

    Attributes:
        threshold: H, the pruning threshold of the next update.
    """

    threshold: float

    def loading_error(self, _: "Threshold", __: Topology) -> str | None:
        """Return what is wrong with a threshold that was read: it is never zero, and at most 1e38."""
        if 0 < self.threshold <= _HIGHEST:
            return None
        return f"threshold = {self.threshold}; expected a number above 0 and at most {_HIGHEST:g}"


@attrs.frozen(eq=False)
class DynamicReallocation:
    """Prune by one adaptive threshold over all tensors, regrow in proportion to the survivors (Mostafa & Wang 2018).

    The defaults are the paper's for WRN-28-2 on CIFAR-10. Shares, growth and zero values are the engine's own.

    Attributes:
        target: N_p, how many weights each update should prune: a number, or a share of all weights such as '10%'.
        tolerance: δ; the threshold stays while the number pruned is within (1±δ)·N_p, else it doubles or halves.
        initial_threshold: H₀.
        schedule: when updates are due.
    """

    declares: ClassVar = Declares(smallest_first="network")
    tuning: ClassVar = {
        "target": ["5%", "10%", "20%", "30%"],
        "schedule": [{"times": times, "until": 0.8} for times in (25, 100, 400)],
    }

    target: Amount = attrs.field(default=Amount(20_000), converter=as_amount)
    tolerance: float = attrs.field(default=0.1, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])
    initial_threshold: float = attrs.field(
        default=1e-3, validator=[attrs.validators.gt(0), attrs.validators.le(_HIGHEST)]
    )
    schedule: Every = Every(steps={0: 100, 25: 200, 80: 400, 140: 800}, until_epoch=190)

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> Threshold:
        """Start with H₀.

        Raises:
            InputError: the target is not smaller than the number of weights, so that it could never be met.
        """
        target = self.target.of_all(topology.size)
        if target >= topology.size:
            raise InputError(
                f"dpr is to prune {target} weights an update, but there are only {topology.size}; set a smaller target"
            )
        return Threshold(self.initial_threshold)

    @hookimpl
    def metrics(self, strategy_state: Threshold) -> dict[str, float]:
        """Report the threshold H."""
        return {"threshold": strategy_state.threshold}

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def prune(self, values: Array, strategy_state: Threshold) -> Array:
        """Prune every weight with |w| < H, over all tensors with one H.

        Returns:
            bool, (N,), True for the survivors; exact zeros are never among them.
        """
        survives = abs(values) >= strategy_state.threshold
        # in the dtype of the values a tiny H may round to zero, and weights that are zero would never be pruned
        return survives if strategy_state.threshold > _TINY else survives & (values != 0)

    @hookimpl
    def adjust(self, pruned: Counts, topology: Topology, strategy_state: Threshold) -> Threshold:
        """Double H if K < (1-δ)·N_p weights were pruned, halve it if K > (1+δ)·N_p (Algorithm 1).

        Args:
            pruned: the number pruned in each tensor, whose sum is K.
            topology: the active weights before the update; a target given as a share is one of their number.
            strategy_state: H of the update.

        Returns:
            H of the next update, at most 1e38 and never 0.
        """
        total, target, threshold = int(pruned.sum()), self.target.of_all(topology.size), strategy_state.threshold
        slack = as_written(self.tolerance) * target
        if total < target - slack:
            return Threshold(min(threshold * 2, _HIGHEST))
        if total > target + slack:
            # a threshold of zero could never be doubled again
            return Threshold(strategy_state.threshold / 2 or strategy_state.threshold)
        return strategy_state
