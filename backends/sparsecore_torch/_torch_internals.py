"""Every private name of torch that this backend uses; ``tests/test_torch_internals.py`` has a test for each.

A release of torch may change any of them without notice. Nothing else in the backend reads a name of torch that begins
with an underscore, or relies on how torch calls its own functions.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from types import FrameType
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.decorators import mark_unbacked
from torch._dynamo.exc import BackendCompilerFailed, Unsupported
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.distributed_c10d import Store, _get_default_store
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

__all__ = [
    "BackendCompilerFailed",
    "TorchDispatchMode",
    "Unsupported",
    "is_traceable_wrapper_subclass",
    "mark_unbacked",
    "tree_leaves",
    "tree_map_only",
]

EXTENSION_FILE: Final[str] = torch._C.__file__
"""The file of torch's compiled module, whose libraries have the threads that compute in torch."""

# tensors and their memory

write_count: Final[Callable[[Tensor], int]] = attrgetter("_version")
"""How often a tensor's memory has been written to. Not counted are writes through ``.data`` and by other libraries."""


def coo_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices and the values of a sparse COO tensor, whether it is coalesced or not.

    Args:
        tensor: of the layout ``torch.sparse_coo``.

    Returns:
        Indices, int64, (sparse dimensions, entries), and values, (entries, dense dimensions...). Of a tensor that is
        not coalesced an index may occur several times.
    """
    return tensor._indices(), tensor._values()


def storage_identity(tensor: Tensor) -> int:
    """Return a number that all tensors on the same memory have in common; that of ``StorageWeakRef.cdata``.

    Args:
        tensor: a strided tensor; sparse ones have no storage of their own.
    """
    identity: int = tensor.untyped_storage()._cdata
    return identity


def storage_of_weak_reference(identity: int) -> torch.UntypedStorage | None:
    """Return the storage that a ``StorageWeakRef`` refers to.

    Args:
        identity: the ``cdata`` of a reference that still exists.

    Returns:
        None where the storage no longer exists.
    """
    storage: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(identity)
    return storage


# modules

NORM_BASE: Final[type[nn.Module]] = _NormBase
"""The base class of batch norms and instance norms."""

CONVOLUTION_BASE: Final[type[nn.Module]] = _ConvNd
"""The base class of convolutions."""

FORWARD_METHODS: Final = ("forward", "_conv_forward", "__call__")
"""The methods that make up the forward pass of ``nn.Linear`` and ``nn.Conv2d``."""

COMPILED_MODULE: Final = "_orig_mod"
"""The name under which a module made by ``torch.compile`` keeps the module that it was made of."""

COPYING_OPERATIONS: Final = (torch.ops.aten.clone, torch.ops.aten._to_copy)
"""The operations by which a tensor becomes contiguous, or gets another dtype."""

RAW_FORMULA: Final = "_get_raw"
"""The attribute of a formula by which ``torch.utils.flop_counter`` hands it tensors in place of their shapes."""


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


_RECOMPILATIONS: Final = 64
"""How often one model may be compiled for other inputs and modes; by default torch counts those of all models."""

_RECOMPILATIONS_OF_ALL: Final = 1024
"""How often all models that run the same code may be compiled together, where torch cannot count them apart."""


@cache
def _counts_apart() -> bool:
    """Return whether torch can count the compilations of each model; the oldest that is supported cannot."""
    return {"isolate_recompiles", "recompile_limit"} <= inspect.signature(torch.compile).parameters.keys()


def compiled_apart(function: Callable[..., Any], backend: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function so that other models that run the same code do not use up its recompilations.

    Args:
        function: to be compiled at its first call.
        backend: from a graph and examples of its arguments to what computes it.
    """
    options = {"isolate_recompiles": True, "recompile_limit": _RECOMPILATIONS} if _counts_apart() else {}
    compile_: Any = torch.compile
    compiled: Callable[..., Any] = compile_(function, backend=backend, **options)
    return compiled


@contextmanager
def compiling_anything() -> Iterator[None]:
    """Let Dynamo compile models of any kind.

    Code that it fails to trace runs as it is, with a short warning in torch's log, in place of an error. Hooks that
    modules are given after the compilation run, too. The graphs of models in DistributedDataParallel stay whole. Models
    that share code, such as ``nn.Sequential``, do not use up a number of compilations that is common to all of them.
    """
    patch: Any = torch._dynamo.config.patch
    limits = {"accumulated_recompile_limit": sys.maxsize}
    if not _counts_apart():
        limits["recompile_limit"] = _RECOMPILATIONS_OF_ALL
    loggers = [logging.getLogger(name) for name in ("torch._dynamo.convert_frame", "torch._subclasses.fake_tensor")]
    for logger in loggers:
        logger.addFilter(_without_traceback)
    try:
        with patch(suppress_errors=True, skip_nnmodule_hook_guards=False, optimize_ddp=False, **limits):
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Leave the first line of a message and the reason: an error of the model's own is raised by its plain run, too."""
    first, *others = record.getMessage().splitlines() or [""]
    reason = [line.strip() for line in others if line.startswith("torch._dynamo.exc.")]
    record.msg, record.args, record.exc_info = ": ".join([first.strip(), *reason[:1]]), None, None
    return True


# autograd


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


def is_fake(tensor: Tensor) -> bool:
    """Return whether a tensor has no data and stands for one while a model is traced."""
    return isinstance(tensor, FakeTensor)


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


def is_batched(tensor: Tensor) -> bool:
    """Return whether a tensor stands for several at once.

    Args:
        tensor: such as a gradient in a backward pass with ``is_grads_batched=True``, or within ``vmap``.
    """
    keys: Any = torch._C._dispatch_keys(tensor)
    return "Batched" in str(keys)  # the key itself has no name in Python


# optimizers


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


# process groups


def default_store() -> Store:
    """Return the store of the default process group."""
    store: Store = _get_default_store()
    return store


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks, whose gradient is the sum of the ranks' gradients.

    The functional all-reduce has a gradient of its own only in newer versions of torch; in older ones, it silently has
    none.
    """

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:  # noqa: ARG004
        return _sum_over_ranks(vector.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return _sum_over_ranks(gradient.contiguous())


def _sum_over_ranks(vector: Tensor) -> Tensor:
    group: Any = dist.group.WORLD
    summed: Tensor = all_reduce(vector, "sum", group)
    return summed


differentiable_sum: Final[Callable[[Tensor], Tensor]] = _SumOverRanks.apply
"""Sums a tensor over the ranks of the default process group; differentiable, also in what is compiled. Collective."""
