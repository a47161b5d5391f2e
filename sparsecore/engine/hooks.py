"""The hooks of the engine, in the order in which a run first calls them.

A strategy is a frozen attrs class of hyperparameters with ``@hookimpl`` methods for the hooks that it implements; a
method names the arguments that it needs. Of a hook that has a single result, the strategy given last is called first,
and the first result that is not None counts; a plugin at the bottom of the stack has the engine's defaults. A hook that
returns None, as after a forgotten ``return``, leaves the decision to the plugins below.

The arguments:

- ``topology``: the N active positions. ``topology.slots(name)`` is the slice of one tensor in any vector with one
  entry a weight; ``topology.counts`` are the weights and ``topology.room`` the free positions of each tensor.
  ``topology.arrays`` are the backend's operations on arrays (:mod:`sparsecore.engine.arrays`).
- ``values`` and other vectors with one entry a weight are arrays of the backend, in the order of
  ``topology.positions``, and must not be written to.
- ``pruned``, ``survivors``, ``room`` and ``counts`` are NumPy int64 vectors with one entry a tensor, in the order of
  ``layout.names``.
- ``gradient`` is a function from a tensor's name to its dense gradient in the latest step: one entry a position,
  active or not, row-major, on the backend. It is computed in the steps of updates if a strategy has a hook that takes
  it.
- ``sparsity`` is the run's: the share of positions that are inactive, at the start or, for strategies that start
  denser, at the end.
- ``random`` has the random numbers of this update: ``random.generator("purpose")`` is a NumPy generator.
- ``strategy_state`` is the strategy's own (:mod:`sparsecore.engine.state`).

Where the run's units are kernels or blocks, positions and all numbers of weights are those of units; a strategy need
not know (:mod:`sparsecore.engine.units`).
"""

from collections.abc import Callable
from typing import Any, Literal

import attrs
import pluggy

from sparsecore.engine.arrays import Array, Arrays, Counts, Gradient
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology

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
    """

    smallest_first: Scope | None = attrs.field(default=None, validator=_one_of("network", "tensor", "sign", None))
    shares: Literal["survivors", "pruned"] | None = attrs.field(
        default=None, validator=_one_of("survivors", "pruned", None)
    )
    grown_value: float | None = None
    start_multiples: Callable[[Layout], Counts] | None = None
    growth: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))
    start: Literal["fixed"] | None = attrs.field(default=None, validator=_one_of("fixed", None))


@attrs.frozen(eq=False)
class HookResult:
    """What a plugin returned from a hook, with the plugin's name for error messages."""

    plugin: str
    value: Any


PROJECT = "sparsecore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def initial_topology(layout: Layout, sparsity: float, random: Randomness, arrays: Arrays) -> Topology | None:
    """Return the active positions at the start. Default: random positions, ⌊(1-s)·D_i⌋ in each tensor."""


@hookspec
def initial_strategy_state(topology: Topology, sparsity: float, random: Randomness) -> Any:
    """Return the strategy state at the start, a frozen attrs value. Every strategy has its own."""


@hookspec(firstresult=True)
def start_values(topology: Topology, values: Array, random: Randomness) -> Array | None:
    """Return the N values at the start, from those that the model draws. Default: those."""


@hookspec(firstresult=True)
def update_due(clock: Clock, strategy_state: Any) -> bool | None:
    """Return whether an update follows the step that ``clock`` counts as finished. Default: every 100 steps.

    Called once for each step, before it; the result must depend on the arguments alone.
    """


@hookspec(firstresult=True)
def replaces_step(clock: Clock, strategy_state: Any) -> bool | None:
    """Return whether the update that is due at this clock replaces the optimizer's step (RigL). Default: False."""


@hookspec(firstresult=True)
def perturb(
    topology: Topology, values: Array, learning_rate: float, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Return the N values after the optimizer's step at this clock, changed (DeepR's noise). Default: unchanged."""


@hookspec
def observe(gradient: Gradient, topology: Topology, clock: Clock, strategy_state: Any) -> Any:
    """Return the strategy state after a step with these dense gradients (SNFS's momentum). Every strategy has its own.

    Called after every step, before the update. Dense gradients are computed in every step where a strategy implements
    it.
    """


@hookspec(firstresult=True)
def prune(
    topology: Topology, values: Array, gradient: Gradient, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Return which weights survive: one bool a weight. Default: all of them.

    A tensor that would lose all its weights keeps its largest.
    """


@hookspec
def adjust(
    pruned: Counts, survivors: Counts, topology: Topology, values: Array, clock: Clock, strategy_state: Any
) -> Any:
    """Return the strategy state for the next update, from the numbers k_i pruned and l_i surviving in each tensor.

    Every strategy has its own. ``topology`` and ``values`` are those before the update.
    """


@hookspec(firstresult=True)
def target_size(topology: Topology, survivors: Counts, clock: Clock, strategy_state: Any) -> int | None:
    """Return how many weights there are after the update that is due at this clock. Default: as many as before.

    At least as many as survive. Strategies that become sparser (GMP, GraNet) return what their schedule says. For a
    full topology it is called before pruning, as if all weights survived: if it is to stay full, there is no update.
    """


@hookspec(firstresult=True)
def allocate(
    total: int,
    pruned: Counts,
    survivors: Counts,
    room: Counts,
    layout: Layout,
    topology: Topology,
    values: Array,
    gradient: Gradient,
    clock: Clock,
    strategy_state: Any,
    random: Randomness,
) -> Counts | None:
    """Return how many weights grow in each tensor: ``total`` together, at most ``room[i]`` in tensor i.

    ``total`` is the number pruned, unless ``target_size`` says otherwise. ``topology`` and ``values`` are those before
    the update. Default: in proportion to the survivors (:func:`sparsecore.engine.growth.shares`).
    """


@hookspec(firstresult=True)
def grow(
    occupied: Topology,
    counts: Counts,
    topology: Topology,
    kept: Topology,
    gradient: Gradient,
    clock: Clock,
    strategy_state: Any,
    random: Randomness,
) -> Array | None:
    """Return positions outside ``occupied``, ascending, ``counts[i]`` in tensor i. Default: uniformly random ones.

    ``topology`` is that before the update, ``kept`` its part that has survived.
    """


@hookspec(firstresult=True)
def initial_values(
    grown: Topology, values: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Return the values of the weights of ``grown``, in the dtype of ``values``. Default: zeros."""


@hookspec
def remember(reallocation: Reallocation, clock: Clock, strategy_state: Any, random: Randomness) -> Any:
    """Return the strategy state after an update. Every strategy has its own.

    The vectors of ``strategy_state`` with one entry a weight have been carried along to the new topology.
    """


@hookspec
def reallocated(reallocation: Reallocation, clock: Clock, strategy_state: Any) -> None:
    """Observe a finished update, for logs, plots and checks; the result is ignored."""


@hookspec
def metrics(topology: Topology, clock: Clock, strategy_state: Any) -> dict[str, float] | None:
    """Return finite numbers by name for a run's logs and reports, such as DPR's threshold. Every strategy has its own.

    Called before an update that is due, so that these are the numbers that the update is made with. A name is a Python
    identifier.
    """
