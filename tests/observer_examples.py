"""Observers for tests, and small trainings that they observe."""

from typing import Any

import attrs
from sparsify_examples import mlp, often, sgd
from torch import nn

from sparsecore.observers import Observer
from sparsecore_torch import sparsify


@attrs.define(eq=False)
class Recorder(Observer):
    """Keeps what it is called with; raises an error in the methods that ``failing`` names."""

    itop: bool = False
    failing: tuple[str, ...] = ()
    saved: dict[str, str] = attrs.field(factory=dict)
    calls: list[tuple[str, Any]] = attrs.field(factory=list)

    def _called(self, method: str, argument: Any = None) -> None:
        self.calls.append((method, argument))
        if method in self.failing:
            raise RuntimeError(f"no {method} today")

    def started(self, start: Any) -> None:
        self._called("started", start)

    def reallocated(self, update: Any) -> None:
        self._called("reallocated", update)

    def measured(self, step: int, metrics: Any) -> None:
        self._called("measured", (step, metrics))

    def state(self) -> dict[str, str]:
        return self.saved

    def ended(self) -> None:
        self._called("ended")

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]

    @property
    def updates(self) -> list[Any]:
        return [argument for method, argument in self.calls if method == "reallocated"]

    @property
    def starts(self) -> list[Any]:
        return [argument for method, argument in self.calls if method == "started"]


def started(*observers: Observer, **options: Any) -> tuple[nn.Module, Any, Any]:
    """A model, its optimizer and its training, with an update every two steps."""
    model = mlp()
    optimizer = sgd(model)
    given = {"strategy": often(), "sparsity": 0.75, "include": "*weight", "seed": 3, **options}
    training = sparsify(model, optimizer, **given)
    for observer in observers:
        training.observe(observer)
    return model, optimizer, training
