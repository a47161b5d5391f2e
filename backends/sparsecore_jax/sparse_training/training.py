"""Sparse training of a user's own parameters, from one step of the optimizer to the next."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.groups import GroupPlans, GroupStates
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.notebook.plots import plot_training
from sparsecore.observers.observer import Observer
from sparsecore.observers.record import Record
from sparsecore.sparse_training.saved_record import dump_record, load_record, observed_subject
from sparsecore.sparse_training.state_dict import SavedArrays, dump, identity_of, load
from sparsecore.sparse_training.summary import Summary
from sparsecore_jax.sparse_training.checks import (
    as_int,
    at_step,
    check_count,
    check_inactive,
    check_masks,
    check_tree,
    check_updates,
    found_state,
    no_gradient,
    placed_numbers,
    refuse_accumulation_around,
    refuse_young_weights,
)
from sparsecore_jax.sparse_training.moves import Mover
from sparsecore_jax.sparse_training.parameters import PyTree
from sparsecore_jax.sparse_training.parts import TrainingParts
from sparsecore_jax.sparse_training.saved_bytes import packed, unpacked
from sparsecore_jax.sparse_training.tensors import on_host
from sparsecore_jax.sparse_training.traced import TracedGroup, synchronized, traced_groups, traced_update
from sparsecore_jax.sparse_training.transformation import (
    NEVER,
    SparseState,
    Start,
    masked_tree,
    takes_every_step,
    with_sparse_state,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARRAYS = SavedArrays(pack=np.array, unpack=lambda saved: np.asarray(saved) if hasattr(saved, "shape") else saved)
"""A state dict has arrays of NumPy."""


@final
class SparseTraining:
    """A sparse training, as :func:`sparsecore_jax.sparsify` makes it.

    The masks that a jitted step computes with are in the optimizer's state. Here are the positions, the state of the
    strategies and the clock, on the host; :meth:`update` brings both together.

    Args:
        parts: of the training.
        state: of the engines, before the first step.
    """

    def __init__(self, parts: TrainingParts, state: GroupStates) -> None:
        self._parts = parts
        self._state = state
        self._latest_plan: GroupPlans | None = None
        self._start = tuple(map(int, state.topology.counts))
        self._identity = identity_of(parts.engines, state, parts.sparsity)
        self._record = Record(parts.engines, observed_subject(self._identity))
        self._mover = Mover(parts.optimizer, parts.tensors, parts.entries)
        self._is_compared = False
        self._replaced_step = NEVER
        self._traced_groups: tuple[TracedGroup, ...] | None = None

    def __repr__(self) -> str:
        return f"<SparseTraining at step {self.step:,}, {self.updates:,} updates, sparsity {self.sparsity:.4f}>"

    @property
    def topology(self) -> Topology:
        """The active positions, in the engine's order: (outputs, inputs, kernel) for kernels of flax and haiku."""
        return self._state.topology

    @property
    def sparsity(self) -> float:
        """The share of the sparse tensors' positions that are zero."""
        return self._state.topology.sparsity

    @property
    def step(self) -> int:
        """The number of finished steps that :meth:`update` knows of."""
        return self._state.clock.step

    @property
    def updates(self) -> int:
        """The number of finished updates of the strategy."""
        return self._state.clock.updates

    def update(self, params: PyTree, opt_state: PyTree, gradients: PyTree = None) -> tuple[PyTree, PyTree]:
        """Do what the strategy does after a step of the optimizer; call it once after each, between jitted steps.

        Where nothing is due, the arguments are returned as they are, without waiting for the device, unless optax may
        accumulate or reject gradients: then the number of steps is read.

        Args:
            params: after the step.
            opt_state: after the step, of the optimizer that ``sparsify`` returned, also within that of
                ``optax.chain`` and the like.
            gradients: of the step, with respect to all of ``params``, for strategies that grow by gradients. They are
                read in the steps of updates, or by some strategies in every step. With ``optax.MultiSteps`` inside the
                sparse optimizer they are not needed.

        Returns:
            Parameters and state to go on with, of the same shapes and types, so that no step is compiled again.

        Raises:
            InputError: the state is of another optimizer or another time, the parameters have other weights, or the
                strategy needs gradients and there are none.
            InvariantError: a plugin broke a promise.
            NoRoomError: more was pruned than can grow.
            DivergedError: a value is not finite.
        """
        self._record.observation.begin()
        state, is_accumulated = found_state(opt_state, self._parts.tensors)
        refuse_accumulation_around(is_accumulated, self._parts.engines)
        if not self._is_compared:
            self._compare(state)
        plan = self._plan
        is_known = plan.is_idle and not is_accumulated and takes_every_step(state.inner_state)
        has_stepped = is_known or self._has_stepped(state, plan)
        if has_stepped and plan.is_idle:
            self._state = plan.next_state
        elif has_stepped:
            params, state = self._advance(params, state, gradients, plan)
        return params, with_sparse_state(opt_state, self._with_replaced_step(state))

    def traced_update(self, params: PyTree, opt_state: PyTree, gradients: PyTree = None) -> tuple[PyTree, PyTree]:
        """Do what :meth:`update` does, inside ``jax.jit``, in the same function as the step or in one of its own.

        All that it needs is in its arguments. Its decisions are those of :meth:`update`, position for position, where
        the values are finite. It works for strategies that prune the smallest weights of each tensor, as many as
        follow from the clock and their numbers, and grow at random or by gradients: 'set', 'rigl', 'static',
        'magnitude-drop', 'gradient-growth'. Call :meth:`synchronize` before anything else of the training is used.

        Args:
            params: after the step.
            opt_state: after the step.
            gradients: of the step, with respect to all of ``params``, for strategies that grow by them.

        Raises:
            InputError: the strategy's decisions cannot be traced, the number of steps of the run is not known
                (``total_steps=``), or there are no gradients.
        """
        state, is_accumulated = found_state(opt_state, self._parts.tensors)
        refuse_accumulation_around(is_accumulated, self._parts.engines)
        tensors = self._parts.tensors
        dense = jax.tree.leaves(state.gradients) or None
        if dense is None and gradients is not None:
            check_tree("the tree of gradients", gradients, tensors)
            dense = tensors.of_tree(gradients)
        params, state = traced_update(self._traced, tensors, self._mover, params, state, dense)
        return params, with_sparse_state(opt_state, state)

    def synchronize(self, opt_state: PyTree) -> None:
        """Take over positions and time from a state of the optimizer, after updates by :meth:`traced_update`.

        Observers and the history do not get to know of these updates.

        Args:
            opt_state: the present one.

        Raises:
            InputError: it is no state of a sparse optimizer, or updates of the strategy cannot be traced.
        """
        state, _ = found_state(opt_state, self._parts.tensors)
        masks = [np.asarray(one) for one in jax.tree.leaves(state.masks)]
        updates = np.asarray(jax.tree.leaves(state.updates)[0]).tolist()
        parts, step = self._parts, as_int(state.count)
        self._state = synchronized(parts.engines, self._traced, self._state, parts.tensors, masks, step, updates)
        self._is_compared = False
        self._record.observation.moved(self.topology)

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Return the mask of each sparse parameter, by name, bool, in its shape; copies on the host."""
        tensors = self._parts.tensors
        return dict(zip(tensors.layout.names, tensors.masks(self.topology), strict=True))

    def masked(self, tree: PyTree) -> PyTree:
        """Return a tree of the parameters' structure with zeros at inactive positions, such as an average (EMA).

        Args:
            tree: with the shapes of the parameters.
        """
        return masked_tree(tree, self._parts.tensors.masks(self.topology), self._parts.tensors)

    def check(self, params: PyTree, opt_state: PyTree = None) -> None:
        """Check that parameters, and a state of the optimizer, belong to this training now.

        Args:
            params: the parameters.
            opt_state: of the optimizer; None to check the parameters alone.

        Raises:
            InputError: an inactive weight is not zero, or the state has other masks or counts other steps.
        """
        if opt_state is not None:
            state, _ = found_state(opt_state, self._parts.tensors)
            check_updates(state, self._updates_of_groups)
            check_count(as_int(state.count), self.step)
            self._compare(state)
        check_inactive(params, self._parts.tensors, self._parts.tensors.active(params, self.topology))

    def summary(self, params: PyTree = None) -> Summary:
        """Return a table for ``print``: the sparse tensors and their densities, and why the others are dense.

        Args:
            params: to count the active weights that are exactly zero; None to leave that out.
        """
        parts = self._parts
        zeros = None if params is None else int((parts.tensors.active(params, self.topology) == 0).sum())
        whole = dict.fromkeys(parts.entries.whole, "state of the optimizer for a whole tensor, left as it is")
        return Summary(
            topology=self.topology,
            start=self._start,
            left_out={**parts.selection.left_out, **whole},
            clock=self._state.clock,
            zeros=zeros,
            groups=parts.engines.described(),
            history=self._record.history,
        )

    def metrics(self) -> dict[str, float]:
        """Return numbers for a log: of the present topology, and of the last update.

        Returns:
            ``sparsity``; ``density/NAME`` of each sparse tensor; ``pruned`` and ``grown``, the numbers of weights that
            the last update moved; ``overlap`` of the positions before and after it; and what the strategies reported
            at it, such as ``dpr.threshold``.
        """
        return self._record.metrics(self._state)

    def plot(self, tensors: str = "*") -> "Figure":
        """Draw where the weights moved, the sparsity of each tensor over the updates, and the present masks.

        Args:
            tensors: a glob on names of sparse tensors; the others are left out.

        Raises:
            InputError: no sparse tensor has such a name.
            MissingPackageError: matplotlib is not installed.
        """
        return plot_training(self.topology, self._start, self._record.history, tensors)

    def observe(self, observer: Observer) -> None:
        """Call an observer after each update from now on, such as ``sparsecore.observers.CsvLog("log.csv")``.

        Args:
            observer: what is called.

        Raises:
            InputError: it is no :class:`sparsecore.observers.Observer`, or observes this training already.
        """
        self._record.observation.observe(observer, self.topology, self._state.clock)

    def state_dict(self) -> dict[str, Any]:
        """Return topology, strategy states, time and history, as arrays of NumPy, numbers, strings, lists and dicts.

        Together with parameters and optimizer state it is enough to go on bit for bit.
        """
        engines = self._parts.engines
        return {**dump(engines, self._state, self._identity, self._start, ARRAYS), **dump_record(self._record, ARRAYS)}

    def arrays(self) -> dict[str, NDArray[np.uint8]]:
        """Return :meth:`state_dict` as a tree of one array, for checkpointers of arrays such as orbax."""
        return packed(self.state_dict())

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state, with the parameters and the optimizer state that were saved with it.

        Args:
            saved: of :meth:`state_dict` or :meth:`arrays`.

        Raises:
            InputError: it is no such state dict, or of another model, seed or strategy; nothing has changed.
        """
        engines, saved = self._parts.engines, unpacked(saved)
        state, start = load(saved, engines, self._state, self._identity, ARRAYS)
        refuse_young_weights(saved)
        record = load_record(saved, engines.layout, ARRAYS)
        self._state, self._start, self._is_compared, self._traced_groups = state, start, False, None
        record.put(self._record, state)

    def optimizer_start(self, params: PyTree) -> Start:
        """Return what a new state of the optimizer starts with now.

        Args:
            params: those that the optimizer is to train.

        Raises:
            InputError: an inactive weight is not zero; parameters that are traced cannot be looked at.
        """
        if not any(isinstance(one, jax.core.Tracer) for one in self._parts.tensors.of_tree(params)):
            check_inactive(params, self._parts.tensors, self._parts.tensors.active(params, self.topology))
        plan = self._plan
        replaced = plan.next_state.clock.step if plan.replaces_step else NEVER
        return Start(self._parts.tensors.masks(self.topology), self.step, replaced, self._updates_of_groups)

    def _advance(
        self, params: PyTree, state: SparseState, gradients: PyTree, plan: GroupPlans
    ) -> tuple[PyTree, SparseState]:
        parts, before = self._parts, self._state
        check_tree("the tree of parameters", params, parts.tensors)
        values = parts.tensors.active(params, before.topology)
        check_inactive(params, self._parts.tensors, values)
        advance = parts.engines.advance(
            plan,
            values,
            parts.learning_rate.of_groups(state, before.clock.step, len(parts.engines.engines)),
            self._gradient(state, gradients, plan),
            (),
            momentum=self._momentum(state),
        )
        if advance.reallocation is not None:
            params, state = self._mover.move(params, state, advance.reallocation, values)
            updates = [one.clock.updates for one in advance.state.states]
            state = state._replace(updates=placed_numbers(state.updates, updates))
        elif advance.values is not values:
            params, state = self._mover.put(params, state, before.topology, np.asarray(advance.values))
        self._state = advance.state
        if advance.reallocation is not None:
            self._record.add(advance.reallocation, plan.next_state, self._state)
        return params, state

    def _gradient(self, state: SparseState, gradients: PyTree, plan: GroupPlans) -> Callable[[str], Any]:
        """Return the dense gradients of the step by a tensor's name, or a function that asks for them."""
        tensors = self._parts.tensors
        if state.gradients:
            names = tensors.layout.names
            means = dict(zip(names, jax.tree.leaves(state.gradients), strict=True))
            orientations = dict(zip(names, tensors.orientations, strict=True))
            return lambda name: orientations[name].flat(on_host(means[name], tensors.dtype))
        if gradients is not None:
            check_tree("the tree of gradients", gradients, tensors)
            return tensors.flat(gradients)
        if plan.wants_gradient or plan.wants_weight_gradient or plan.candidates is not None:
            raise InputError(
                f"after step {plan.next_state.clock.step} the strategy needs the gradients of the step: give them as "
                "training.update(params, opt_state, gradients)"
            )
        return no_gradient

    def _momentum(self, state: SparseState) -> Callable[[str], Any] | None:
        """Return the momentum of active weights by a tensor's name, where the optimizer has that of optax.trace."""
        places, tensors, topology = self._parts.entries.momentum, self._parts.tensors, self.topology
        if not places:
            return None
        leaves = jax.tree.leaves(state.inner_state)

        def of(name: str) -> Any:
            tensor = tensors.layout.index(name)
            if tensor not in places:
                return None
            indices = tensors.orientations[tensor].to_leaf(topology.local(name))
            return on_host(leaves[places[tensor]], tensors.dtype).reshape(-1)[indices]

        return of

    def _has_stepped(self, state: SparseState, plan: GroupPlans) -> bool:
        """Return whether the optimizer has taken the step that is planned; else take note of those that it has."""
        count, expected = as_int(state.count), plan.next_state.clock.step
        if count < expected:  # gradients were accumulated or rejected
            self._state = at_step(self._state, count)
            return False
        check_count(count, expected)
        check_updates(state, self._updates_of_groups)
        return True

    @property
    def _traced(self) -> tuple[TracedGroup, ...]:
        if self._traced_groups is None:
            self._traced_groups = traced_groups(self._parts.engines, self._state)
        return self._traced_groups

    @property
    def _updates_of_groups(self) -> tuple[int, ...]:
        return tuple(one.clock.updates for one in self._state.states)

    def _compare(self, state: SparseState) -> None:
        """Check once that a state is of this training now, as after loading both."""
        check_masks(state, self._parts.tensors, self.topology)
        self._is_compared, self._replaced_step = True, as_int(state.replaced_step)

    def _with_replaced_step(self, state: SparseState) -> SparseState:
        """Return the state in which the next step is marked if an update replaces it."""
        plan = self._plan
        wanted = plan.next_state.clock.step if plan.replaces_step else NEVER
        if wanted == self._replaced_step:
            return state
        self._replaced_step = wanted
        return state._replace(replaced_step=placed_numbers(state.replaced_step, wanted))

    @property
    def _plan(self) -> GroupPlans:
        """The plan of the next step; strategies are called once for each state."""
        if self._latest_plan is None or self._latest_plan.state is not self._state:
            self._latest_plan = self._parts.engines.plan(self._state)
        return self._latest_plan
