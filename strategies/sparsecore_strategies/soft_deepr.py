"""Soft-DEEP R (Bellec et al. 2017): each connection becomes dormant and wakes by itself, so their number varies."""

import math
from functools import cached_property
from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Clock,
    Counts,
    Piecewise,
    Randomness,
    Reallocation,
    Schedule,
    Topology,
    as_schedule,
    check_temperature,
    constant,
    counting_of,
    fixed_signs,
    hookimpl,
    noisy_pull,
    per_position,
    per_weight,
    signs_error,
)


@attrs.frozen(eq=False)
class Connections:
    """The state of soft-DEEP R.

    Attributes:
        signs: the fixed sign s of each active connection, int8, +1 or -1.
        dormant: θ of each dormant connection, float32, with the noise of the coming step; where it is not below zero,
            the connection wakes. Entries of active connections are below zero and mean nothing.
    """

    signs: Array = per_weight()
    dormant: Array = per_position()

    def loading_error(self, like: "Connections", topology: Topology) -> str | None:
        """Return what is wrong with signs that were read, or with numbers of active connections."""
        arrays = topology.arrays
        if self.dormant.dtype != like.dormant.dtype:
            return f"dormant of {self.dormant.dtype}; expected {like.dormant.dtype}"
        if len(arrays.nonzero(arrays.take(self.dormant, topology.positions) >= 0)):
            return "numbers in dormant that are not below zero where a connection is active"
        return signs_error(self.signs, topology)

    def waking(self, topology: Topology) -> Counts:
        """Count the dormant connections that wake; counted once for a state, as a device is waited for.

        Args:
            topology: any of the layout; the active positions do not matter, as their entries are below zero.

        Returns:
            int64, one number a tensor, read-only.
        """
        offsets = topology.layout.offsets
        if offsets not in self._waking:
            self._waking[offsets] = constant(counting_of(topology.arrays).count_each(self.dormant >= 0, offsets))
        return self._waking[offsets]

    @cached_property
    def _waking(self) -> dict[tuple[int, ...], Counts]:
        return {}


@attrs.frozen(eq=False)
class SoftDeepRewiring:
    """As DeepR, but dormant connections continue a random walk and wake when they cross zero (Bellec et al. 2017).

    Active connections, w = s·θ with θ > 0: θ ← θ - η·∂E/∂θ - η·α + sqrt(2·η·T)·ν; below zero they go dormant. Dormant
    ones: θ ← max(θ + sqrt(2·η·T)·ν, θ_min), without gradient and pull; from zero on they are active, with this θ.
    So the number of connections changes in every step; the run's sparsity, which is to be above 0, is that of the
    start. By noise and pull alone the share of active connections tends, slowly, to (T/α) / (T/α - θ_min), 0.01 with
    the defaults. Dormant connections are remembered, one number for each position, active or not.

    The defaults are those of the authors' script for MNIST: noise of standard deviation 5e-7 a step, by which a dormant
    connection crosses the 2.5e-5 from θ_min to zero in about 2,500 steps. Its rule for θ_min at a sparsity s is
    -(T/α)·s/(1 - s), the formula above solved for θ_min; the default is that at 0.99.

    Left open by the paper: at the start θ of dormant connections is uniform between θ_min and 0. Different from it:
    a connection that becomes dormant is reactivated at the next step at the earliest; the step size η of noise and pull
    is a separate attribute, because they are not scaled by the optimizer's learning rate; the last active connection of
    a tensor never becomes dormant.

    Attributes:
        l1: α of the pull towards zero.
        temperature: T of the noise.
        step_size: η of noise and pull; the optimizer's learning rate is that of the gradient.
        lowest: θ_min, below zero.
    """

    decides_alone: ClassVar = ("prune", "revise_pruning", "target_size", "allocate", "grow")
    tuning: ClassVar = {"temperature": (1e-9, 1e-5), "lowest": (-0.5, -0.02)}

    l1: float = attrs.field(default=1e-5, validator=attrs.validators.ge(0))
    temperature: Schedule = attrs.field(
        default=Piecewise({0: 2.5e-12}), converter=as_schedule, validator=check_temperature
    )
    step_size: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    lowest: float = attrs.field(default=-2.5e-5, validator=[attrs.validators.ge(-1e30), attrs.validators.le(-1e-30)])

    @hookimpl
    def initial_strategy_state(self, topology: Topology, random: Randomness) -> Connections:
        """Draw the signs of the first connections, and θ of dormant ones uniformly between θ_min and 0.

        Returns:
            The state, whose dormant vector has D entries, those of active connections at θ_min.
        """
        layout = topology.layout
        draws = [
            random.generator("dormant", name).random(size, np.float32)
            for name, size in zip(layout.names, layout.sizes, strict=True)
        ]
        # 1 - u is never 0
        dormant = topology.arrays.from_numpy(np.float32(self.lowest) * (1 - np.concatenate(draws)))
        return Connections(fixed_signs(topology, random), self._none_active(dormant, topology))

    @hookimpl
    def start_values(self, topology: Topology, values: Array, random: Randomness) -> Array:
        """Start with θ = |w| > 0, so that every connection is active.

        Returns:
            w = s·θ, (N,), in the dtype of ``values``.
        """
        return fixed_signs(topology, random) * abs(values)

    @hookimpl
    def update_due(self) -> bool:
        """Return True: updates are due in every step."""
        return True

    @hookimpl
    def perturb(
        self, topology: Topology, values: Array, clock: Clock, strategy_state: Connections, random: Randomness
    ) -> Array:
        """Apply noise and pull, θ ← θ - η·α + sqrt(2·η·T)·ν; the optimizer has applied the gradient.

        Returns:
            w = s·θ, (N,); connections with θ < 0 become dormant in the update of this step.
        """
        return noisy_pull(
            topology,
            values,
            strategy_state.signs,
            random,
            step_size=self.step_size,
            l1=self.l1,
            temperature=self.temperature(clock),
        )

    @hookimpl
    def prune(self, values: Array, strategy_state: Connections) -> Array:
        """Keep the connections with θ ≥ 0; the others become dormant.

        Returns:
            bool, (N,).
        """
        return values * strategy_state.signs >= 0

    @hookimpl
    def target_size(self, topology: Topology, survivors: Counts, strategy_state: Connections) -> int:
        """Return the number of connections that stay active or wake."""
        return int(survivors.sum()) + int(strategy_state.waking(topology).sum())

    @hookimpl
    def adjust(self, topology: Topology, values: Array, strategy_state: Connections) -> Connections:
        """Keep the θ of connections that become dormant, from which their walk goes on.

        Returns:
            The state whose dormant vector has these θ, in float32.
        """
        arrays = topology.arrays
        strengths = arrays.cast(values * strategy_state.signs, np.float32)
        slept = arrays.where(strengths < 0, strengths, arrays.take(strategy_state.dormant, topology.positions))
        return attrs.evolve(strategy_state, dormant=arrays.put(strategy_state.dormant, topology.positions, slept))

    @hookimpl
    def allocate(self, topology: Topology, strategy_state: Connections) -> Counts:
        """Return how many connections wake in each tensor."""
        return strategy_state.waking(topology)

    @hookimpl
    def grow(self, occupied: Topology, strategy_state: Connections) -> Array:
        """Return the positions of the dormant connections that have reached zero."""
        return _woken(occupied, strategy_state)

    @hookimpl
    def initial_values(self, grown: Topology, values: Array, strategy_state: Connections, random: Randomness) -> Array:
        """Start with the θ at which the connection has crossed zero.

        Returns:
            w = s·θ, one for each connection that wakes, in the dtype of ``values``.
        """
        strengths = grown.arrays.take(strategy_state.dormant, grown.positions)
        return grown.arrays.cast(fixed_signs(grown, random) * strengths, values.dtype)

    @hookimpl
    def remember(
        self, reallocation: Reallocation, clock: Clock, strategy_state: Connections, random: Randomness
    ) -> Connections:
        """Add the signs of connections that woke, and apply the noise of the next step to dormant ones.

        Returns:
            The state for the next step; in it is settled already which connections wake then.
        """
        after = reallocation.after
        grown = reallocation.grown_weights
        signs = after.arrays.put(strategy_state.signs, reallocation.grown_slots, fixed_signs(grown, random))
        return Connections(signs, self._none_active(self._walked(strategy_state.dormant, after, clock, random), after))

    def _spread(self, clock: Clock) -> float:
        return math.sqrt(2 * self.step_size * self.temperature(clock))

    def _walked(self, dormant: Array, topology: Topology, clock: Clock, random: Randomness) -> Array:
        """Return θ ← max(θ + sqrt(2·η·T)·ν, θ_min) of dormant connections."""
        layout, arrays = topology.layout, topology.arrays
        draws = [
            random.generator("dormant noise", name).standard_normal(size, np.float32)
            for name, size in zip(layout.names, layout.sizes, strict=True)
        ]
        walked = dormant + self._spread(clock) * arrays.from_numpy(np.concatenate(draws))
        return arrays.where(walked < self.lowest, self._at_lowest(topology, layout.size), walked)

    def _none_active(self, dormant: Array, topology: Topology) -> Array:
        """Set the entries of active connections to θ_min, so that they do not count as waking."""
        return topology.arrays.put(dormant, topology.positions, self._at_lowest(topology, topology.size))

    def _at_lowest(self, topology: Topology, count: int) -> Array:
        return topology.arrays.from_numpy(np.full(count, self.lowest, np.float32))


def _woken(topology: Topology, strategy_state: Connections) -> Array:
    """Return the positions of the dormant connections that wake, ascending."""
    arrays = topology.arrays
    woken = counting_of(arrays).nonzero(strategy_state.dormant >= 0, int(strategy_state.waking(topology).sum()))
    return arrays.cast(woken, topology.layout.position_dtype)
