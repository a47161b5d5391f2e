"""Refuses what ``torch.jit`` and ``torch.fx`` cannot make of a model in sparse training."""

from typing import NoReturn

from torch import nn

from sparsecore.errors import InputError
from sparsecore_torch._torch_internals.autograd import is_symbolically_tracing, is_tracing


def refuse_script(module: nn.Module) -> NoReturn:
    """Raise an error that says what to script; ``torch.jit.script`` calls a module's ``__prepare_scriptable__``.

    Args:
        module: a layer or a model whose class is another one during sparse training.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"torch.jit.script compiles the code of modules, and this {type(module).__bases__[0].__name__} computes with "
        "sparse weights by code that it cannot compile; script export.squashed_copy(training)"
    )


def check_untraced(cls: type[nn.Module]) -> None:
    """Check that no model is traced: weights that are made when they are read would be recorded as they are now.

    Args:
        cls: the class of the module that reads such a weight.

    Raises:
        InputError: ``torch.jit.trace`` runs, ``torch.onnx.export(dynamo=False)``, which traces as well, or
            ``torch.fx.symbolic_trace``.
    """
    if is_tracing() or is_symbolically_tracing():
        raise InputError(
            f"torch.{'jit.trace' if is_tracing() else 'fx.symbolic_trace'} cannot record the weights of this "
            f"{cls.__name__}, which compact storage makes when they are read; trace "
            "export.squashed_copy(training), or take export.to_onnx"
        )
