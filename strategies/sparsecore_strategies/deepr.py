"""DeepR, deep rewiring (Bellec et al. 2017): a random walk over weights and connections, in every step."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    Counts,
    Declares,
    Every,
    Layout,
    Piecewise,
    Randomness,
    Reallocation,
    Schedule,
    Topology,
    as_schedule,
    check_temperature,
    draw_ranks,
    fixed_signs,
    hookimpl,
    noisy_pull,
    per_weight,
    shares,
    signs_error,
)


@attrs.frozen(eq=False)
class Signs:
    """DeepR's state.

    Attributes:
        signs: the fixed sign s of each active connection, int8, +1 or -1.
    """

    signs: Array = per_weight()

    def loading_error(self, _: "Signs", topology: Topology) -> str | None:
        """Return what is wrong with signs that were read."""
        return signs_error(self.signs, topology)


@attrs.frozen(eq=False)
class DeepRewiring:
    """Each step adds noise and an L1 pull; if a connection changes sign, another one wakes (Bellec et al. 2017).

    A connection of parameter θ has the weight s·θ with a fixed random sign s. The optimizer's own step supplies
    -η·∂E/∂θ; weight decay and momentum are not part of DeepR, so train with both 0 for the original. What Mostafa &
    Wang compared as DeepR is :class:`sparsecore_strategies.gradient_deepr.GradientDeepRewiring`.

    The default temperature is that of the authors' script for MNIST, noise of standard deviation 5e-6 a step at its
    learning rate of 0.5, where 2·η·T = (1e-5·η)².

    A connection at θ = 0 is active, such as one that has just woken. In the next step noise and pull move it, even if
    no gradient reaches it. Without either (``l1`` and temperature 0) such a connection stays at zero.

    Attributes:
        l1: α of the pull towards zero.
        temperature: T of the noise sqrt(2·η·T)·ν, ν ~ N(0, 1).
        step_size: η of pull and noise; None for the optimizer's learning rate.
        scope: whether dormant connections wake anywhere in the 'network' (the original) or in the same 'tensor'.
        schedule: when connections become dormant and wake.
    """

    tuning: ClassVar = {"l1": (1e-6, 1e-4), "temperature": (1e-10, 1e-6)}

    l1: float = attrs.field(default=1e-5, validator=attrs.validators.ge(0))
    temperature: Schedule = attrs.field(
        default=Piecewise({0: 2.5e-11}), converter=as_schedule, validator=check_temperature
    )
    step_size: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    scope: Literal["network", "tensor"] = attrs.field(
        default="network", validator=attrs.validators.in_(("network", "tensor"))
    )
    schedule: Every = Every(steps=1)

    @property
    def declares(self) -> Declares:
        """Declare growth in the tensors that lost weights, if the scope is a tensor."""
        return Declares(shares=_SHARES[self.scope])

    @hookimpl
    def initial_strategy_state(self, topology: Topology, random: Randomness) -> Signs:
        """Return the signs of the first connections, each +1 or -1 with equal probability."""
        return Signs(fixed_signs(topology, random))

    @hookimpl
    def start_values(self, topology: Topology, values: Array, random: Randomness) -> Array:
        """Start with θ = |w| > 0, so that every connection is active.

        Returns:
            w = s·θ, (N,), in the dtype of ``values``.
        """
        return fixed_signs(topology, random) * abs(values)

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule, by default in every step."""
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
        """Apply noise and pull, θ ← θ - η·α + sqrt(2·η·T)·ν; the optimizer has applied the gradient.

        Returns:
            w = s·θ, (N,); connections with θ < 0 become dormant in the update of this step.
        """
        step_size = learning_rate if self.step_size is None else self.step_size
        return noisy_pull(
            topology,
            values,
            strategy_state.signs,
            random,
            step_size=step_size,
            l1=self.l1,
            temperature=self.temperature(clock),
        )

    @hookimpl
    def prune(self, values: Array, strategy_state: Signs) -> Array:
        """Keep the connections with θ ≥ 0; the others become dormant.

        Returns:
            bool, (N,).
        """
        return values * strategy_state.signs >= 0

    @hookimpl
    def allocate(self, total: int, pruned: Counts, room: Counts, layout: Layout, random: Randomness) -> Counts:
        """Wake as many connections as have become dormant, at random within the scope.

        Returns:
            int64, one number a tensor: of the network each dormant connection is equally likely, of a tensor as many as
            it has lost.
        """
        return _SCOPES[self.scope](total, pruned, room, layout, random)

    @hookimpl
    def remember(self, reallocation: Reallocation, strategy_state: Signs, random: Randomness) -> Signs:
        """Add the signs of the connections that woke.

        Returns:
            The signs of all active connections; one that wakes again has the sign that it had before.
        """
        grown = reallocation.grown_weights
        arrays = grown.arrays
        return Signs(arrays.put(strategy_state.signs, reallocation.grown_slots, fixed_signs(grown, random)))


def _anywhere(total: int, pruned: Counts, room: Counts, layout: Layout, random: Randomness) -> Counts:  # noqa: ARG001
    """Draw from all dormant connections of the network, each equally likely."""
    # in the order of names, so that the draw does not depend on the order of the tensors
    order = np.argsort(layout.names)
    ends = np.cumsum(room[order])
    ranks = draw_ranks(random.generator("woken tensors"), int(ends[-1]), total)
    counts = np.empty_like(room)
    counts[order] = np.diff(np.searchsorted(ranks, ends, "left"), prepend=0)
    return counts


def _same_tensor(total: int, pruned: Counts, room: Counts, layout: Layout, random: Randomness) -> Counts:  # noqa: ARG001
    """Wake as many in each tensor as have become dormant there."""
    return shares(total, pruned, room)


_SHARES: Mapping[str, Literal["pruned"] | None] = MappingProxyType({"network": None, "tensor": "pruned"})

_SCOPES: Mapping[str, Callable[[int, Counts, Counts, Layout, Randomness], Counts]] = MappingProxyType(
    {"network": _anywhere, "tensor": _same_tensor}
)
