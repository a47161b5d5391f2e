"""Top-KAST (Jayakumar et al. 2020): compute with the largest weights, and train a larger set of them."""

from typing import ClassVar

import attrs
import numpy as np

from sparsecore.strategy import (
    Array,
    Arrays,
    Clock,
    Counts,
    Declares,
    DenseValues,
    Every,
    Layout,
    Reallocation,
    StartDistribution,
    Topology,
    as_many_as_lost,
    by_tensor,
    check_start_distribution,
    constant,
    counting_of,
    distribution,
    hookimpl,
    largest_free,
    largest_of_each,
    per_position,
    per_weight,
    smallest_of_each,
    weight_counts_error,
)


@attrs.frozen(eq=False)
class Parameters:
    """The state of Top-KAST.

    Attributes:
        forward: the number of weights in A of each tensor, int64.
        visible: whether a weight is in A, so that the network computes with it; one bool a weight.
        latest: θ of every position, (D,); of active ones it is that at the last update.
    """

    forward: Counts
    visible: Array = per_weight()
    latest: Array = per_position()

    def loading_error(self, like: "Parameters", topology: Topology) -> str | None:
        """Return what is wrong with a state that was read: so many weights of each tensor are in A as it says."""
        error = weight_counts_error("forward", self.forward, like.forward, topology)
        if error is not None:
            return error
        if self.latest.dtype != like.latest.dtype:
            return f"latest of {self.latest.dtype}; expected {like.latest.dtype}"
        counts = counting_of(topology.arrays).count_each(self.visible, topology.bounds)
        expected = np.minimum(self.forward, topology.counts)
        if not np.array_equal(counts, expected):
            shown, wanted = (", ".join(map(str, numbers.tolist())) for numbers in (counts, expected))
            return f"{shown} visible weights in its tensors; expected {wanted}"
        return None


@attrs.frozen(eq=False)
class TopKast:
    """Compute with the largest weights of each tensor, A, and train a larger set B (Jayakumar et al. 2020).

    A are the weights with the largest |θ| of each tensor, as many as the run's sparsity leaves; B are the largest
    ``backward`` times as many. Gradients reach all of B: these are the active weights of the run, which therefore has
    ``backward`` times as many weights as its sparsity says. Those outside A are silent: the network computes as if they
    were zero. Weights outside B keep their values, at first the initial ones, and are chosen when weights of B have
    become smaller: the exploration penalty pulls those of B outside A towards zero 1/D times as much as those of A, D
    being the share of all positions that are in A.

    The strategy keeps one number for each position. Different from the paper: optimizer state of weights that leave B
    is not kept; the penalty is applied after the step, as decoupled weight decay is, and not through the gradient.

    Attributes:
        backward: the number of weights in B, in multiples of that in A; at most all.
        penalty: the coefficient of the exploration penalty, (|θ_A|² + |θ_{B without A}|²/D)/2. It takes the place of
            the optimizer's weight decay.
        start: the distribution of A over the tensors: 'uniform' (the paper's), 'er' or 'erk'.
        schedule: when A and B are selected anew; the paper does so in every step, or every 100 steps.
    """

    declares: ClassVar = Declares(smallest_first="tensor", shares="pruned", start="fixed")
    decides_alone: ClassVar = ("initial_topology",)
    tuning: ClassVar = {
        "backward": (1.5, 5.0),
        "penalty": (1e-5, 1e-3),
        "schedule": [{"times": times} for times in (25, 100, 400)],
    }

    backward: float = attrs.field(default=2.0, validator=[attrs.validators.ge(1), attrs.validators.le(1e9)])
    penalty: float = attrs.field(default=1e-4, validator=[attrs.validators.ge(0), attrs.validators.le(1e9)])
    start: StartDistribution = attrs.field(default="uniform", validator=check_start_distribution)
    schedule: Every = Every(steps=100)

    @hookimpl
    def initial_topology(self, layout: Layout, sparsity: float, arrays: Arrays, values: DenseValues) -> Topology:
        """Start with the largest initial values of each tensor.

        Returns:
            B, ``backward`` times as many weights as the sparsity leaves.
        """
        counts = np.minimum(self.backward * distribution(self.start)(layout, sparsity), layout.sizes)
        return largest_of_each(layout, constant(counts.astype(np.int64)), values, arrays)

    @hookimpl
    def initial_strategy_state(self, topology: Topology, sparsity: float, values: DenseValues) -> Parameters:
        """Note all initial values, and which active weights are the largest.

        Returns:
            The state; a tensor that has fewer active weights than the sparsity leaves computes with all of them.
        """
        layout, arrays = topology.layout, topology.arrays
        latest = arrays.concatenate([values(name) for name in layout.names])
        forward = np.minimum(distribution(self.start)(layout, sparsity), topology.counts)
        visible = _largest(topology, arrays.take(latest, topology.positions), forward)
        return Parameters(forward, visible, latest)

    @hookimpl
    def forward_view(self, strategy_state: Parameters) -> Array:
        """Compute with A.

        Returns:
            bool, (N,).
        """
        return strategy_state.visible

    @hookimpl
    def update_due(self, clock: Clock) -> bool:
        """Follow the schedule."""
        return self.schedule(clock)

    @hookimpl
    def perturb(self, topology: Topology, values: Array, learning_rate: float, strategy_state: Parameters) -> Array:
        """Apply the exploration penalty, θ ← θ - η·λ·θ in A and θ ← θ - η·λ·θ/D in B outside A.

        Returns:
            The values of B, (N,).
        """
        if not self.penalty:
            return values
        density = float(strategy_state.forward.sum()) / topology.layout.size
        pull = learning_rate * self.penalty
        # no pull is so strong that a weight changes its sign
        seen, silent = (values * (1 - min(1.0, rate)) for rate in (pull, pull / density))
        return topology.arrays.where(strategy_state.visible, seen, silent)

    @hookimpl
    def prune(self, topology: Topology, values: Array, strategy_state: Parameters) -> Array:
        """Keep the weights that are still among the largest of all positions of their tensor.

        Returns:
            bool, (N,).
        """
        layout, arrays = topology.layout, topology.arrays
        latest = arrays.put(strategy_state.latest, topology.positions, values)
        largest = largest_of_each(layout, topology.counts, by_tensor(latest, layout), arrays)
        nowhere = arrays.zeros_like(latest, layout.size) != 0
        stays = arrays.take(arrays.put(nowhere, largest.positions, True), topology.positions)
        dropped = topology.counts - counting_of(arrays).count_each(stays, topology.bounds)
        return topology.all_but(smallest_of_each(topology, values, dropped))

    @hookimpl
    def adjust(self, topology: Topology, values: Array, strategy_state: Parameters) -> Parameters:
        """Note the values of all active weights, which those that are pruned keep."""
        latest = topology.arrays.put(strategy_state.latest, topology.positions, values)
        return attrs.evolve(strategy_state, latest=latest)

    allocate = as_many_as_lost

    @hookimpl
    def grow(self, topology: Topology, counts: Counts, strategy_state: Parameters) -> Array:
        """Grow where |θ| is largest outside B.

        Returns:
            Positions that were not active before the update, ascending, ``counts[i]`` of tensor i.
        """
        return largest_free(topology, counts, by_tensor(strategy_state.latest, topology.layout))

    @hookimpl
    def initial_values(self, grown: Topology, values: Array, strategy_state: Parameters) -> Array:
        """Go on with the θ that the position has.

        Returns:
            One value for each weight that has grown, in the dtype of ``values``.
        """
        return grown.arrays.cast(grown.arrays.take(strategy_state.latest, grown.positions), values.dtype)

    @hookimpl
    def remember(self, reallocation: Reallocation, strategy_state: Parameters) -> Parameters:
        """Select A among the weights after the update.

        Returns:
            The state for the next steps.
        """
        after = reallocation.after
        forward = np.minimum(strategy_state.forward, after.counts)
        return attrs.evolve(strategy_state, visible=_largest(after, reallocation.values, forward))


def _largest(topology: Topology, values: Array, counts: Counts) -> Array:
    """Return which weights are the ``counts[i]`` largest of tensor i, one bool a weight."""
    return topology.all_but(smallest_of_each(topology, values, topology.counts - counts))
