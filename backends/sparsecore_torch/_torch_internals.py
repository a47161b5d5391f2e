"""Private names of torch that are used, in one place; each has a test."""

import sys
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def are_transforms_active() -> bool:
    """Whether a transform of ``torch.func`` (``vmap``, ``grad`` ...) runs what is computed now."""
    return bool(torch._C._are_functorch_transforms_active())


def is_forward_mode_active() -> bool:
    """Whether a level of forward-mode differentiation is open."""
    return forward_ad._current_level >= 0


def is_batched(tensor: Tensor) -> bool:
    """Whether it stands for several tensors at once, as gradients do with ``is_grads_batched=True``."""
    keys: Any = torch._C._dispatch_keys(tensor)
    return "Batched" in str(keys)  # the key itself has no name in Python


def accumulates(node: Any) -> bool:
    """Whether the backward pass that is running accumulates the gradient of a leaf, rather than handing it out.

    Args:
        node: the leaf's, of ``torch.autograd.graph.get_gradient_edge``.

    Returns:
        False for a gradient that ``torch.autograd.grad`` was asked for.
    """
    execute: Any = torch._C._will_engine_execute_node
    try:
        return bool(execute(node))
    except RuntimeError:  # raised for leaves in torch.autograd.grad, and where no backward pass is running
        return False


def move_to_front(optimizer: Optimizer, handle: RemovableHandle) -> None:
    """Let a hook after the steps of an optimizer run before all its others."""
    hooks: Any = optimizer._optimizer_step_post_hooks
    hooks.move_to_end(handle.id, last=False)


_HOOKED_STEP: Final[Any] = Optimizer.profile_hook_step(Optimizer.step)


def is_within_own_step(optimizer: Optimizer) -> bool:
    """Whether a hook of a step is called within another step of the same optimizer.

    A class that calls the ``step`` of the class that it is derived from runs its hooks twice: torch has put them around
    both. The inner call is a part of the step, and not a step.
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
