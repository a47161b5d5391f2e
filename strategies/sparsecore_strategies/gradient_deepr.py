"""DeepR as Mostafa & Wang (2018) compared it: noise and L1 term are parts of the gradient that the optimizer gets."""

import math
from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Declares,
    Every,
    Piecewise,
    Randomness,
    Schedule,
    Topology,
    as_many_as_lost,
    as_schedule,
    check_temperature,
    gaussian_noise,
    hookimpl,
    per_weight,
    signs_error,
)


@attrs.frozen(eq=False)
class LatestSigns:
    """The state of the strategy.

    Attributes:
        signs: the sign of each weight at the last update, int8: +1, -1, or 0 of a weight that was zero or is new.
    """

    signs: Array = per_weight()

    def loading_error(self, _: "LatestSigns", topology: Topology) -> str | None:
        """Return what is wrong with signs that were read."""
        return signs_error(self.signs, topology, (-1, 0, 1))


@attrs.frozen(eq=False)
class GradientDeepRewiring:
    """DeepR by the optimizer: noise and L1 in the gradient, weights that change sign move (Mostafa & Wang 2018).

    Before each step the gradient of every active weight gets α·sign(w), as by a term α·Σ|w| of the loss, and the noise
    sqrt(2·η·T)·ν, ν ~ N(0, 1). So both pass through the optimizer, with its learning rate and momentum. A weight whose
    sign is the opposite of that after the step before is pruned, and as many grow at random in the same tensor, from
    zero, without a sign until the next step. Signs are not fixed, and the model's initial values stay.

    This differs from the paper's DeepR (:class:`sparsecore_strategies.deepr.DeepRewiring`), whose noise and L1 pull are
    added to the weights after the optimizer's step and whose signs are fixed. At learning rate 0.1 and momentum 0.9
    (Nesterov) 200 steps of the defaults pull a weight by 1.92e-3 and spread it by 6.1e-3. The defaults are those of the
    released comparison on WRN-28-2, in which weight decay is 0.

    When the schedule has ended, noise and rewiring end with it, and the L1 term stays.

    Attributes:
        l1: α.
        temperature: T, a number that may change.
        step_size: η, which scales the noise alone.
        schedule: when weights that have changed sign move; the gradient has noise in the steps before these updates.
    """

    declares: ClassVar = Declares(shares="pruned")
    tuning: ClassVar = {"l1": (1e-6, 1e-4), "temperature": (1e-9, 1e-4)}

    l1: float = attrs.field(default=1e-5, validator=attrs.validators.ge(0))
    temperature: Schedule = attrs.field(
        default=Piecewise({0: 1e-5, 25: 1e-8, 80: 1e-12, 140: 1e-15}),
        converter=as_schedule,
        validator=check_temperature,
    )
    step_size: float = attrs.field(default=0.01, validator=attrs.validators.gt(0))
    schedule: Every = Every(steps=1, until_epoch=190)

    @hookimpl
    def initial_strategy_state(self, topology: Topology) -> LatestSigns:
        """Start without signs, so that no weight is pruned after the first step."""
        return LatestSigns(topology.arrays.cast(topology.arrays.zeros_like(topology.positions, topology.size), np.int8))

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule, by default in every step."""
        return self.schedule(clock)

    @hookimpl
    def perturb_gradient(
        self, topology: Topology, values: Array, weight_gradient: Array, clock: Clock, random: Randomness
    ) -> Array:
        """Add the gradient of the L1 term, and noise where an update follows the step.

        Returns:
            (N,), in the dtype of ``weight_gradient``.
        """
        cast, dtype = topology.arrays.cast, weight_gradient.dtype
        pulled = weight_gradient + self.l1 * cast(_signs(values, topology.arrays), dtype)
        if not self.schedule(clock.tick()):
            return pulled
        spread = math.sqrt(2 * self.step_size * self.temperature(clock))
        return pulled + spread * cast(gaussian_noise(topology, random), dtype)

    @hookimpl
    def prune(self, values: Array, strategy_state: LatestSigns) -> Array:
        """Keep the weights whose sign is not the opposite of the last one.

        Returns:
            bool, (N,).
        """
        return values * strategy_state.signs >= 0

    @hookimpl
    def adjust(self, topology: Topology, values: Array) -> LatestSigns:
        """Read the signs of all weights again.

        Returns:
            The signs of before the update; weights that grow in it get 0.
        """
        return LatestSigns(_signs(values, topology.arrays))

    allocate = as_many_as_lost


def _signs(values: Array, arrays: Arrays) -> Array:
    """Return the sign of each value, int8; 0 of zero."""
    return arrays.cast(values > 0, np.int8) - arrays.cast(values < 0, np.int8)
