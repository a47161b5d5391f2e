"""Refuses what layers that run through the sparse kernels have not: transforms, recordings, and second derivatives."""

import torch
from torch import Tensor

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.autograd import (
    are_transforms_active,
    is_batched,
    is_forward_mode_active,
    is_symbolically_tracing,
)


def check_untransformed() -> None:
    """Check that no transform of ``torch.func`` runs, no forward mode and no ``torch.fx.symbolic_trace``.

    Raises:
        InputError: one does.
    """
    if is_symbolically_tracing():
        raise InputError(
            "torch.fx.symbolic_trace cannot record layers that run through the sparse kernels; trace "
            "export.squashed_copy(training), or take kernels='dense'"
        )
    if are_transforms_active() or is_forward_mode_active():
        raise InputError(
            "layers that run through the sparse kernels have no transforms of torch.func (vmap, grad, jvp and others) "
            "and no forward mode; take kernels='dense', or transform export.squashed_copy(training)"
        )


def check_first_order(gradient: Tensor) -> None:
    """Check that one ordinary backward pass is running.

    Args:
        gradient: of an output.

    Raises:
        InputError: several backward passes run at once, or this one is to be differentiated itself.
    """
    if is_batched(gradient):
        raise InputError(
            "layers that run through the sparse kernels compute one backward pass at a time, and this one is of "
            "several at once (is_grads_batched=True, vectorize=True); take kernels='dense', or one gradient at a time"
        )
    if torch.is_grad_enabled():
        raise InputError(
            "layers that run through the sparse kernels can be differentiated once, and this backward pass is to be "
            "differentiated itself (create_graph=True); take kernels='dense' for second derivatives"
        )
