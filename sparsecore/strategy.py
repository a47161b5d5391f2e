"""Everything that a strategy is made of: the one module that an author of strategies imports.

    from sparsecore.strategy import Array, Clock, Every, Topology, hookimpl

- hooks: ``hookimpl`` marks a method as a hook (:mod:`sparsecore.engine.hooks` documents all of them), ``Declares`` says
  what `sparsecore check` tests beyond what holds for every strategy, with ``Scope`` as the type of one of its fields.
- topology: ``Topology``, ``Layout``, ``Reallocation``.
- arrays: ``Array``, ``Arrays``, ``Gradient``, ``WeightMomentum``, ``DenseValues`` and ``InputNorms`` are the types of a
  backend's vectors, its operations, a dense gradient, the optimizer's momentum, dense initial values and the norms of a
  layer's inputs; ``counting_of`` returns operations that do not wait for a device.
- time: ``Clock``; ``Every`` says when updates are due; ``Schedule``, ``Piecewise`` and ``Cosine`` are numbers that
  change over a run, and ``as_schedule`` makes one of what a settings file holds; ``total_steps`` of a clock.
- optimizers: ``YoungWeights`` says which steps weights take that have just grown.
- strategy state: ``per_weight`` and ``per_position`` mark its vectors; ``by_tensor`` divides those of positions;
  ``weight_counts_error`` and ``signs_error`` say what is wrong with numbers and signs that were read from a file.
- settings: ``Amount`` and ``as_amount``, ``as_written``, ``check_fraction``, ``check_cubic``.
- choosing weights to prune: ``smallest_of_each``, ``smallest_of_all``, ``smallest``, ``slots_in_each``,
  ``fraction_of``, ``fraction_rounded_up``; ``smallest_indices`` for arrays of NumPy.
- sharing out growth: ``shares``, ``whole_numbers``, ``Counts``, ``constant``.
- choosing positions to grow: ``random_free_positions``, ``free_positions``, ``draw_ranks``, ``largest_free``,
  ``first_free``, ``free_by_score``, ``free_ranks``.
- hooks that many strategies share: ``as_many_as_lost`` for the hook allocate, ``all_keep_values`` for keep_regrown.
- starts: ``random_topology``; ``largest_of_each`` and ``largest_of_all`` by the initial values; ``distribution`` by
  name, ``uniform``, ``erdos_renyi``, ``erdos_renyi_kernel``; ``check_start_distribution`` validates an option
  of the type ``StartDistribution``; ``check_initial_sparsity`` for runs that become sparser.
- larger pieces: ``CubicPruning`` and ``PruningTargets`` (gradual pruning), ``DenseMomentum``, ``fixed_signs``,
  ``gaussian_noise``, ``noisy_pull`` and ``check_temperature`` (DeepR).
- N:M groups of consecutive positions: ``group_sizes``, ``group_counts``, ``groups_of``, ``count_in_groups``,
  ``first_of_each_group``, ``smallest_of_each_group``, ``random_in_groups``.
- randomness: ``Randomness``.
- errors: ``InputError`` for what the user can correct, ``DivergedError`` where training has diverged; all are a
  ``SparsecoreError``. The engine raises ``InvariantError``, ``NoRoomError`` and ``PluginError``.
- to try a strategy without a network: ``Engine`` and ``State``.

These names are public, and so are their arguments. Anything else below ``sparsecore.engine`` and ``sparsecore.toolbox``
may change without notice.
"""

from sparsecore.engine.arrays import (
    Array,
    Arrays,
    Counts,
    DenseValues,
    Gradient,
    InputNorms,
    WeightMomentum,
    constant,
    counting_of,
)
from sparsecore.engine.declarations import Declares, Scope
from sparsecore.engine.distributions import (
    StartDistribution,
    check_initial_sparsity,
    check_start_distribution,
    distribution,
    erdos_renyi,
    erdos_renyi_kernel,
    uniform,
)
from sparsecore.engine.engine import Engine
from sparsecore.engine.growth import (
    draw_ranks,
    free_positions,
    random_free_positions,
    random_topology,
    shares,
    whole_numbers,
)
from sparsecore.engine.hooks import hookimpl
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.saved_states import weight_counts_error
from sparsecore.engine.schedules import (
    Amount,
    Clock,
    Cosine,
    Every,
    Piecewise,
    Schedule,
    as_amount,
    as_schedule,
    as_written,
    total_steps,
)
from sparsecore.engine.selection import smallest_indices
from sparsecore.engine.state import State, by_tensor, per_position, per_weight
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.errors import DivergedError, InputError, InvariantError, NoRoomError, PluginError, SparsecoreError
from sparsecore.toolbox.gradual_pruning import CubicPruning, PruningTargets, check_cubic
from sparsecore.toolbox.largest_weights import largest_of_all, largest_of_each
from sparsecore.toolbox.momentum import DenseMomentum
from sparsecore.toolbox.nm_groups import (
    count_in_groups,
    first_of_each_group,
    group_counts,
    group_sizes,
    groups_of,
    random_in_groups,
    smallest_of_each_group,
)
from sparsecore.toolbox.ranking import (
    check_fraction,
    first_free,
    fraction_of,
    fraction_rounded_up,
    free_by_score,
    free_ranks,
    largest_free,
    slots_in_each,
    smallest,
    smallest_of_all,
    smallest_of_each,
)
from sparsecore.toolbox.shared_hooks import all_keep_values, as_many_as_lost
from sparsecore.toolbox.signs import check_temperature, fixed_signs, gaussian_noise, noisy_pull, signs_error

__all__ = [
    "Amount",
    "Array",
    "Arrays",
    "Clock",
    "Cosine",
    "Counts",
    "CubicPruning",
    "Declares",
    "DenseMomentum",
    "DenseValues",
    "DivergedError",
    "Engine",
    "Every",
    "Gradient",
    "InputError",
    "InputNorms",
    "InvariantError",
    "Layout",
    "NoRoomError",
    "Piecewise",
    "PluginError",
    "PruningTargets",
    "Randomness",
    "Reallocation",
    "Schedule",
    "Scope",
    "SparsecoreError",
    "StartDistribution",
    "State",
    "Topology",
    "WeightMomentum",
    "YoungWeights",
    "all_keep_values",
    "as_amount",
    "as_many_as_lost",
    "as_schedule",
    "as_written",
    "by_tensor",
    "check_cubic",
    "check_fraction",
    "check_initial_sparsity",
    "check_start_distribution",
    "check_temperature",
    "constant",
    "count_in_groups",
    "counting_of",
    "distribution",
    "draw_ranks",
    "erdos_renyi",
    "erdos_renyi_kernel",
    "first_free",
    "first_of_each_group",
    "fixed_signs",
    "fraction_of",
    "fraction_rounded_up",
    "free_by_score",
    "free_positions",
    "free_ranks",
    "gaussian_noise",
    "group_counts",
    "group_sizes",
    "groups_of",
    "hookimpl",
    "largest_free",
    "largest_of_all",
    "largest_of_each",
    "noisy_pull",
    "per_position",
    "per_weight",
    "random_free_positions",
    "random_in_groups",
    "random_topology",
    "shares",
    "signs_error",
    "slots_in_each",
    "smallest",
    "smallest_indices",
    "smallest_of_all",
    "smallest_of_each",
    "smallest_of_each_group",
    "total_steps",
    "uniform",
    "weight_counts_error",
    "whole_numbers",
]
