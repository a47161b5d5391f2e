"""``sparsify``: sparse training of anybody's parameters with any optax optimizer, in one line."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import attrs
import numpy as np

from sparsecore.engine.engine import Engine
from sparsecore.engine.reallocation import RegrowPruned
from sparsecore.engine.units import Units, as_units
from sparsecore.errors import InputError
from sparsecore.host.arrays import NumpyArrays
from sparsecore.sparse_training.clock import clock_of, try_schedules
from sparsecore.sparse_training.group_start import group_states, requested_sparsity, starting_groups
from sparsecore.sparse_training.groups import Choice, check_sparsities, groups_of
from sparsecore.sparse_training.start import is_random, is_saved_training
from sparsecore.sparse_training.start_counts import CountRequest, start_counts, with_budget
from sparsecore.sparse_training.strategy_stack import stack_of
from sparsecore_jax.sparse_training.learning_rates import as_learning_rate
from sparsecore_jax.sparse_training.moves import started
from sparsecore_jax.sparse_training.parameters import PyTree, leaves_of
from sparsecore_jax.sparse_training.parts import TrainingParts
from sparsecore_jax.sparse_training.refusals import (
    check_distribution,
    check_optimizer,
    check_strategies,
    warn_of_lost_weights,
)
from sparsecore_jax.sparse_training.saved_bytes import unpacked
from sparsecore_jax.sparse_training.selection import Globs, matching, select
from sparsecore_jax.sparse_training.start import read_start, request_of
from sparsecore_jax.sparse_training.state_entries import state_entries
from sparsecore_jax.sparse_training.tensors import SparseTensors
from sparsecore_jax.sparse_training.training import SparseTraining
from sparsecore_jax.sparse_training.transformation import accumulates, check_outermost, sparse_transformation


class Sparsified(NamedTuple):
    """What :func:`sparsify` returns.

    Attributes:
        params: with zeros at inactive positions, to go on with.
        optimizer: an ``optax.GradientTransformationExtraArgs``, in place of the one that was given.
        training: moves the weights.
    """

    params: Any
    optimizer: Any
    training: SparseTraining


def sparsify(
    params: PyTree,
    optimizer: Any,
    *,
    strategy: Any = "dpr",
    sparsity: float | Mapping[str, float] | None = None,
    distribution: str | None = None,
    budget: int | None = None,
    start: Any = "random",
    scope: str = "tensor",
    include: Globs = None,
    exclude: Globs = None,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    regrow_pruned: RegrowPruned | None = None,
    units: Units | str = "weights",
    learning_rate: Any = None,
    moments: Globs = None,
) -> Sparsified:
    """Make parameters and optimizer sparse from the next step on; the training loop gets one more line.

    ``params, optimizer, training = sparsify(params, optax.adam(1e-3), strategy="set", sparsity=0.9)``, then
    ``opt_state = optimizer.init(params)``, and after each step
    ``params, opt_state = training.update(params, opt_state, gradients)``.

    Args:
        params: a pytree of parameters: dicts, FrozenDicts of flax, states of nnx, filtered modules of equinox, dicts of
            haiku. It stays as it is.
        optimizer: any transformation of optax.
        strategy: the name of a strategy ('dpr', 'set', 'rigl', 'static', or any other that is installed;
            'file.py:Object' too), an instance, or a list of these, the bottom of the stack first. Schedules count
            optimizer steps. Or a dict of these by globs on names, in which every sparse parameter is.
        sparsity: the share of the sparse parameters' positions that stay zero, in [0, 1); 0.9 by default. Or a dict of
            these by globs on names: parameters in no group stay dense, and of several entries that match one the last
            applies.
        distribution: how many weights each parameter starts with: 'uniform' (one density), 'er' (Erdős–Rényi) or 'erk'
            (with kernels). By default the strategy decides.
        budget: the number of weights of all sparse parameters together, in place of ``sparsity``.
        start: which weights are active at first. 'random': as the strategy draws them. 'magnitude': the largest weights
            that there are, as many as the strategy would draw. 'nonzero': all that are not zero. Masks or row-major
            positions by name, in a dict or a safetensors file, or a tree of masks; a topology; or the ``state_dict`` of
            a training, which goes on then. Active weights keep their values.
        scope: where 'magnitude' looks for the largest weights: in each 'tensor', or in the whole 'network'.
        include: globs on names ('encoder/*'), one or several, which replace the default choice: kernels, matrices and
            embeddings of tokens, except for the first convolution and the output layer.
        exclude: globs on names of parameters that stay dense.
        total_steps: the number of optimizer steps of the whole run, for schedules that need its end.
        steps_per_epoch: the number of optimizer steps of an epoch, for schedules that count epochs.
        seed: of all random draws, from 0 to 2⁵³.
        regrow_pruned: whether weights that have just been pruned may grow again in the same update: False; True, from
            the value of any grown weight; or 'keep', with their value and their optimizer state. By default what the
            strategy is made for.
        units: what is pruned and grown as a whole: 'weights'; 'kernels', the weights between two channels of a
            convolution; or blocks of outputs and inputs such as '4x4'.
        learning_rate: of the optimizer, a number or a schedule of optax, for strategies that compute with it (DeepR);
            that of ``optax.inject_hyperparams`` is found.
        moments: globs on paths of the optimizer's state that has one entry a weight, where the optimizer cannot be
            tried.

    Returns:
        Parameters, optimizer and training; ``print(training.summary())`` shows what became sparse.

    Raises:
        InputError: something cannot be used.
    """
    leaves = leaves_of(params)
    check_optimizer(optimizer)
    start = unpacked(start)
    if is_saved_training(start) and sparsity is None:
        sparsity = start["sparsity"]
    check_sparsities(sparsity)
    check_distribution(distribution)
    counting = CountRequest(distribution, budget, None)
    counting.check(sparsity, start, scope)
    selection = select(leaves, include, exclude, sparsity if isinstance(sparsity, Mapping) else ())
    tensors = SparseTensors.of(selection.sparse)
    check_outermost(optimizer, params)
    entries = state_entries(optimizer, params, leaves, selection.sparse, moments)
    choice = Choice(tensors.layout.names, selection.left_out, lambda argument, glob: matching(leaves, argument, glob))
    sparsities = with_budget(counting, groups_of("sparsity", sparsity, choice), tensors.layout)
    has_end, has_epochs = total_steps is not None, steps_per_epoch is not None
    stacks = [
        attrs.evolve(one, setting=stack_of(one.setting, has_end=has_end, has_epochs=has_epochs))
        for one in groups_of("strategy", strategy, choice)
    ]
    make = partial(Engine, arrays=NumpyArrays(), seed=seed, regrow_pruned=regrow_pruned, units=as_units(units))
    whole, starting = make(tensors.layout, {}), starting_groups(tensors.layout, stacks, sparsities, make)
    counts = start_counts(counting, whole, [one.engine for one in starting], sparsities, dict)
    request = request_of(whole, tensors, params, scope, counts)
    given = read_start(start, tensors)
    engines, state = group_states(given, starting, request, make, clock_of(total_steps, steps_per_epoch))
    try_schedules(engines, state)
    check_strategies(engines)
    drawn = tensors.active(params, state.topology)
    values = engines.start_values(state, drawn)
    if not is_random(start) and values is not drawn:
        raise InputError(
            "a strategy draws signs or values of its own at the start, as DeepR does, and would change the weights "
            "that the training is to start with; take start='random', or another strategy"
        )
    rate = as_learning_rate(learning_rate)
    engines.check_learning_rates(state, values, [rate.at(optimizer.init(params), 0)] * len(engines.engines))
    if is_random(start):
        warn_of_lost_weights(tensors, params, state.topology)
    parts = TrainingParts(
        engines=engines,
        tensors=tensors,
        selection=selection,
        entries=entries,
        optimizer=optimizer,
        sparsity=requested_sparsity(sparsities, start, state),
        learning_rate=rate,
    )
    training = SparseTraining(parts, state)
    if is_saved_training(start):
        training.load_state_dict(start)
        values = tensors.active(params, training.topology)
    return Sparsified(
        started(params, tensors, training.topology, None if values is drawn else np.asarray(values)),
        sparse_transformation(
            optimizer,
            tensors,
            entries,
            training.optimizer_start,
            replaces_steps=any(engine.replaces_steps for engine in engines.engines),
            accumulates=accumulates(optimizer, params) and any(one.gradient_requests.dense for one in engines.engines),
        ),
        training,
    )
