"""Modules: their attributes, hooks and classes."""

from collections.abc import Iterable
from types import FrameType
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

NORM_BASE: Final[type[nn.Module]] = _NormBase
"""The base class of batch norms and instance norms."""

CONVOLUTION_BASE: Final[type[nn.Module]] = _ConvNd
"""The base class of convolutions."""

FORWARD_METHODS: Final = ("forward", "_conv_forward", "__call__")
"""The methods that make up the forward pass of ``nn.Linear`` and ``nn.Conv2d``."""

COMPILED_MODULE: Final = "_orig_mod"
"""The name under which a module made by ``torch.compile`` keeps the module that it was made of."""


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the dict of a module's own parameters, to read or to change.

    Returns:
        The module's dict itself, with None for a parameter that is registered as absent; of scripted modules a mere
        mapping.
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the dict of a module's own buffers.

    Returns:
        The module's dict itself, with None for a buffer that is registered as absent; of scripted modules a mere
        mapping.
    """
    return module._buffers


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the dict of a module's children.

    Returns:
        The module's dict itself, with None for a child that is registered as absent; of scripted modules a mere
        mapping.
    """
    return module._modules


def remove_module_hooks(module: nn.Module, identities: Iterable[int]) -> None:
    """Remove hooks from a module.

    Args:
        module: the module that the hooks were registered on, or a copy of it.
        identities: ``RemovableHandle.id`` of each hook.
    """
    for hooks in (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._forward_hooks_always_called,
        module._state_dict_hooks,
        module._load_state_dict_pre_hooks,
    ):
        for identity in identities:
            hooks.pop(identity, None)


def runs_forward_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks of its own that may change what it is given or what it returns."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def convolution_padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return the padding of a convolution, also where it is given as 'same' or 'valid'.

    Returns:
        Left, right, top and bottom, in pixels.
    """
    left, right, top, bottom = module._reversed_padding_repeated_twice
    return left, right, top, bottom


def is_set_as_training_flag(value: object, frame: FrameType | None) -> bool:
    """Return whether a value is about to become a module's attribute ``training``.

    Args:
        value: the value.
        frame: of a function that ``nn.Module.__setattr__`` calls, directly or through one other function.
    """
    for caller in (frame, frame and frame.f_back):
        if caller is not None and caller.f_code is nn.Module.__setattr__.__code__:
            given = caller.f_locals
            return given.get("name") == "training" and given.get("value") is value
    return False


def names_ignored_by_ddp(model: nn.Module) -> frozenset[str]:
    """Return the names of parameters and buffers that DistributedDataParallel is set to ignore."""
    return frozenset(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
