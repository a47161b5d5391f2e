"""Backward passes, and what intercepts the operations of torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode"]


def tensor_hooks(tensor: Tensor) -> dict[str, dict[int, Any] | None]:
    """Return the hooks of a tensor.

    Returns:
        The tensor's own dicts by the attributes that hold them; None where there has never been a hook.
    """
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return {name: getattr(tensor, name, None) for name in names}


def is_accumulating(node: Any) -> bool:
    """Return whether the backward pass that is running accumulates the gradient of a leaf.

    Args:
        node: the leaf's, from ``torch.autograd.graph.get_gradient_edge``.

    Returns:
        False where ``torch.autograd.grad`` returns the gradient instead, and where no backward pass is running.
    """
    execute: Any = torch._C._will_engine_execute_node
    try:
        return bool(execute(node))
    except RuntimeError:  # raised for leaves in torch.autograd.grad, and where no backward pass is running
        return False


SavedTensorHooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]
"""From a tensor to what is kept of it, and back."""


def innermost_saved_tensor_hooks() -> SavedTensorHooks | None:
    """Return the hooks that what is saved now passes through; None where there are none."""
    find: Any = torch._C._autograd._top_saved_tensors_default_hooks
    found: SavedTensorHooks | None = find(False)  # also of code that is not being traced
    return found


def keeps_graph() -> bool:
    """Return whether the backward pass that is running keeps what was saved for it, for another one."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def are_transforms_active() -> bool:
    """Return whether a transform of ``torch.func`` (``vmap``, ``grad`` ...) runs the current code."""
    return bool(torch._C._are_functorch_transforms_active())


def is_forward_mode_active() -> bool:
    """Return whether a level of forward-mode differentiation is open."""
    return forward_ad._current_level >= 0


def is_mode_active() -> bool:
    """Return whether a mode intercepts all of torch's operations, such as a counter of FLOPs or fake tensors.

    Returns:
        False for a mode that only sets the device of new tensors, as ``torch.set_default_device`` does.
    """
    if torch._C._len_torch_dispatch_stack() > 0:
        return True
    modes: Any = _get_current_function_mode_stack
    return any(not isinstance(mode, DeviceContext) for mode in modes())


def is_tracing() -> bool:
    """Return whether ``torch.jit.trace`` runs the current code."""
    return torch._C._get_tracing_state() is not None


def is_symbolically_tracing() -> bool:
    """Return whether ``torch.fx.symbolic_trace`` runs the current code."""
    return is_fx_symbolic_tracing()


def is_batched(tensor: Tensor) -> bool:
    """Return whether a tensor stands for several at once.

    Args:
        tensor: such as a gradient in a backward pass with ``is_grads_batched=True``, or within ``vmap``.
    """
    keys: Any = torch._C._dispatch_keys(tensor)
    return "Batched" in str(keys)  # the key itself has no name in Python
