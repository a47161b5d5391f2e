"""``torch.compile``: its limits, its errors and what it says."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from threading import Lock
from types import FunctionType
from typing import Any, Final, TypeVar, final

import torch
from torch._dynamo.decorators import mark_unbacked
from torch._dynamo.exc import BackendCompilerFailed, Unsupported
from torch.utils import _config_module

__all__ = ["BackendCompilerFailed", "Unsupported", "mark_unbacked"]

Function = TypeVar("Function", bound=Callable[..., Any])

_RECOMPILATIONS: Final = 64
"""How often one model may be compiled for other inputs and modes; by default torch counts those of all models."""

_RECOMPILATIONS_OF_ALL: Final = 1024
"""How often all models that run the same code may be compiled together, where torch cannot count them apart."""


@cache
def _counts_apart() -> bool:
    """Return whether torch can count the compilations of each model; the oldest that is supported cannot."""
    return {"isolate_recompiles", "recompile_limit"} <= inspect.signature(torch.compile).parameters.keys()


def compiled_apart(function: Callable[..., Any], backend: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function apart from all others that run the same code.

    They do not use up its recompilations, and it is compiled even where torch has given up compiling theirs.

    Args:
        function: to be compiled at its first call.
        backend: from a graph and examples of its arguments to what computes it.
    """
    options: dict[str, Any] = {}
    if _counts_apart():
        options = {"isolate_recompiles": True, "recompile_limit": _RECOMPILATIONS}
    elif isinstance(function, FunctionType):  # other callables share what is compiled
        function = _with_its_own_code(function)
    compile_: Any = torch.compile
    compiled: Callable[..., Any] = compile_(function, backend=backend, **options)
    return compiled


def _with_its_own_code(function: FunctionType) -> Callable[..., Any]:
    """Return the same function for releases of torch that keep what they have compiled, or given up, with the code."""
    copied = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    copied.__dict__.update(function.__dict__)
    copied.__defaults__, copied.__kwdefaults__ = function.__defaults__, function.__kwdefaults__

    # torch would compile code of its own, such as that of nn.Sequential, in a function that it shares
    def own(*args: Any, **kwargs: Any) -> Any:
        return copied(*args, **kwargs)

    own.__code__ = own.__code__.replace()
    return own


def untraced(function: Function) -> Function:
    """Return a function that Dynamo does not trace, wherever it is called.

    Args:
        function: the function.
    """
    disable: Any = torch.compiler.disable
    wrapped: Function = disable(function)
    return wrapped


@contextmanager
def compiling_anything() -> Iterator[None]:
    """Let Dynamo compile models of any kind; several threads may.

    Code that it fails to trace runs as it is, with a short warning in torch's log, in place of an error. Hooks that
    modules are given after the compilation run, too. The graphs of models in DistributedDataParallel stay whole. Models
    that share code, such as ``nn.Sequential``, do not use up a number of compilations that is common to all of them.
    """
    with _SHORT_WARNINGS, _SETTINGS_OF_ALL_THREADS if _shares_settings() else _settings():
        yield


@final
class _OfAllThreads:
    """A change of what all threads share: the first of those inside makes it, and the last one takes it back.

    If each thread took back its own, the last one would bring back what another had set.

    Args:
        change: makes the change, and takes it back at its exit.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self._change = change
        self._lock, self._inside, self._exit = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._exit.enter_context(self._change())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._exit.close()


@cache
def _shares_settings() -> bool:
    """Return whether threads share torch's settings, as they do in the oldest releases that are supported."""
    return not hasattr(_config_module, "ContextVar")


@contextmanager
def _settings() -> Iterator[None]:
    limits = {"accumulated_recompile_limit": sys.maxsize}
    if not _counts_apart():
        limits["recompile_limit"] = _RECOMPILATIONS_OF_ALL
    patch: Any = torch._dynamo.config.patch
    with patch(suppress_errors=True, skip_nnmodule_hook_guards=False, optimize_ddp=False, **limits):
        yield


@contextmanager
def _short_warnings() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch._dynamo.convert_frame", "torch._subclasses.fake_tensor")]
    for logger in loggers:
        logger.addFilter(_without_traceback)
    try:
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


_SHORT_WARNINGS: Final = _OfAllThreads(_short_warnings)
_SETTINGS_OF_ALL_THREADS: Final = _OfAllThreads(_settings)
