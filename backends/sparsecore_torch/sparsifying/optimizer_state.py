"""What an optimizer keeps for a parameter, and whether sparse training can work with it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsecore.errors import InputError
from sparsecore_torch.sparsifying.parameters import NamedParameter
from sparsecore_torch.sparsifying.wrapped_optimizers import states_of

_WITHOUT_STATE_BY_ENTRY = (torch.optim.LBFGS, torch.optim.SparseAdam)


def state_tensors(optimizer: Optimizer, parameter: Tensor) -> Iterator[Tensor]:
    """The state with one entry a weight: momenta, moments and the like; that of wrappers as well."""
    for state in states_of(optimizer, parameter):
        for content in state.values():
            if isinstance(content, Tensor) and content.shape == parameter.shape:
                yield content


def check_optimizer(optimizer: Optimizer, tensors: Sequence[NamedParameter]) -> None:
    """Raise an :class:`InputError` unless the optimizer trains these tensors, entry by entry."""
    if isinstance(optimizer, _WITHOUT_STATE_BY_ENTRY):
        raise InputError(
            f"{type(optimizer).__name__} cannot train sparse tensors: its state and steps are not entry by entry; "
            "SGD, Adam, AdamW, RMSprop and their like can"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    strange = [one.name for one in tensors if id(one.parameter) not in held]
    if strange:
        raise InputError(
            f"the optimizer does not hold {', '.join(strange)}; make it of the model's parameters, or leave these "
            "dense with exclude="
        )


def group_of(optimizer: Optimizer, parameter: nn.Parameter) -> int:
    """Which param group the parameter is in."""
    return next(
        index
        for index, group in enumerate(optimizer.param_groups)
        if any(held is parameter for held in group["params"])
    )


def step_was_skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler told a fused optimizer to leave out the step that it has just been called for."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
