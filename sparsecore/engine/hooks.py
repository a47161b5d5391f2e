"""The steps of the engine, as pluggy hooks, in the order in which they are first called.

A strategy is a frozen attrs class of hyperparameters with ``@hookimpl`` methods for the steps that it decides; it
names only the arguments that it uses. Where several plugins answer, the one given last wins; a base plugin at the
bottom answers what nobody else does. To answer None leaves the step to the plugins below; so does a forgotten return.

What the arguments are:

- ``topology``: the N active positions. ``topology.slots(name)`` is the slice of one tensor in any vector with one
  entry a weight, ``topology.counts`` are the weights and ``topology.room`` the free positions of each tensor.
- Where the run's units are kernels or blocks, positions and all numbers of weights are of units: a strategy need not
  know (:mod:`sparsecore.engine.units`).
- ``values`` and other vectors with one entry a weight are arrays of the backend, in the order of
  ``topology.positions``, and not to be written to. ``topology.arrays`` are the verbs (:mod:`sparsecore.engine.arrays`).
- ``pruned``, ``survivors``, ``room`` and ``counts`` are NumPy int64 vectors, one entry a tensor, in the order of
  ``layout.names``.
- ``gradient`` is a function from a tensor's name to its dense gradient in the step just taken: one entry a position,
  active or not, row-major, on the backend. A plugin that asks for it has it computed in the steps of its updates.
- ``sparsity`` is what the run asks for: the share of positions that are to be inactive, at the start or, for strategies
  that begin denser, at the end.
- ``random`` is the place of the draws of this update: ``random.generator("what for")`` is a NumPy generator.
- ``strategy_state`` is the plugin's own (:mod:`sparsecore.engine.state`).
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
    """The active positions at the start. Base: the uniform distribution, random positions."""


@hookspec
def initial_strategy_state(topology: Topology, sparsity: float, random: Randomness) -> Any:
    """What the plugin remembers at the start: a frozen attrs value. Every plugin has its own."""


@hookspec(firstresult=True)
def start_values(topology: Topology, values: Array, random: Randomness) -> Array | None:
    """The values at the start, from those that the model draws. Base: as they are."""


@hookspec(firstresult=True)
def update_due(clock: Clock, strategy_state: Any) -> bool | None:
    """Whether weights are reallocated after the step that has just finished. Base: every 100 steps."""


@hookspec(firstresult=True)
def replaces_step(clock: Clock, strategy_state: Any) -> bool | None:
    """Whether the update that is due at this clock takes the place of the optimizer's step (RigL). Base: no."""


@hookspec(firstresult=True)
def perturb(
    topology: Topology, values: Array, learning_rate: float, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """The values after the optimizer's step at this clock, changed (DeepR's noise). Base: none are changed."""


@hookspec
def observe(gradient: Gradient, topology: Topology, clock: Clock, strategy_state: Any) -> Any:
    """The plugin's strategy state after the dense gradients of a step (SNFS's momentum). Every plugin has its own.

    Called in every step, before the update; whoever implements it has dense gradients computed in every step.
    """


@hookspec(firstresult=True)
def prune(
    topology: Topology, values: Array, gradient: Gradient, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Which weights survive: one bool a weight. Base: all.

    A tensor that would lose all its weights keeps its largest, whatever the answer.
    """


@hookspec
def adjust(
    pruned: Counts, survivors: Counts, topology: Topology, values: Array, clock: Clock, strategy_state: Any
) -> Any:
    """The plugin's strategy state for the next update, from k_i and l_i of each tensor. Every plugin has its own.

    ``topology`` and ``values`` are those before the update.
    """


@hookspec(firstresult=True)
def target_size(topology: Topology, survivors: Counts, clock: Clock, strategy_state: Any) -> int | None:
    """How many weights there are after the update that is due at this clock. Base: as many as before.

    At least as many as survive. Pruning strategies (GMP, GraNet) declare their schedule here. A full topology is
    asked before it is pruned, as if all survived: where it is to stay full, there is nothing to do.
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
    """How many weights grow in each tensor; ``total`` together, at most ``room[i]`` in tensor i.

    ``total`` is as many as were pruned, unless ``target_size`` says otherwise. ``topology`` and ``values`` are those
    before the update.

    Base: in proportion to the survivors (:func:`sparsecore.engine.growth.shares`).
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
    """Positions outside ``occupied``, ascending, ``counts[i]`` in tensor i. Base: uniformly random.

    ``topology`` is that before the update, ``kept`` what pruning has left of it.
    """


@hookspec(firstresult=True)
def initial_values(
    grown: Topology, values: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """The values that the weights of ``grown`` start with, in the dtype of ``values``. Base: zero."""


@hookspec
def remember(reallocation: Reallocation, clock: Clock, strategy_state: Any, random: Randomness) -> Any:
    """The plugin's strategy state after an update, from the one already carried along. Every plugin has its own."""


@hookspec
def reallocated(reallocation: Reallocation, clock: Clock, strategy_state: Any) -> None:
    """Watch an update that is finished. For observers: logging, plots, checks."""


@hookspec
def metrics(topology: Topology, clock: Clock, strategy_state: Any) -> dict[str, float] | None:
    """Finite numbers for a run's logs and reports, by name, such as DPR's threshold. Every plugin has its own.

    Called before an update that is due, so that these are the numbers that the update is made with. A name is a Python
    identifier.
    """
