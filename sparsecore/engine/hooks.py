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
- ``values`` of ``initial_topology`` and ``initial_strategy_state`` is a function from a tensor's name to the network's
  initial values, drawn or pretrained: one entry a position, row-major, on the backend. They are computed when the
  function is called.
- ``pruned``, ``survivors``, ``room`` and ``counts`` are NumPy int64 vectors with one entry a tensor, in the order of
  ``layout.names``.
- ``gradient`` is a function from a tensor's name to its dense gradient in the latest step: one entry a position,
  active or not, row-major, on the backend. It is computed in the steps of updates if a strategy has a hook that takes
  it, and in every step if a strategy's ``observe`` does.
- ``weight_gradient`` has the gradients of the active weights in the latest step, one entry a weight. A strategy that
  takes it and not ``gradient`` never causes dense gradients.
- ``candidates`` is a topology of the positions that the hook ``candidates`` has named before the step, and
  ``candidate_gradient`` has the gradients of the latest step at these, in the order of ``candidates.positions``.
- ``keeps_regrown`` says whether weights that are pruned and grow again in the same update keep their values, as with
  ``regrow_pruned="keep"``: then more may be pruned than there are free positions.
- ``input_norms`` is a function from a tensor's name to the ℓ2 norms of its layer's inputs in the latest step, over
  examples and pixels: one number for each index of the tensor's second axis, on the backend. Of a grouped convolution
  it has one for each input channel, group by group, of a vector one for each position. It is measured in the steps of
  updates if a strategy has a hook that takes it.
- ``sparsity`` is the run's: the share of positions that are inactive, at the start or, for strategies that start
  denser, at the end.
- ``random`` has the random numbers of this update: ``random.generator("purpose")`` is a NumPy generator.
- ``strategy_state`` is the strategy's own (:mod:`sparsecore.engine.state`).

Where the run's units are kernels or blocks, positions and all numbers of weights are those of units; a strategy need
not know (:mod:`sparsecore.engine.units`).
"""

from typing import Any

import attrs
import pluggy

from sparsecore.engine.arrays import Array, Arrays, Counts, DenseValues, Gradient, InputNorms, WeightMomentum
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.young_weights import YoungWeights


@attrs.frozen(eq=False)
class HookResult:
    """What a plugin returned from a hook, with the plugin's name for error messages.

    Attributes:
        plugin: the strategy's name in its stack, or 'defaults'.
        value: the result, not yet checked; never None.
    """

    plugin: str
    value: Any


PROJECT = "sparsecore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
SPECIFICATION_MARK = f"{PROJECT}_spec"
"""The attribute that ``@hookspec`` leaves on a function."""


@hookspec(firstresult=True)
def initial_topology(
    layout: Layout, sparsity: float, random: Randomness, arrays: Arrays, values: DenseValues
) -> Topology | None:
    """Choose the active positions at the start.

    ``values`` is a function from a tensor's name to all its initial values, by which a pretrained network is pruned.

    Returns:
        A topology of the layout, with no empty tensor. Default: ⌊(1-s)·D_i⌋ random positions in each tensor.
    """


@hookspec
def initial_strategy_state(topology: Topology, sparsity: float, random: Randomness, values: DenseValues) -> Any:
    """Create the strategy state at the start. Every strategy has its own.

    ``values`` is a function from a tensor's name to all its initial values, before ``start_values`` changes them.

    Returns:
        A frozen attrs value.
    """


@hookspec(firstresult=True)
def start_values(topology: Topology, values: Array, random: Randomness) -> Array | None:
    """Change the values that the model has drawn, before the first step.

    Returns:
        N finite values in the dtype of ``values``. Default: unchanged.
    """


@hookspec(firstresult=True)
def young_weights(layout: Layout) -> YoungWeights | None:
    """Choose which steps weights take that have grown recently, under an optimizer with Adam's bias correction.

    Called when a run begins and when it is resumed; it may depend on hyperparameters alone.

    Returns:
        What they get. Default: the optimizer's own steps.
    """


@hookspec(firstresult=True)
def forward_view(topology: Topology, strategy_state: Any) -> Array | None:
    """Decide which weights the network computes with, as Top-KAST's forward set; all weights are trained.

    The others are silent: they are zero in training and evaluation, and have their own values when the optimizer steps
    and when the strategies see them. Called at the start, and again when weights have moved.

    Returns:
        One bool a weight, on the backend. Default: all weights.
    """


@hookspec(firstresult=True)
def update_due(clock: Clock, strategy_state: Any) -> bool | None:
    """Decide whether an update follows the step that ``clock`` counts as finished.

    Called once for each step, before it.

    Returns:
        True or False, which must depend on the arguments alone. Default: True every 100 steps.
    """


@hookspec(firstresult=True)
def replaces_step(clock: Clock, strategy_state: Any) -> bool | None:
    """Decide whether the update that is due at this clock replaces the optimizer's step, as in RigL.

    Returns:
        True or False. Default: False.
    """


@hookspec(firstresult=True)
def candidates(topology: Topology, clock: Clock, strategy_state: Any, random: Randomness) -> Array | None:
    """Name inactive positions whose gradients the update that is due at this clock takes as ``candidate_gradient``.

    Called before the step. Backends that can compute gradients at given positions do not compute any others.

    Returns:
        Inactive positions, ascending, in the layout's position dtype, on the backend. Default: none.
    """


@hookspec(firstresult=True)
def perturb_gradient(
    topology: Topology, values: Array, weight_gradient: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Change the gradient of the active weights before the optimizer's step, as by an L1 term of the loss.

    ``weight_gradient`` has one entry a weight, without the optimizer's weight decay. ``values`` and ``clock`` are those
    before the step.

    Returns:
        N finite numbers in the dtype of ``weight_gradient``. Default: unchanged.
    """


@hookspec(firstresult=True)
def perturb(
    topology: Topology, values: Array, learning_rate: float, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Change the values after the optimizer's step, as DeepR's noise does; ``clock`` is that before the step.

    Returns:
        N finite values in the dtype of ``values``. Default: unchanged.
    """


@hookspec
def observe(
    gradient: Gradient,
    weight_gradient: Array,
    weight_momentum: WeightMomentum,
    topology: Topology,
    clock: Clock,
    strategy_state: Any,
) -> Any:
    """Update the strategy state by the gradients of a step, as SNFS its momentum. Every strategy has its own.

    Called after every step, before the update. If a strategy's method takes ``gradient``, dense gradients are computed
    in every step; with ``weight_gradient`` those of the active weights alone. ``weight_momentum`` is a function from a
    tensor's name to the momentum that SGD keeps of its active weights, one entry for each of ``topology.slots(name)``;
    it returns None with other optimizers, and where a unit is larger than a weight.

    Returns:
        The strategy state after the step.
    """


@hookspec(firstresult=True)
def prune(
    topology: Topology,
    values: Array,
    gradient: Gradient,
    weight_gradient: Array,
    candidates: Topology,
    candidate_gradient: Array,
    input_norms: InputNorms,
    keeps_regrown: bool,
    clock: Clock,
    strategy_state: Any,
    random: Randomness,
) -> Array | None:
    """Decide which weights survive. A tensor that would lose all its weights keeps its largest.

    Returns:
        One bool a weight, on the backend. Default: all survive.
    """


@hookspec(firstresult=True)
def revise_pruning(
    topology: Topology, values: Array, survives: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Change which weights survive after ``prune`` has decided, to prune more of them or to keep some.

    ``survives`` is the result of ``prune``, in which a tensor that would lose all its weights keeps its largest.

    Returns:
        One bool a weight, on the backend. Default: ``survives``.
    """


@hookspec
def adjust(
    pruned: Counts, survivors: Counts, topology: Topology, values: Array, clock: Clock, strategy_state: Any
) -> Any:
    """Update the strategy state by the numbers k_i pruned and l_i surviving in each tensor. Every strategy has its own.

    ``topology`` and ``values`` are those before the update.

    Returns:
        The strategy state for the next update; the rest of this one still gets the old one.
    """


@hookspec(firstresult=True)
def target_size(topology: Topology, survivors: Counts, room: Counts, clock: Clock, strategy_state: Any) -> int | None:
    """Decide how many weights there are after the update that is due at this clock.

    Strategies that become sparser (GMP, GraNet) follow their schedule here. For a full topology it is called before
    pruning, as if all weights survived: if it is to stay full, there is no update.

    Returns:
        A whole number, at least that of the survivors and at most D. Default: as many as before.
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
    weight_gradient: Array,
    candidates: Topology,
    candidate_gradient: Array,
    input_norms: InputNorms,
    keeps_regrown: bool,
    clock: Clock,
    strategy_state: Any,
    random: Randomness,
) -> Counts | None:
    """Share out over the tensors how many weights grow.

    ``total`` is the number pruned, unless ``target_size`` says otherwise. ``topology`` and ``values`` are those before
    the update.

    Returns:
        int64, one number a tensor: ``total`` together, at most ``room[i]`` in tensor i. Default: in proportion to the
        survivors (:func:`sparsecore.engine.growth.shares`).
    """


@hookspec(firstresult=True)
def grow(
    occupied: Topology,
    counts: Counts,
    topology: Topology,
    values: Array,
    kept: Topology,
    gradient: Gradient,
    weight_gradient: Array,
    candidates: Topology,
    candidate_gradient: Array,
    input_norms: InputNorms,
    clock: Clock,
    strategy_state: Any,
    random: Randomness,
) -> Array | None:
    """Choose the positions where weights grow.

    ``topology`` and ``values`` are those before the update, ``kept`` is its part that has survived.

    Returns:
        Positions outside ``occupied``, ascending, ``counts[i]`` in tensor i, in the layout's position dtype, on the
        backend. Default: uniformly random ones.
    """


@hookspec(firstresult=True)
def keep_regrown(
    topology: Topology, values: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Choose the weights that keep value and optimizer state if they are pruned and grow again in the same update.

    Called in runs with ``regrow_pruned="keep"``, which is the default of runs whose strategies implement it. A weight
    that has kept its value counts as neither pruned nor grown.

    Returns:
        One bool a weight before the update, on the backend; those that survive anyway are ignored. Default: all.
    """


@hookspec(firstresult=True)
def initial_values(
    grown: Topology, values: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Choose the values of the weights that have grown; ``values`` are all values before the update.

    Returns:
        One finite value for each weight of ``grown``, in the dtype of ``values``. Default: zeros.
    """


@hookspec(firstresult=True)
def initial_momentum(
    grown: Topology, values: Array, clock: Clock, strategy_state: Any, random: Randomness
) -> Array | None:
    """Choose the momentum with which SGD goes on with the weights that have grown; ``values`` as for `initial_values`.

    Other optimizers, and SGD without momentum, have no use for it, and larger units than weights grow with zero.

    Returns:
        One finite number for each weight of ``grown``. Default: zeros.
    """


@hookspec
def remember(reallocation: Reallocation, clock: Clock, strategy_state: Any, random: Randomness) -> Any:
    """Update the strategy state after an update. Every strategy has its own.

    The vectors of ``strategy_state`` with one entry a weight have been carried along to the new topology.

    Returns:
        The strategy state for the next steps.
    """


@hookspec
def reallocated(reallocation: Reallocation, clock: Clock, strategy_state: Any) -> None:
    """Observe a finished update, for logs, plots and checks; the result is ignored.

    Args:
        reallocation: the update, whose promises have been checked.
        clock: the clock after the update, which counts it.
        strategy_state: the strategy's own state after the update: carried along, and as :func:`remember` left it.
    """


@hookspec
def metrics(topology: Topology, clock: Clock, strategy_state: Any) -> dict[str, float] | None:
    """Report numbers for a run's logs and reports, such as DPR's threshold. Every strategy has its own.

    Called before an update that is due, so that these are the numbers that the update is made with.

    Returns:
        Finite numbers by name; a name is a Python identifier.
    """
