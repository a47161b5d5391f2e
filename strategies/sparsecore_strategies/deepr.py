"""DeepR, deep rewiring (Bellec et al. 2017): a random walk over weights and connections, in every step."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    Counts,
    Declares,
    Every,
    InputError,
    Layout,
    Piecewise,
    Randomness,
    Reallocation,
    Schedule,
    Topology,
    as_schedule,
    draw_ranks,
    fixed_signs,
    gaussian_noise,
    hookimpl,
    per_weight,
    shares,
)


@attrs.frozen(eq=False)
class Signs:
    """What DeepR remembers: the fixed sign s of each active connection, int8, +1 or -1."""

    signs: Array = per_weight()


def _check_temperature(_: object, __: object, temperature: Schedule) -> None:
    if temperature.lowest < 0:
        raise InputError(f"a temperature is at least 0; given {temperature}")


@attrs.frozen(eq=False)
class DeepRewiring:
    """Each step, noise and an L1 pull; a connection that changes sign sleeps, another wakes (Bellec et al. 2017).

    A connection of parameter θ has the weight s·θ with a fixed random sign s. The optimizer's own step supplies
    -η·∂E/∂θ; weight decay and momentum are not part of DeepR, so train with both 0 for the original. The comparison
    on WRN-28-2 by Mostafa & Wang has ``scope='tensor'``, ``step_size=0.01`` and a temperature of 1e-5, 1e-8, 1e-12,
    1e-15 from epoch 0, 25, 80, 140.

    A connection at θ = 0 is active: what has just woken is. In the next step noise and pull take it on, also where no
    gradient reaches it. Without either (``l1`` and temperature 0) such a connection stays at zero for ever.

    Attributes:
        l1: α of the pull towards zero.
        temperature: T of the noise sqrt(2·η·T)·ν, ν ~ N(0, 1).
        step_size: η of pull and noise; the optimizer's learning rate where it is None.
        scope: whether dormant connections wake anywhere in the 'network' (the original) or in the same 'tensor'.
        schedule: when sleeping and waking are due.
    """

    l1: float = attrs.field(default=1e-5, validator=attrs.validators.ge(0))
    temperature: Schedule = attrs.field(
        default=Piecewise({0: 1e-7}), converter=as_schedule, validator=_check_temperature
    )
    step_size: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    scope: Literal["network", "tensor"] = attrs.field(
        default="network", validator=attrs.validators.in_(("network", "tensor"))
    )
    schedule: Every = Every(steps=1)

    @property
    def declares(self) -> Declares:
        """Where the scope is a tensor, growth where weights were lost."""
        return Declares(shares=_SHARES[self.scope])

    @hookimpl
    def initial_strategy_state(self, topology: Topology, random: Randomness) -> Signs:
        """The signs of the first connections."""
        return Signs(fixed_signs(topology, random))

    @hookimpl
    def start_values(self, topology: Topology, values: Array, random: Randomness) -> Array:
        """W = s·θ with θ = |w| > 0."""
        return fixed_signs(topology, random) * abs(values)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """By the schedule: in every step."""
        return self.schedule(clock)

    @hookimpl
    def perturb(
        self,
        topology: Topology,
        values: Array,
        learning_rate: float,
        clock: Clock,
        strategy_state: Signs,
        random: Randomness,
    ) -> Array:
        """θ ← θ - η·α + sqrt(2·η·T)·ν; the gradient's part has been taken by the optimizer."""
        step_size = learning_rate if self.step_size is None else self.step_size
        cast = topology.arrays.cast
        spread = math.sqrt(2 * step_size * self.temperature(clock))
        # in terms of w = s·θ; ν is symmetric, so that s·ν has the same distribution
        noise, signs = cast(gaussian_noise(topology, random), values.dtype), cast(strategy_state.signs, values.dtype)
        return values + (spread * noise - step_size * self.l1 * signs)

    @hookimpl
    def prune(self, values: Array, strategy_state: Signs) -> Array:
        """Where θ < 0 the connection goes dormant."""
        return values * strategy_state.signs >= 0

    @hookimpl
    def allocate(self, total: int, pruned: Counts, room: Counts, layout: Layout, random: Randomness) -> Counts:
        """As many wake as went dormant, wherever chance has it within the scope."""
        return _SCOPES[self.scope](total, pruned, room, layout, random)

    @hookimpl
    def remember(self, reallocation: Reallocation, strategy_state: Signs, random: Randomness) -> Signs:
        """The signs of the connections that woke."""
        grown = reallocation.grown_weights
        arrays = grown.arrays
        return Signs(arrays.put(strategy_state.signs, reallocation.grown_slots, fixed_signs(grown, random)))


def _anywhere(total: int, pruned: Counts, room: Counts, layout: Layout, random: Randomness) -> Counts:  # noqa: ARG001
    """As many as are to grow, drawn from all dormant connections of the network alike."""
    # in the order of names, so that the draw does not depend on the order of the tensors
    order = np.argsort(layout.names)
    ends = np.cumsum(room[order])
    ranks = draw_ranks(random.generator("woken tensors"), int(ends[-1]), total)
    counts = np.empty_like(room)
    counts[order] = np.diff(np.searchsorted(ranks, ends, "left"), prepend=0)
    return counts


def _same_tensor(total: int, pruned: Counts, room: Counts, layout: Layout, random: Randomness) -> Counts:  # noqa: ARG001
    """As many in each tensor as went dormant there."""
    return shares(total, pruned, room)


_SHARES: Mapping[str, Literal["pruned"] | None] = MappingProxyType({"network": None, "tensor": "pruned"})

_SCOPES: Mapping[str, Callable[[int, Counts, Counts, Layout, Randomness], Counts]] = MappingProxyType(
    {"network": _anywhere, "tensor": _same_tensor}
)
