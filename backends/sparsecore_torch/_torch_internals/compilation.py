"""``torch.compile``: its limits, its errors and what it says."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import torch
from torch._dynamo.decorators import mark_unbacked
from torch._dynamo.exc import BackendCompilerFailed, Unsupported

__all__ = ["BackendCompilerFailed", "Unsupported", "mark_unbacked"]

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
