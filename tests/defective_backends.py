"""Backends with a defect, made from sound ones: how the mutants of the backends register theirs."""

from collections.abc import Callable
from typing import Any, ClassVar

import attrs

Mutants = dict[str, tuple[Callable[[], Any], str]]
"""A function that makes the backend of each defect and the promise that it breaks, by a description of the defect."""


class Wrapper:
    """Passes every attribute on that a subclass does not override."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@attrs.frozen(eq=False)
class DefectiveBackend:
    """A sound backend with other array operations, another learner or another task.

    Attributes:
        sound: makes the backend for a dtype.
        dtype: in which it trains.
        wrap_arrays: returns the array operations in place of the sound ones.
        wrap_learner: returns the learner in place of a sound one.
        change_task: returns the task in place of the one that is given.
    """

    sound: Callable[[str], Any]
    dtype: str = "float32"
    wrap_arrays: Any = lambda arrays: arrays
    wrap_learner: Any = lambda learner: learner
    change_task: Any = lambda task: task
    corrects_young_weights: ClassVar[bool] = True

    @property
    def arrays(self) -> Any:
        return self.wrap_arrays(self.sound(self.dtype).arrays)

    def learner(self, task: Any) -> Any:
        return self.wrap_learner(self.sound(self.dtype).learner(self.change_task(task)))


@attrs.frozen
class _Model:
    """A model that is computed by other operations; equal where the model and the operations are."""

    inner: Any
    operations: type

    def forward(self, ops: Any, parameters: Any, images: Any) -> Any:
        return self.inner.forward(self.operations(ops), parameters, images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@attrs.frozen(eq=False)
class Defects:
    """The defects of one backend, which decorators register.

    Attributes:
        sound: makes the backend without defects for a dtype.
        mutants: the defective ones.
    """

    sound: Callable[[str], Any]
    mutants: Mutants = attrs.field(factory=dict)

    def array_operation(self, description: str, promise: str) -> Callable[[type], type]:
        """Register array operations, which wrap the sound ones."""
        return lambda cls: self._registered(cls, description, promise, wrap_arrays=cls)

    def training(self, description: str, promise: str) -> Callable[[type], type]:
        """Register a learner, which wraps the sound one."""
        return lambda cls: self._registered(cls, description, promise, wrap_learner=cls)

    def operations(self, description: str, promise: str) -> Callable[[type], type]:
        """Register operations of models, which wrap the sound ones."""

        def change(cls: type) -> Callable[[Any], Any]:
            return lambda task: attrs.evolve(task, model=_Model(task.model, cls))

        return lambda cls: self._registered(cls, description, promise, change_task=change(cls))

    def task(self, description: str, promise: str, change: Callable[[Any], Any]) -> None:
        """Register a change of the tasks that learners are made for."""
        self.mutants[description] = (lambda: DefectiveBackend(self.sound, change_task=change), promise)

    def _registered(self, cls: type, description: str, promise: str, **wrappers: Any) -> type:
        self.mutants[description] = (lambda: DefectiveBackend(self.sound, **wrappers), promise)
        return cls
