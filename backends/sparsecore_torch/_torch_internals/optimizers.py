"""Optimizers and the hooks of their steps."""

import sys
from types import FrameType
from typing import Any, Final

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def runs_step_hooks(optimizer: Any) -> bool:
    """Return whether an object runs step hooks of its own.

    Args:
        optimizer: an optimizer, or any wrapper; one that only forwards attributes runs none.
    """
    # a wrapper's __getattr__ would find the hooks of the optimizer inside
    has_hooks = "_optimizer_step_post_hooks" in getattr(optimizer, "__dict__", {})
    return has_hooks and bool(getattr(type(optimizer).step, "hooked", False))


def step_without_hooks(cls: type[Any]) -> Any:
    """Return the ``step`` of an optimizer's class, without the function that torch puts around it to run hooks.

    Returns:
        A function that takes the optimizer as its first argument.
    """
    step: Any = cls.step
    return getattr(step, "__wrapped__", step) if getattr(step, "hooked", False) else step


def is_hooks_attribute(name: str) -> bool:
    """Return whether an optimizer keeps hooks in its attribute of this name."""
    return name.endswith("_hooks")


def move_to_front(optimizer: Optimizer, handle: RemovableHandle) -> None:
    """Let a hook run before all others.

    Args:
        optimizer: the optimizer.
        handle: of one of its post-step hooks.
    """
    hooks: Any = optimizer._optimizer_step_post_hooks
    hooks.move_to_end(handle.id, last=False)


_HOOKED_STEP: Final[Any] = Optimizer.profile_hook_step(Optimizer.step)


def is_within_own_step(optimizer: Optimizer) -> bool:
    """Return whether a hook of a step is called within another step of the same optimizer.

    A class whose ``step`` calls that of its base class runs its hooks twice, since torch has put them around both. The
    inner call is a part of the step, and not a step.

    Args:
        optimizer: whose hook calls this.
    """
    code = _HOOKED_STEP.__code__
    steps = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and steps < 2:
        # by name, as torch.compile runs a changed copy of the code
        if frame.f_code.co_name == code.co_name and frame.f_code.co_filename == code.co_filename:
            stepping = frame.f_locals.get("self")
            # a stand-in for the optimizer shares its hooks
            steps += getattr(stepping, "_optimizer_step_pre_hooks", None) is optimizer._optimizer_step_pre_hooks
        frame = frame.f_back
    return steps > 1
