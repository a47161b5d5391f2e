"""Follows the steps of a training's optimizers, and says when all of them have stepped."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import final

import attrs
from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch.sparse_training.missed_steps import StepWatch, trained_parameters
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.step_hooks import StepHooks
from sparsecore_torch.sparse_training.optimizers.wrapped import check_wrappers
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.sparse_training.young_weights import YoungSteps

_INCOMPLETE = 10
"""How many steps in a row one of several optimizers may miss: a GradScaler skips single ones."""


@attrs.define(eq=False)
class _Followed:
    """An optimizer whose steps are followed.

    Attributes:
        share: the optimizer and its sparse tensors.
        storage: keeps these tensors; None where there are none.
        watch: over these tensors; None likewise.
        hooks: around its steps.
        has_stepped: whether it has taken a step.
    """

    share: OptimizerShare
    storage: Storage | None
    watch: StepWatch | None
    hooks: StepHooks | None = None
    has_stepped: bool = False


@final
class Steps:
    """Calls back before each step of an optimizer, and after each step of the training.

    A step of the training has ended when each optimizer has taken one. Weights that are not active are set to zero
    after the step of their own optimizer. A step in which a GradScaler has skipped an optimizer does not count.

    Args:
        model: without wrappers.
        shares: the optimizers.
        stores: the storage of the tensors of each.
        young: corrects the steps of weights that have grown recently.
        is_replaced: returns whether the update replaces the step of the training.
        before: called before each step of an optimizer.
        skipped: called after a step of the training in which a GradScaler has skipped an optimizer.
        after: called after each other step of the training.
    """

    def __init__(
        self,
        model: nn.Module,
        shares: Sequence[OptimizerShare],
        stores: Sequence[Storage | None],
        young: YoungSteps,
        *,
        is_replaced: Callable[[], bool],
        before: Callable[[], None],
        skipped: Callable[[], None],
        after: Callable[[], None],
    ) -> None:
        self._act_before, self._act_skipped, self._act_after, self._young = before, skipped, after, young
        self._taken: dict[int, bool] = {}
        self._incomplete = 0
        self._followed = [
            _Followed(share, store, StepWatch(model, share.tensors, share.layers) if share.tensors else None)
            for share, store in zip(shares, stores, strict=True)
        ]
        for index, one in enumerate(self._followed):
            one.hooks = StepHooks(
                one.share.layers,
                is_replaced=is_replaced,
                before=partial(self._before, index),
                stepped=partial(young.after_step, index),
                skipped=partial(self._skipped, index),
                after=partial(self._after, index),
            )

    def end(self) -> None:
        """Remove all hooks."""
        for one in self._followed:
            if one.hooks is not None:
                one.hooks.end()
            if one.watch is not None:
                one.watch.end()

    def check_parameters(self) -> None:
        """Check that the model still holds the Parameters that were made sparse, without masks of its own.

        Raises:
            InputError: a Parameter or a module has been replaced, or torch.nn.utils.prune masks a Parameter.
        """
        for one in self._followed:
            if one.watch is not None:
                one.watch.check_parameters()

    def _before(self, index: int) -> None:
        self._act_before()
        if index in self._taken:
            self._note_incomplete(index)
        one = self._followed[index]
        if one.watch is not None:
            one.watch.begin_step()
        if one.storage is not None:
            one.storage.check_written()
        self._young.before_step(index)

    def _skipped(self, index: int) -> None:
        watch = self._followed[index].watch
        if watch is not None:
            watch.end_step(is_taken=False)
        self._taken[index] = False
        self._end_if_complete()

    def _after(self, index: int, was_replaced: bool) -> None:
        one = self._followed[index]
        if one.watch is not None and one.storage is not None:
            one.watch.end_step(is_taken=not was_replaced)
            if not one.has_stepped:
                check_wrappers(one.share.layers, trained_parameters(one.share.tensors))
            one.has_stepped = True
            if was_replaced:  # the optimizer has written nothing
                one.storage.check_written()
            one.storage.enforce()
        self._taken[index] = True
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if len(self._taken) < len(self._followed):
            return
        counts, self._taken = all(self._taken.values()), {}
        self._incomplete = 0
        (self._act_after if counts else self._act_skipped)()

    def _note_incomplete(self, index: int) -> None:
        """Note that an optimizer steps again before others have stepped at all."""
        names = [type(one.share.stepping).__name__ for one in self._followed]
        missed = [name for other, name in enumerate(names) if other not in self._taken]
        self._taken = {}
        self._incomplete += 1
        if self._incomplete > _INCOMPLETE:
            raise InputError(
                f"{names[index]} is about to take its step number {self._incomplete + 1} in a row without one of "
                f"{', '.join(missed)}; weights move after a step of each of the optimizers that sparsify was given "
                f"({', '.join(names)}), so that none would ever move. Call step() of all of them, or give sparsify "
                "only those that step: training.follow([...]) changes them"
            )
