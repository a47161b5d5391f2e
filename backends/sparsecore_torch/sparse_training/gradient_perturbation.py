"""Lets strategies change the gradients of the active weights when the optimizer is about to step by them."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsecore.engine.groups import EngineGroups, GroupStates
from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.optimizers import is_within_own_step
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.sparse_training.optimizers.shares import OptimizerShare
from sparsecore_torch.sparse_training.optimizers.step_hooks import Given, after_closure
from sparsecore_torch.sparse_training.storage.storage import Storage
from sparsecore_torch.tensors import is_sharded


@final
class GradientPerturbation:
    """Calls back when a step has its gradients: unscaled, clipped, reduced over ranks, and masked.

    Without a strategy that changes gradients nothing is installed.

    Args:
        engines: the strategies.
        shares: the optimizers, made storages of, whose hooks come first.
        perturb: changes the gradients, given the factor by which a GradScaler has left them scaled.

    Raises:
        InputError: a strategy changes gradients, and several optimizers train sparse tensors, or ``fully_shard`` has
            sharded these.
    """

    def __init__(self, engines: EngineGroups, shares: Sequence[OptimizerShare], perturb: Callable[[Any], None]) -> None:
        self._handles: list[RemovableHandle] = []
        if not engines.gradient_perturbers:
            return
        holding = [share for share in shares if share.tensors]
        names = ", ".join(engines.gradient_perturbers)
        if len(holding) > 1:
            optimizers = ", ".join(type(share.stepping).__name__ for share in holding)
            raise InputError(
                f"the strategy {names} changes the gradients of all sparse tensors before the optimizer's step, and "
                f"{len(holding)} optimizers train them ({optimizers}); give one optimizer the sparse tensors"
            )
        if any(is_sharded(one.parameter) for one in holding[0].tensors):
            raise InputError(
                f"the strategy {names} changes gradients before the optimizer's step, and those of parameters that "
                "fully_shard has sharded cannot be changed"
            )
        optimizer = holding[0].stepping

        def before(_: Optimizer, given: tuple[Any, ...], named: dict[str, Any]) -> Given | None:
            if is_within_own_step(optimizer):
                return None
            # a GradScaler leaves it to fused optimizers to unscale
            return after_closure(given, named, lambda: perturb(getattr(optimizer, "grad_scale", None)))

        self._handles.append(optimizer.register_step_pre_hook(untraced(before)))

    def end(self) -> None:
        """Remove the hook."""
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def perturb_gradient(engines: EngineGroups, state: GroupStates, storage: Storage, scale: Any) -> None:
    """Change the gradients of the active weights in place, as the strategies do.

    Args:
        engines: the strategies.
        state: the state before the step.
        storage: keeps the weights and their gradients.
        scale: the factor that the gradients are scaled by; None for 1.
    """
    gradient = storage.weight_gradient()
    given = gradient if scale is None else gradient / scale
    changed = as_tensor(engines.perturbed_gradient(state, storage.values(), given))
    if changed is not given:
        storage.set_weight_gradient(changed if scale is None else changed * scale)
