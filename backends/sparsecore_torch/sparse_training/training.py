"""Sparse training of a user's own model, from one optimizer step to the next."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from sparsecore.engine.groups import GroupPlans, GroupStates
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.flops import Flops
from sparsecore.learning.ledger import Ledger
from sparsecore.notebook.html import block, note
from sparsecore.notebook.plots import plot_training
from sparsecore.observers.observer import Observer
from sparsecore.observers.record import Record
from sparsecore.sparse_training.saved_record import observed_subject
from sparsecore.sparse_training.state_dict import identity_of
from sparsecore.sparse_training.summary import Summary
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training import checks
from sparsecore_torch.sparse_training.adoption import adopted_by_groups
from sparsecore_torch.sparse_training.averages import mask_
from sparsecore_torch.sparse_training.exchange import check_exchange, exchange, resumed
from sparsecore_torch.sparse_training.flops import FlopCount
from sparsecore_torch.sparse_training.installed import Installed
from sparsecore_torch.sparse_training.kernels.choice import Routes
from sparsecore_torch.sparse_training.missed_steps import trained_parameters
from sparsecore_torch.sparse_training.model.parameters import replicated
from sparsecore_torch.sparse_training.optimizers.shares import all_layers_of
from sparsecore_torch.sparse_training.optimizers.wrapped import OptimizerLayers
from sparsecore_torch.sparse_training.parts import COPIED, SQUASHED, TrainingParts
from sparsecore_torch.sparse_training.saved_training import dump_training, load_training
from sparsecore_torch.sparse_training.summary import summary_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def copied_training() -> "SparseTraining":
    """Return the result of copying or unpickling a training: one that has ended."""
    copied = SparseTraining.__new__(SparseTraining)
    copied._parts, copied._end = None, COPIED
    return copied


@final
class SparseTraining:
    """A model in sparse training, as :func:`sparsecore_torch.sparsify` makes it.

    After each optimizer step, inactive weights and their optimizer state are zero, and weights move if the strategy has
    an update due. After :meth:`squash` every use raises an error.

    A copy, by ``copy`` or ``pickle``, has ended: copies of a model are plain, also of a module that holds the training.

    Args:
        parts: of the training.
        state: of the engines, before the first step.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type["SparseTraining"]:
        # nn.Module.__setattr__ reads it: the only chance to refuse ``self.training = sparsify(...)``
        checks.check_not_training_flag(self, sys._getframe(1))
        return SparseTraining

    def __init__(self, parts: TrainingParts, state: GroupStates) -> None:
        self._parts: TrainingParts | None = parts
        self._end = SQUASHED
        self._state = state
        self._latest_plan: GroupPlans | None = None
        self._start = tuple(map(int, state.topology.counts))
        self._identity = identity_of(parts.engines, state, parts.sparsity)
        self._record = Record(parts.engines, observed_subject(self._identity, is_first_rank=parts.ranks.rank == 0))
        self._flops = FlopCount(len(parts.engines.layout))
        self._is_agreed = False
        self._install(parts, None)
        checks.register(self, parts.claims)  # last, so that a failure before it leaves no claim

    def __deepcopy__(self, _: dict[int, Any]) -> "SparseTraining":
        return copied_training()

    def __reduce__(self) -> Any:
        return copied_training, ()

    def __repr__(self) -> str:
        if self._parts is None:
            return f"<SparseTraining, {self._end.title}>"
        return f"<SparseTraining at step {self.step:,}, {self.updates:,} updates, sparsity {self.sparsity:.4f}>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the summary, with the updates so far."""
        if self._parts is None:
            return block(repr(self))
        try:
            return self.summary()._repr_html_()
        except InputError as error:  # parameters have been replaced, which the next step says, too
            return block(repr(self), note(str(error)))

    @property
    def model(self) -> nn.Module:
        """The model without wrappers."""
        return self._alive.model

    @property
    def topology(self) -> Topology:
        """The active positions."""
        return self._now.topology

    @property
    def sparsity(self) -> float:
        """The share of the sparse tensors' positions that are not active; silent weights are active."""
        return self._now.topology.sparsity

    @property
    def step(self) -> int:
        """The number of finished optimizer steps; those that a GradScaler skipped do not count."""
        return self._now.clock.step

    @property
    def updates(self) -> int:
        """The number of finished reallocations."""
        return self._now.clock.updates

    @property
    def routes(self) -> Routes:
        """Which layers run through the sparse kernels, and why the others do not; for ``print``."""
        return self._alive.routes

    def use_kernels(self, kernels: str, tensors: str = "*") -> None:
        """Set by hand what computes regions and layers of ``kernels='sparse'``, in place of what is measured faster.

        Args:
            kernels: 'sparse' or 'dense'.
            tensors: a glob on names of sparse tensors; a region is computed so if it has one of these.

        Raises:
            InputError: there are no such kernels, the training does not use the sparse ones, or no tensor that they
                compute has such a name.
        """
        self._alive.routes.use(kernels, tensors)

    def values(self, *, silent: bool = True) -> Tensor:
        """Return the N values in the order of the topology's positions, at least float32.

        Args:
            silent: whether weights that the model does not compute with have their values (``topkast``), or are zero.

        Raises:
            InputError: as in :meth:`check`.
        """
        self.check()
        return self._installed.silent.values() if silent else self._alive.storage.values()

    def masks(self) -> dict[str, Tensor]:
        """Return the mask of each tensor.

        Returns:
            By name, bool, in the tensor's shape, True for active weights; copies on the host, which waits for the
            device.
        """
        return {name: torch.from_numpy(self.topology.mask(name)) for name in self.topology.layout.names}

    def memory(self) -> Ledger:
        """Return the bytes of values, indices, gradients and optimizer state, of all that the optimizer trains.

        Returns:
            The bytes that the entries need, and those that are allocated on this rank; dense parameters count as well.
        """
        return self._alive.storage.ledger()

    def summary(self) -> Summary:
        """Return a table for ``print``: the sparse tensors and their densities, and why the others are dense.

        Returns:
            The table of now; it does not follow the training.

        Raises:
            InputError: the training has ended, or the model no longer holds the Parameters that were made sparse.
        """
        return summary_of(self._checked, self._now, self._start, self._record.history, self._installed.silent)

    def flops(self, *inputs: Any, **by_keyword: Any) -> Flops:
        """Return the floating-point operations of a batch: in inference, and in training so far; for ``print``.

        Training is counted as if every step so far had taken this batch, with the active weights of that step and, in
        steps in which a strategy asked for it, the dense gradient; see :mod:`sparsecore.learning.flops`. A copy of the
        model runs once in evaluation mode. It is remembered, also in the state dict, so that later calls need no batch.

        Args:
            inputs: the positional arguments of a call of the model.
            by_keyword: the other ones.

        Raises:
            InputError: there are no arguments, and none were given before.
        """
        now = self._now
        return self._flops.count(self.model, inputs, by_keyword, now, self._installed.silent.counts(now.topology))

    def metrics(self) -> dict[str, float]:
        """Return numbers for a log: of the present topology, and of the last update.

        Returns:
            ``sparsity``; ``density/NAME`` of each sparse tensor; ``pruned`` and ``grown``, the numbers of weights that
            the last update moved; ``overlap``, the number of positions that are active before and after it, divided by
            those that are so before or after it; ``itop_rate`` where an observer asks for it; and what the strategies
            reported at it, such as ``dpr.threshold``. All are of the weights that are trained; where some of them are
            silent (``topkast``), there are ``silent``, their number, and ``used_sparsity``, without them.
        """
        now, metrics = self._now, self._record.metrics(self._now)
        silent = self._installed.silent.number(now.topology)
        if silent:
            used = now.topology.size - silent
            metrics |= {"silent": float(silent), "used_sparsity": 1 - used / now.topology.layout.size}
        return metrics

    def plot(self, tensors: str = "*") -> "Figure":
        """Draw where the weights moved, the sparsity of each tensor over the updates, and the present masks.

        Args:
            tensors: a glob on names of sparse tensors; the others are left out.

        Returns:
            A figure of matplotlib, which notebooks show and ``savefig`` writes.

        Raises:
            InputError: no sparse tensor has such a name.
            MissingPackageError: matplotlib is not installed.
        """
        return plot_training(self.topology, self._start, self._record.history, tensors)

    def observe(self, observer: Observer) -> None:
        """Call an observer from the next step on, such as ``sparsecore.observers.CsvLog("log.csv")``.

        It is called after each update, on the first rank alone, until :meth:`squash`. If it cannot be started, the next
        step raises an error before it does anything. A later error of the observer is a warning, and it is left out
        from then on.

        Args:
            observer: what is called; it may observe before or after a state dict is loaded.

        Raises:
            InputError: it is no :class:`sparsecore.observers.Observer`, or observes this training already.
        """
        now = self._now
        self._record.observation.observe(observer, now.topology, now.clock)

    def state_dict(self) -> dict[str, Any]:
        """Return topology, strategy states, time and history, as tensors, numbers, strings, lists and dicts.

        Together with the state dicts of model and optimizer it is enough to go on bit for bit. Not collective: any rank
        may call it alone.

        Raises:
            DisagreementError: another rank saves other values at the same step.
        """
        parts = self._checked
        parts.ranks.compare_saved(self._state.clock, self._compared)
        now = self._now
        return dump_training(parts, self._installed, now, self._identity, self._start, self._flops, self._record)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state, before or after the model and the optimizer load theirs.

        Args:
            saved: of :meth:`state_dict`.

        Raises:
            InputError: it is no such state dict, or of another model, seed or strategy; nothing has changed.
        """
        parts = self._alive
        loaded = load_training(saved, parts, self._installed, self._now, self._identity)
        loaded.put(parts, self._installed)
        self._state, self._start, self._flops = loaded.state, loaded.start, loaded.flops
        self._installed.expect(self._plan)
        loaded.record.put(self._record, loaded.state)

    def keep_state_dicts_plain(self) -> None:
        """Let the state dicts of model and optimizer be those of a dense model with zeros from now on, in any storage.

        For trainers that load a checkpoint before they make the optimizer: a plain model and its optimizer load them,
        and ``sparsify(start=training.state_dict())`` continues. Models in compact storage do not load such state dicts.
        """
        self._alive.storage.keep_state_dicts_plain()

    def check(self) -> None:
        """Check that the model's weights belong to the training; each step and each export does so, too.

        Raises:
            InputError: a weight is nonzero that is not active, or the values in compact storage belong to another
                topology, as after loading weights from another time in training; the sentence says what to do.
        """
        storage = self._checked.storage
        self._installed.silent.hide()
        storage.check_written(thoroughly=True)

    def adopt(self) -> None:
        """Make the model's nonzero weights the active ones, after loading weights from another time in training.

        If fewer weights are nonzero than must be active, some that are active now stay so, with the value zero.
        Optimizer state follows by position; that of new weights is zero. Collective: all ranks must call it. To go back
        exactly, load the state dict of the training as well.

        Raises:
            InputError: more weights are nonzero than may be active, a strategy keeps a vector with one entry for each
                weight or makes weights silent, or the storage is compact; nothing has changed.
        """
        parts = self._alive
        self._state = adopted_by_groups(parts.engines, self._state, parts.storage.nonzero_positions())
        parts.storage.restore(self._state.topology)
        self._installed.young.adopt(self._state.topology)
        self._is_agreed = False
        self._installed.expect(self._plan)
        self._record.observation.moved(self.topology)

    def mask_(self, target: nn.Module | Mapping[str, Tensor]) -> None:
        """Set all inactive weights to zero, in place, of an average (EMA, SWA) or of the model itself.

        Args:
            target: a module with the model's parameters under the model's names, such as an ``AveragedModel``, also
                inside a wrapper; or tensors by these names, such as a state dict. Only the sparse tensors change.

        Raises:
            InputError: a tensor is missing or has another shape; nothing has changed.
        """
        mask_(self._now.topology, target)

    def follow(self, optimizer: Any) -> None:
        """Go on with another optimizer, whose steps are followed from now on.

        Topology, weights, strategy states and time stay. Call it between two steps, before the gradients of the next,
        and in compact storage before the optimizer's first step.

        Args:
            optimizer: made of the parameters that the model has now; it may be wrapped, or a list of several.

        Raises:
            InputError: it cannot be used; the training goes on with the optimizer that it has.
        """
        parts, optimizers = self._checked, all_layers_of(optimizer)
        self.check()
        old = trained_parameters(parts.selection.sparse)
        check_exchange(optimizers, old, [share.layers for share in parts.shares])
        self._installed.silent.show()
        topology, values = self.topology, parts.storage.values()
        self._release()
        exchange(optimizers, old, [one.parameter for one in parts.selection.sparse])
        try:
            self._resume(optimizers, topology, values)
        except BaseException:
            self._resume([share.layers for share in parts.shares], topology, values)
            now = trained_parameters(parts.selection.sparse)
            exchange(optimizers, [one.parameter for one in parts.selection.sparse], now)
            raise

    def squash(self) -> None:
        """End the training: the model becomes a plain one with its zeros, without hooks. A second call does nothing.

        Raises:
            InputError: as in :meth:`check`; the training has not ended then.
        """
        if self._parts is None:
            return
        self.check()
        self._release()
        checks.unregister(self)
        self._parts = None
        self._record.observation.end()

    def _install(self, parts: TrainingParts, marks: Tensor | None) -> None:
        self._installed = Installed(
            parts,
            self._state,
            marks,
            plan=lambda: self._plan,
            before=self._record.observation.begin,  # what cannot be started raises an error
            after=self._after_step,
        )
        self._installed.expect(self._plan)

    def _release(self) -> None:
        parts = self._alive
        parts.storage.squash()
        self._installed.end()
        for share in parts.shares:
            share.layers.forget()

    def _resume(self, optimizers: Sequence[OptimizerLayers], topology: Topology, values: Tensor) -> None:
        with resumed(self._alive, optimizers, topology, values) as parts:
            self._parts = parts
            self._install(parts, self._installed.young.marks())

    @property
    def _alive(self) -> TrainingParts:
        if self._parts is None:
            raise InputError(self._end.sentence)
        return self._parts

    @property
    def _checked(self) -> TrainingParts:
        """The parts, if the model still holds the Parameters that were made sparse."""
        parts = self._alive
        self._installed.steps.check_parameters()
        return parts

    @property
    def _now(self) -> GroupStates:
        _ = self._alive  # raises once the training has ended
        return self._state

    @torch.no_grad()
    def _after_step(self) -> None:
        self._installed.silent.show()  # the state may have been asked for since the optimizer's step
        if self._installed.freezing.is_compact:
            self._installed.freezing.check()
        if not self._is_agreed:  # ranks that differ might never reach an update that shows it
            self._alive.ranks.jointly(lambda: self.topology, lambda topology: {"topology": topology.sha256()})
            self._is_agreed = True
        plan = self._plan
        self._flops.step(plan, self._installed.silent.counts(self.topology))
        reallocation = None
        if plan.is_idle:
            self._state = plan.next_state
        else:
            self._state, reallocation = self._installed.advance(plan)
        if self._alive.ranks.size > 1:
            self._alive.ranks.compare(self._state.clock, self._compared)
        self._installed.silent.look(self._state)
        self._installed.expect(self._plan)
        if reallocation is not None:
            self._record.add(reallocation, plan.next_state, self._state)

    def _compared(self) -> dict[str, Tensor]:
        """Return the tensors that must be equal on all ranks, by a description."""
        positions = {"the positions": as_tensor(self.topology.positions)}
        return positions | replicated(self._alive.model, [share.stepping for share in self._alive.shares])

    @property
    def _plan(self) -> GroupPlans:
        """The plan of the next step; strategies are called once for each state."""
        if self._latest_plan is None or self._latest_plan.state is not self._state:
            self._latest_plan = self._alive.engines.plan(self._state)
        return self._latest_plan
