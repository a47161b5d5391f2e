"""Sparse training of somebody's own model, from one optimizer step to the next."""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from sparsecore.engine.engine import Engine, StepPlan
from sparsecore.engine.state import State
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.ledger import Ledger
from sparsecore.learning.ranks import Ranks
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training import checks
from sparsecore_torch.sparse_training.averages import mask_
from sparsecore_torch.sparse_training.kernels.choice import Routes
from sparsecore_torch.sparse_training.missed_steps import StepWatch, trained_parameters
from sparsecore_torch.sparse_training.model.parameters import replicated
from sparsecore_torch.sparse_training.model.selection import Selection
from sparsecore_torch.sparse_training.optimizers.state import check_optimizer, group_of, learning_rate_of
from sparsecore_torch.sparse_training.optimizers.step_hooks import StepHooks
from sparsecore_torch.sparse_training.optimizers.wrapped import (
    OptimizerLayers,
    check_exchange,
    check_wrappers,
    exchange,
    layers_of,
)
from sparsecore_torch.sparse_training.rollback import undone_on_failure
from sparsecore_torch.sparse_training.state_dict import adopted, dump, identity_of, load
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.sparse_training.summary import Summary
from sparsecore_torch.tensors import is_sharded


@attrs.frozen(eq=False)
class Parts:
    """What sparse training is put together from.

    Attributes:
        model: without wrappers.
        optimizer: and its wrappers; after each of its steps weights may move.
        selection: which tensors are sparse.
        claims: on these tensors, so that no other training takes them.
        engine: decides what moves.
        store: makes the storage anew, of the plain model and an optimizer.
        storage: where the weights lie.
        routes: which layers run through the sparse kernels.
        ranks: the processes that train together.
        sparsity: what was asked for.
        learning_rate_group: the param group whose learning rate strategies are told, that of the first sparse tensor.
    """

    model: nn.Module
    optimizer: OptimizerLayers
    selection: Selection
    claims: Sequence[checks.Claim]
    engine: Engine
    store: Callable[[OptimizerLayers, Topology, Tensor], Storage]
    storage: Storage
    routes: Routes
    ranks: Ranks
    sparsity: float
    learning_rate_group: int


@attrs.frozen
class End:
    """Why a training can be used no more."""

    title: str
    sentence: str


SQUASHED = End("ended", "this sparse training has ended with squash(); sparsify the model again to go on")
COPIED = End(
    "a copy",
    "this is a copy of a sparse training, and trains nothing: a copy of a model is a plain model. To go on with the "
    "copy, call sparsify for it and load the state dicts of model, optimizer and training",
)


def copied_training() -> "SparseTraining":
    """What copying or unpickling a training gives: one that has ended."""
    copied = SparseTraining.__new__(SparseTraining)
    copied._parts, copied._end = None, COPIED
    return copied


def check_no_flag(value: object, frame: FrameType | None) -> None:
    """Raise an :class:`InputError` if a module is about to get this value in the place of its flag ``training``.

    Args:
        value: a sparse training.
        frame: of the function that looks at it.
    """
    for caller in (frame, frame and frame.f_back):
        if caller is not None and caller.f_code is nn.Module.__setattr__.__code__:
            given = caller.f_locals
            if given.get("name") == "training" and given.get("value") is value:
                raise InputError(
                    "self.training is torch's own flag of a module, which train() and eval() set, and a sparse "
                    "training would take its place; give it another name: self.sparse_training = sparsify(...)"
                )


@final
class SparseTraining:
    """A model in sparse training; made by :func:`sparsecore_torch.sparsify`.

    After each optimizer step, inactive weights and their optimizer state are zero, and where the strategy has an update
    due, weights move. After :meth:`squash` any use of it is refused.

    A copy, by ``copy`` or ``pickle``, is one that has ended: copies of a model are plain, and so are copies of a module
    that also holds the training.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type["SparseTraining"]:
        # asked by nn.Module.__setattr__ as it looks for a Parameter: the one moment to say what goes wrong there
        check_no_flag(self, sys._getframe(1))
        return SparseTraining

    def __init__(self, parts: Parts, state: State) -> None:
        self._parts: Parts | None = parts
        self._end = SQUASHED
        self._state = state
        self._latest_plan: StepPlan | None = None
        self._start = tuple(map(int, state.topology.counts))
        self._identity = identity_of(parts.engine, state, parts.sparsity)
        self._is_agreed = False
        self._begin(parts)
        checks.register(self, parts.claims)  # last: what fails before it leaves no claim

    def __deepcopy__(self, _: dict[int, Any]) -> "SparseTraining":
        return copied_training()

    def __reduce__(self) -> Any:
        return copied_training, ()

    def __repr__(self) -> str:
        if self._parts is None:
            return f"<SparseTraining, {self._end.title}>"
        return f"<SparseTraining at step {self.step:,}, {self.updates:,} updates, sparsity {self.sparsity:.4f}>"

    @property
    def model(self) -> nn.Module:
        """The model, without what it is wrapped in."""
        return self._alive.model

    @property
    def topology(self) -> Topology:
        """The active positions."""
        return self._now.topology

    @property
    def sparsity(self) -> float:
        """The share of the sparse tensors' positions that are zero."""
        return self._now.topology.sparsity

    @property
    def step(self) -> int:
        """Optimizer steps that are finished; those that a GradScaler skipped are none."""
        return self._now.clock.step

    @property
    def updates(self) -> int:
        """Reallocations that are finished."""
        return self._now.clock.updates

    @property
    def routes(self) -> Routes:
        """Which layers run through the sparse kernels, and why the others do not; for ``print``."""
        return self._alive.routes

    def values(self) -> Tensor:
        """The N values, in the order of the topology's positions.

        Raises:
            InputError: as :meth:`check` does.
        """
        self.check()
        return self._alive.storage.values()

    def masks(self) -> dict[str, Tensor]:
        """Where the weights of each tensor are: bools of its shape, on the host."""
        return {name: torch.from_numpy(self.topology.mask(name)) for name in self.topology.layout.names}

    def memory(self) -> Ledger:
        """Bytes of values, indices, gradients and optimizer state, of all that the optimizer trains."""
        return self._alive.storage.ledger()

    def summary(self) -> Summary:
        """A table for ``print``: the sparse tensors and their densities, and why the others are dense."""
        parts = self._checked
        # to gather what is spread over ranks takes all of them, and a summary may be asked for by one
        is_spread = any(is_sharded(one.parameter) for one in parts.selection.sparse)
        zeros = None if is_spread else int((parts.storage.values() == 0).sum())
        selection = parts.selection
        return Summary(self.topology, self._start, selection.left_out, self._now.clock, zeros, selection.by_name)

    def state_dict(self) -> dict[str, Any]:
        """Topology, memories and time, as tensors, numbers, strings, lists and dicts.

        Together with the state dicts of model and optimizer it is enough to go on bit for bit. Among several ranks any
        may call it alone.

        Raises:
            DisagreementError: another rank saves at the same step, and holds other values.
        """
        self._checked.ranks.compare_saved(self._state.clock, self._compared)
        return dump(self._alive.engine, self._now, self._identity, self._start)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from ``saved`` (of :meth:`state_dict`); before or after the model and the optimizer load theirs.

        Raises:
            InputError: it is of another model, another seed or other strategies, or no such state dict; nothing has
                changed.
        """
        parts = self._alive
        state, start = load(saved, parts.engine, self._now, self._identity)
        parts.storage.restore(state.topology)
        self._state, self._start = state, start
        self._expect_gradient()

    def check(self) -> None:
        """Check that the model's weights are those of the training; each step and each export does so, too.

        Raises:
            InputError: a weight is nonzero that is not active, or the values in compact storage belong to another
                topology, as after loading weights of another moment; the sentence says what to do.
        """
        self._checked.storage.check_written(thoroughly=True)

    def adopt(self) -> None:
        """Make the model's nonzero weights the active ones, after loading weights of another moment of the training.

        Where fewer weights are nonzero than there are to be, others that have been active up to now stay so, with their
        value zero. Optimizer state goes along by position; that of weights which come into being is zero. Ranks that
        train together all call it. To go back to a moment exactly, load the state dict of the training as well.

        Raises:
            InputError: more weights are nonzero than there are to be, a strategy remembers something of each weight, or
                the storage is compact; nothing has changed.
        """
        parts = self._alive
        self._state = adopted(parts.engine, self._state, parts.storage.nonzero_positions())
        parts.storage.restore(self._state.topology)
        self._is_agreed = False
        self._expect_gradient()

    def mask_(self, target: nn.Module | Mapping[str, Tensor]) -> None:
        """Make all weights zero, in place, that are not active now: of an average (EMA, SWA), or of the model itself.

        Args:
            target: a module with the model's parameters under the model's names, such as an ``AveragedModel``, also
                inside a wrapper; or tensors by these names, such as a state dict. Others than those of the sparse
                tensors stay as they are.

        Raises:
            InputError: a tensor is not there, or has another shape; nothing has changed.
        """
        mask_(self._now.topology, target)

    def follow(self, optimizer: Any) -> None:
        """Go on with another optimizer: from now on it is the one whose steps are followed.

        Topology, weights, memories and time stay. Call it between two steps, before the gradients of the next; in
        compact storage, before the optimizer's first step.

        Args:
            optimizer: made of the parameters that the model has now; it may be wrapped.

        Raises:
            InputError: it cannot be used; the training goes on with the optimizer that it has.
        """
        parts, layers = self._checked, layers_of(optimizer)
        self.check()
        old = trained_parameters(parts.model, parts.selection.sparse)
        check_exchange(layers, old, parts.optimizer)
        topology, values = self.topology, parts.storage.values()
        self._release()
        exchange(layers, old, [one.parameter for one in parts.selection.sparse])
        try:
            self._resume(layers, topology, values)
        except BaseException:
            self._resume(parts.optimizer, topology, values)
            now = trained_parameters(parts.model, parts.selection.sparse)
            exchange(layers, [one.parameter for one in parts.selection.sparse], now)
            raise

    def squash(self) -> None:
        """End: the model is a plain one, zeros baked in, and no hooks are left; twice is as good as once.

        Raises:
            InputError: as :meth:`check` does; the training has not ended then.
        """
        if self._parts is None:
            return
        self.check()
        self._release()
        checks.unregister(self)
        self._parts = None

    def _begin(self, parts: Parts) -> None:
        self._watch = StepWatch(parts.model, parts.selection.sparse, parts.optimizer)
        self._freezing = checks.Freezing(parts.model, parts.selection.sparse)
        self._has_stepped = False
        self._hooks = StepHooks(
            parts.optimizer,
            is_replaced=lambda: self._plan.replaces_step,
            before=self._before_step,
            skipped=lambda: self._watch.end_step(is_taken=False),
            after=self._after_step,
        )
        self._expect_gradient()

    def _release(self) -> None:
        parts = self._alive
        parts.storage.squash()
        self._hooks.end()
        self._watch.end()
        parts.optimizer.forget()

    def _resume(self, layers: OptimizerLayers, topology: Topology, values: Tensor) -> None:
        parts = self._alive
        check_optimizer(layers.stepping, parts.selection.sparse)
        group = group_of(layers.stepping, parts.selection.sparse[0].parameter)
        with undone_on_failure(parts.model, layers, parts.selection.sparse, in_place=True):
            layers.remember()
            storage = parts.store(layers, topology, values)
            self._parts = attrs.evolve(parts, optimizer=layers, storage=storage, learning_rate_group=group)
            self._begin(self._parts)

    @property
    def _alive(self) -> Parts:
        if self._parts is None:
            raise InputError(self._end.sentence)
        return self._parts

    @property
    def _checked(self) -> Parts:
        """The parts, if the model still holds the Parameters that were made sparse."""
        parts = self._alive
        self._watch.check_parameters()
        return parts

    @property
    def _now(self) -> State:
        _ = self._alive  # raises once the training has ended
        return self._state

    def _before_step(self) -> None:
        self._watch.begin_step()
        self._alive.storage.check_written()

    @torch.no_grad()
    def _after_step(self, was_replaced: bool) -> None:
        self._watch.end_step(is_taken=not was_replaced)
        self._freezing.check()
        if not self._has_stepped:
            parts = self._alive
            check_wrappers(parts.optimizer, trained_parameters(parts.model, parts.selection.sparse))
        self._has_stepped = True
        self._agree()
        if was_replaced:  # the optimizer has written nothing
            self._alive.storage.check_written()
        self._alive.storage.enforce()
        plan = self._plan
        self._state = plan.next_state if plan.is_idle else self._advanced(plan)
        self._alive.ranks.compare(self._state.clock, self._compared)
        self._expect_gradient()

    def _agree(self) -> None:
        """At the first step: ranks that begin apart may never come to an update that would tell."""
        if not self._is_agreed:
            self._alive.ranks.jointly(lambda: self.topology, lambda topology: {"topology": topology.sha256()})
        self._is_agreed = True

    def _compared(self) -> dict[str, Tensor]:
        """What must be the same on all ranks, by what it is."""
        parts = self._alive
        return {
            "the positions": as_tensor(self.topology.positions),
            **replicated(parts.model, parts.optimizer.stepping),
        }

    def _advanced(self, plan: StepPlan) -> State:
        """The state after a step whose values the engine has to see."""
        parts, state = self._alive, plan.state
        values = parts.storage.values()
        rate = learning_rate_of(parts.optimizer.stepping.param_groups[parts.learning_rate_group])
        frozen = self._freezing.frozen()
        advance = parts.ranks.together(
            lambda: parts.engine.advance(state, values, rate, parts.storage.gradient, frozen, plan)
        )
        if advance.reallocation is not None:
            parts.storage.reallocate(advance.reallocation)
        elif advance.values is not values:
            parts.storage.set_values(as_tensor(advance.values))
        return advance.state

    @property
    def _plan(self) -> StepPlan:
        """What the strategies do at the next step; they are asked once for each state."""
        if self._latest_plan is None or self._latest_plan.state is not self._state:
            self._latest_plan = self._alive.engine.plan(self._state)
        return self._latest_plan

    def _expect_gradient(self) -> None:
        self._alive.storage.expect_gradient(dense=self._plan.wants_gradient)
