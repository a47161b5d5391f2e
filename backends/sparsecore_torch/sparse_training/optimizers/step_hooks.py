"""Hooks around the steps of an optimizer, which also leave out the steps that an update replaces."""

from collections.abc import Callable
from typing import Any, final

from torch.optim import Optimizer

from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import is_within_own_step
from sparsecore_torch.sparse_training.optimizers.wrapped import OptimizerLayers

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and keyword arguments of a step."""


@final
class StepHooks:
    """Calls back after each step of an optimizer, and leaves out the steps that an update replaces.

    If a wrapper runs hooks around its own steps, the call after a step waits for the end of the wrapper's step:
    Lookahead and TRAC change the weights after the optimizer inside has. A wrapper whose step is called differently, as
    the two halves of SAM's, needs nothing: the optimizer inside takes the step.

    A step of a class that calls the ``step`` of its base class is one step, although torch runs the hooks twice.

    A step is left out by running it on a stand-in for the optimizer whose param groups are empty. Gradients stay in
    place, so that a step that raises an error has hidden none.

    Args:
        layers: the optimizer and its wrappers.
        is_replaced: returns whether the next step is to be left out.
        before: called before each step.
        stepped: called right after each step that the optimizer has taken itself, before its wrapper goes on.
        skipped: called after a step that a GradScaler has skipped.
        after: called after each other step, with True if it was left out.
    """

    def __init__(
        self,
        layers: OptimizerLayers,
        *,
        is_replaced: Callable[[], bool],
        before: Callable[[], None],
        stepped: Callable[[], None],
        skipped: Callable[[], None],
        after: Callable[[bool], None],
    ) -> None:
        self._is_replaced, self._act_before, self._act_skipped, self._act_after = is_replaced, before, skipped, after
        self._act_stepped = stepped
        self._was_replaced = False
        self._is_within_wrapper = False
        self._is_waiting = False
        self._stand_ins: dict[int, Optimizer] = {}
        # torch.compile may compile the optimizer's step, but not the hooks
        self._handles = [layers.stepping.register_step_pre_hook(untraced(self._before))]
        self._handles += [part.register_step_pre_hook(untraced(self._replace)) for part in layers.hooked_parts]
        self._handles.append(layers.stepping.register_step_post_hook(untraced(self._after)))
        for wrapper in layers.hooked_wrappers[:1]:
            self._handles.append(wrapper.register_step_pre_hook(untraced(self._enter_wrapper)))
            self._handles.append(wrapper.register_step_post_hook(untraced(self._leave_wrapper)))

    def end(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    def _before(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        if is_within_own_step(optimizer):
            return None
        if self._is_waiting:  # the wrapper has raised an error, or takes several steps in one of its own
            self._is_within_wrapper = False
            self._finish_step()
        self._act_before()
        replaced = self._replace(optimizer, given, named)
        self._was_replaced = replaced is not None
        return replaced

    def _replace(self, optimizer: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
        if not self._is_replaced():
            return None
        return (self._stand_in(optimizer), *given[1:]), named

    def _stand_in(self, optimizer: Optimizer) -> Optimizer:
        """An optimizer with the same attributes but no parameters; the same object each time, for torch.compile."""
        cls = type(optimizer)
        stand_in = self._stand_ins.setdefault(id(optimizer), cls.__new__(cls))
        stand_in.__dict__.update(vars(optimizer))
        stand_in.param_groups = [{**group, "params": []} for group in optimizer.param_groups]
        return stand_in

    def _after(self, optimizer: Optimizer, _: tuple[Any, ...], __: dict[str, Any]) -> None:
        if is_within_own_step(optimizer):
            return
        if _was_skipped(optimizer):
            self._act_skipped()
            return
        if not self._was_replaced:
            self._act_stepped()
        self._is_waiting = True
        if not self._is_within_wrapper:
            self._finish_step()

    def _enter_wrapper(self, *_: Any) -> None:
        if self._is_waiting:  # the wrapper's last step has raised an error
            self._finish_step()
        self._is_within_wrapper = True

    def _leave_wrapper(self, *_: Any) -> None:
        self._is_within_wrapper = False
        if self._is_waiting:
            self._finish_step()

    def _finish_step(self) -> None:
        self._is_waiting = False
        self._act_after(self._was_replaced)


def after_closure(given: tuple[Any, ...], named: dict[str, Any], action: Callable[[], None]) -> Given | None:
    """Call a function as soon as a step has its gradients: at once, or after the closure of the step.

    Args:
        given: the optimizer and the positional arguments of ``step``, as a pre-hook gets them.
        named: the keyword arguments.
        action: the function.

    Returns:
        The arguments with a closure that also calls the function; None for a step without a closure.
    """
    closure = named.get("closure", given[1] if len(given) > 1 else None)
    if closure is None:
        action()
        return None

    def evaluate() -> Any:
        loss = closure()
        action()
        return loss

    return given[:1], {**named, "closure": evaluate}


def _was_skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has made a fused optimizer skip the step that it was called for."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
