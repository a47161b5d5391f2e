"""``sparsify``: sparse training of a user's own model, in one line."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.engine.engine import Engine
from sparsecore.engine.reallocation import RegrowPruned
from sparsecore.engine.side_orders import check_side_orders
from sparsecore.engine.topology import Layout, Topology
from sparsecore.engine.units import Units, as_units
from sparsecore.engine.young_weights import YoungWeights, as_young_weights
from sparsecore.errors import InputError, unknown
from sparsecore.sparse_training.clock import clock_of, try_schedules
from sparsecore.sparse_training.group_start import group_states, requested_sparsity, starting_groups
from sparsecore.sparse_training.groups import Choice, Selector, check_sparsities, groups_of
from sparsecore.sparse_training.start import is_random, is_saved_training
from sparsecore.sparse_training.start_counts import CountRequest, start_counts, with_budget
from sparsecore.sparse_training.strategy_stack import stack_of
from sparsecore_torch.arrays import TorchArrays, as_tensor
from sparsecore_torch.distributed.ranks import present_ranks
from sparsecore_torch.sparse_training.checks import (
    Claim,
    check_gradients,
    check_layouts,
    check_model,
    check_not_in_training,
    check_others,
    warn_of_lost_weights,
)
from sparsecore_torch.sparse_training.kernels.choice import KERNELS
from sparsecore_torch.sparse_training.model.parameters import check_memory, named_parameters
from sparsecore_torch.sparse_training.model.selection import select
from sparsecore_torch.sparse_training.model.selectors import Selectors, matching, several
from sparsecore_torch.sparse_training.multiplications import multiplications_per_weight
from sparsecore_torch.sparse_training.optimizers.shares import (
    OptimizerShare,
    all_layers_of,
    learning_rates_of,
    shares_of,
)
from sparsecore_torch.sparse_training.parts import TrainingParts
from sparsecore_torch.sparse_training.rollback import undone_on_failure
from sparsecore_torch.sparse_training.start import Start, pruning_ended, read_start, request_of
from sparsecore_torch.sparse_training.storage.dense_entries import gathered
from sparsecore_torch.sparse_training.storages import IN_PLACE, STORAGES, Stored, stored
from sparsecore_torch.sparse_training.training import SparseTraining
from sparsecore_torch.sparse_training.young_weights import young_weight_choices


def sparsify(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    strategy: Any = "dpr",
    sparsity: float | Mapping[Selector, float] | None = None,
    distribution: str | None = None,
    budget: int | None = None,
    example: Any = None,
    start: Start = "random",
    scope: str = "tensor",
    include: Selectors = None,
    exclude: Selectors = None,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    storage: str = "masked",
    kernels: str = "dense",
    regrow_pruned: RegrowPruned | None = None,
    units: Units | str = "weights",
    young: YoungWeights | str | None = None,
) -> SparseTraining:
    """Train a model sparsely from the next step on; the training loop stays as it is.

    Args:
        model: any module, also one wrapped by ``torch.compile`` or DistributedDataParallel, or after ``fully_shard``.
        optimizer: holds the model's parameters; after each of its steps weights may move. It may be wrapped, by
            accelerate, Lightning, Lookahead, SAM and the like. Or a list of several, such as Muon and AdamW: weights
            may move when each of them has taken a step.
        strategy: the name of a strategy ('dpr', 'set', 'deepr', 'static', or any other that is installed;
            'file.py:Object' too), an instance, or a list of these, the bottom of the stack first. Schedules count
            optimizer steps. Or a dict of these by group of tensors, in which every sparse tensor is: the keys are globs
            on parameter names ('encoder.*') and classes of modules (``nn.Linear``).
        sparsity: the share of the sparse tensors' positions that stay zero, in [0, 1); 0.9 by default. Where ``start``
            gives the active weights themselves, it is what strategies that become sparser end at. Or a dict of these
            by group, with keys as of ``strategy``: tensors in no group stay dense, and of several entries that match
            a tensor the last one applies.
        distribution: how many weights each tensor starts with: 'uniform' (one density), 'er' (Erdős–Rényi), 'erk' (with
            kernels), or 'flops' (as many multiplications in each tensor, as far as none is full). ``sparsity`` is then
            that of all sparse tensors together, or of all in a group. By default the strategy decides.
        budget: the number of weights of all sparse tensors together, in place of ``sparsity``.
        example: inputs of the model for 'flops', which runs it once: a tensor, a tuple of arguments, or a dict of
            keyword arguments.
        start: which weights are active at first. 'random': as the strategy draws them. 'magnitude': the largest weights
            that the model has, as many as the strategy would draw. 'nonzero': all weights that are not zero, of a
            pruned model. Masks or row-major positions by tensor name, in a dict or a safetensors file; a topology; or
            the ``state_dict`` of a training, which goes on then, whether the model is loaded before or afterwards.
            Active weights keep their values. Masks of ``torch.nn.utils.prune`` are made permanent.
        scope: where 'magnitude' looks for the largest weights: in each 'tensor', or in the whole 'network'.
        include: globs on parameter names ('encoder.*') and classes of modules (``nn.Linear``), one or several, which
            replace the default choice: the weights of linear layers, convolutions, token embeddings, recurrent layers
            and attention, and stacks of experts, except for the first convolution and the last linear layer.
        exclude: globs on parameter names and classes of modules that stay dense.
        total_steps: the number of optimizer steps of the whole run, for schedules that need its end.
        steps_per_epoch: the number of optimizer steps of an epoch, for schedules that count epochs.
        seed: of all random draws, from 0 to 2⁵³.
        storage: 'masked', dense tensors with zeros; or 'compact', one parameter of the active weights alone.
        kernels: 'dense', torch's own; or 'sparse', those of the distribution sparsecore_cpu, which run nn.Conv2d and
            nn.Linear in float32 on the CPU at the cost of the active weights. The training's ``routes`` say which
            layers do.
        regrow_pruned: whether weights that have just been pruned may grow again in the same update: False; True, from
            the value of any grown weight; or 'keep', with their value and their optimizer state. By default 'keep' with
            strategies that are made for it (RigL, SRigL, SNFS, GraNet, CHTs), and False with others.
        units: what is pruned and grown as a whole: 'weights'; 'kernels', the weights between two channels of a
            convolution; or blocks of outputs and inputs such as '4x4'.
        young: which steps of Adam or AdamW weights take that have grown recently: 'none', the optimizer's, which are
            several learning rates long at first; 'own-steps', with a bias correction by their own step count;
            'damped', the same with a linear warm-up over 100 steps; or a
            :class:`sparsecore.strategy.YoungWeights`. By default what the strategy says, and under other optimizers
            nothing.

    Returns:
        The training; ``print(training.summary())`` shows what became sparse.

    Raises:
        InputError: something cannot be used; model and optimizer are as they were.
    """
    if storage not in tuple(STORAGES):
        raise InputError(unknown("storage", storage, STORAGES))
    if kernels not in tuple(KERNELS):
        raise InputError(unknown("kernels", kernels, KERNELS))
    given, model = model, check_model(model)
    if is_saved_training(start) and sparsity is None:
        sparsity = start["sparsity"]
    check_sparsities(sparsity)
    counting = CountRequest(distribution, budget, example)
    counting.check(sparsity, start, scope)
    with pruning_ended(model, unless=is_random(start)) as pruned:
        groups = tuple(sparsity) if isinstance(sparsity, Mapping) else ()
        check_others(model, several(include) or groups)
        selection = select(model, include, exclude, groups)
        check_not_in_training(model, selection.sparse)
        check_layouts(selection.sparse)
        check_gradients(selection.sparse)
        shares = shares_of(all_layers_of(optimizer), selection.sparse)
        check_memory(selection.sparse, named_parameters(model), [share.stepping for share in shares])
        choice = KERNELS[kernels](model, selection)
        layout = Layout.of({one.name: tuple(one.parameter.shape) for one in selection.sparse})
        make = partial(
            Engine,
            arrays=TorchArrays(selection.sparse[0].parameter.device),
            seed=seed,
            regrow_pruned=regrow_pruned,
            units=as_units(units),
            young=None if young is None else as_young_weights(young),
        )
        clock = clock_of(total_steps, steps_per_epoch)
        chosen = Choice(
            layout.names,
            selection.left_out,
            lambda argument, one: matching(model, argument, one, named_parameters(model)),
        )
        sparsities = with_budget(counting, groups_of("sparsity", sparsity, chosen), layout)
        stacks = [
            attrs.evolve(
                one,
                setting=stack_of(one.setting, has_end=total_steps is not None, has_epochs=steps_per_epoch is not None),
            )
            for one in groups_of("strategy", strategy, chosen)
        ]
        whole = make(layout, {})
        starting = starting_groups(layout, stacks, sparsities, make)
        for one in starting:
            check_side_orders(one.engine, selection.side_orders)
        counts = start_counts(
            counting,
            whole,
            [one.engine for one in starting],
            sparsities,
            lambda: multiplications_per_weight(model, selection.sparse, example),
        )
        request = request_of(whole, selection.sparse, scope, pruned, counts)
        engines, state = group_states(read_start(start), starting, request, make, clock)
        try_schedules(engines, state)
        drawn = gathered({one.name: one.parameter for one in selection.sparse}, state.topology)
        values = engines.start_values(state, drawn)
        if not is_random(start) and values is not drawn:
            raise InputError(
                "a strategy draws signs or values of its own at the start, as DeepR does, and would change the weights "
                "that the training is to start with; take start='random', or another strategy"
            )
        rates = learning_rates_of(shares, [selection.sparse[index] for index in engines.first_of_each])
        engines.check_learning_rates(state, values, [rate() for rate in rates])
        if is_random(start):
            warn_of_lost_weights(selection.sparse, state.topology)
        choices = young_weight_choices(engines, shares)
        claims = [Claim.of(one) for one in selection.sparse]

        def store(shares: Sequence[OptimizerShare], topology: Topology, values: Tensor) -> Stored:
            made = stored(STORAGES[storage], given, shares, topology, values)
            return attrs.evolve(made, whole=choice.apply(made.whole, topology))

        with undone_on_failure(model, shares, in_place=storage in IN_PLACE):
            for share in shares:
                share.layers.remember()
            parts = TrainingParts(
                model=model,
                shares=shares,
                selection=selection,
                claims=claims,
                engines=engines,
                store=store,
                stored=store(shares, state.topology, as_tensor(values)),
                routes=choice.routes,
                ranks=present_ranks(),
                sparsity=requested_sparsity(sparsities, start, state),
                young=choices,
                learning_rates=rates,
            )
            return _started(SparseTraining(parts, state), start)


def _started(training: SparseTraining, start: Start) -> SparseTraining:
    if is_saved_training(start):
        training.load_state_dict(start)
    return training
