"""Compiles models into regions: the ``torch.compile`` backend, and the model of a sparse training in place."""

import copyreg
import functools
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, final

import torch
from torch import fx, nn

from sparsecore_torch._torch_internals.autograd import is_mode_active, is_tracing
from sparsecore_torch._torch_internals.compilation import compiled_apart, compiling_anything
from sparsecore_torch.sparse_training.regions.decisions import Decisions
from sparsecore_torch.sparse_training.regions.graph import Cut, cut
from sparsecore_torch.sparse_training.regions.transforms import check_untransformed
from sparsecore_torch.sparse_training.storage.scripting import refuse_script
from sparsecore_torch.sparse_training.storage.sparse_weights import cutting

_COMPILED = "_sparse_regions"
"""The attribute of a model that holds its compilation."""

# pickle uses its usual constructor only for an object's own class
_reconstructor: Any = copyreg._reconstructor  # type: ignore[attr-defined]


def sparsecore(module: fx.GraphModule, examples: Sequence[Any], **_: Any) -> Callable[..., Any]:
    """The backend of ``torch.compile(model, backend="sparsecore")``.

    Args:
        module: the graph, as Dynamo traced it.
        examples: the arguments that it was traced with.

    Returns:
        What computes the graph.
    """
    return cut(module, examples, Decisions()).module


@final
class CompiledModel:
    """Compiles the forward pass of a model into regions, in place, for one training of it or several.

    Args:
        model: whose class has the forward pass; its hooks and its state stay as they are.

    Attributes:
        decisions: whether the kernels compute the regions.
        cuts: the graphs that have been compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        # torch keeps what it has compiled as long as the class exists, and nothing of that may keep the model
        self._model = weakref.ref(model)
        self._forward: Callable[..., Any] = type(model).forward
        self._trainings = 0
        self.decisions = Decisions()
        self.cuts: list[Cut] = []

    @classmethod
    def of(cls, model: nn.Module) -> "CompiledModel":
        """The compilation that a model has by another training of it, or a new one, which is not installed."""
        found: CompiledModel | None = model.__dict__.get(_COMPILED)
        return cls(model) if found is None else found

    def install(self) -> None:
        """Let the model run in regions from now on, with the sparse tensors of one more training."""
        model: Any = self._model()
        if not self._trainings:
            model.__dict__[_COMPILED] = self
            cls: Any = type(model)
            model.__class__ = _compiled_class(cls)
        self._trainings += 1
        self._begin_anew()

    def uninstall(self) -> None:
        """Make the model what it was without one of the trainings."""
        self._trainings -= 1
        if self._trainings:
            self._begin_anew()
            return
        model: Any = self._model()
        del model.__dict__[_COMPILED]
        model.__class__ = type(model).__bases__[0]

    def _begin_anew(self) -> None:
        """Compile the model at its next call: other tensors are sparse now."""
        self.cuts.clear()
        cuts, decisions = self.cuts, self.decisions

        def cut_graph(module: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
            made = cut(module, examples, decisions)
            cuts.append(made)
            return made.module

        self._compiled = compiled_apart(self._forward, cut_graph)

    def runs(self, model: nn.Module) -> bool:
        """Return whether this is the model that was compiled, and no copy of it that has its attributes."""
        return self._model() is model

    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass; by its own code, where torch traces it."""
        if torch.compiler.is_compiling() or is_tracing():
            return self._forward(model, *args, **kwargs)
        check_untransformed()
        if is_mode_active():
            return self._forward(model, *args, **kwargs)
        with cutting(), compiling_anything():
            return self._compiled(model, *args, **kwargs)


def reduced_to(cls: type[nn.Module], attribute: str) -> Callable[[Any, Any], Any]:
    """Return a ``__reduce_ex__`` by which copies and pickles are of another class, without an attribute.

    Args:
        cls: the class of the copies, a base class of the module's.
        attribute: that the copies do not have.
    """

    def reduced(self: Any, protocol: Any) -> Any:
        reduce: Callable[..., Any] = cls.__reduce_ex__
        _, _, state, *rest = reduce(self, protocol)
        plain = {name: content for name, content in state.items() if name != attribute}
        return _reconstructor, (cls, object, None), plain, *rest

    return reduced


@cache
def _compiled_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class of models that run in regions; it has the name and the signature of their own class."""

    @functools.wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled: CompiledModel | None = self.__dict__.get(_COMPILED)
        if compiled is None or not compiled.runs(self):
            return cls.forward(self, *args, **kwargs)
        return compiled(self, *args, **kwargs)

    body = {
        "forward": forward,
        "__reduce_ex__": reduced_to(cls, _COMPILED),
        "__prepare_scriptable__": refuse_script,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    return type(cls.__name__, (cls,), body)
