"""Private names of torch that are used, in one place; each has a test."""

from typing import Any

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
