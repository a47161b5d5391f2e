"""Reverse-mode gradients: operations are noted as they run, and undone in the opposite order."""

from collections.abc import Callable
from typing import Any, Protocol

import attrs
from numpy.typing import NDArray

Backward = Callable[[NDArray[Any]], None]


@attrs.define(eq=False, weakref_slot=False)
class Tensor:
    """An activation, and during the backward pass the loss's gradient for it.

    Attributes:
        data: images (batch, height, width, channels) or vectors (batch, features); never written to again.
        differentiable: False for the network's input, whose gradient nobody needs.
        gradient: of the shape of ``data``; None while no operation has contributed. Never written to once it is here,
            because several tensors may share it.
    """

    data: NDArray[Any]
    differentiable: bool = True
    gradient: NDArray[Any] | None = None


class Recorder(Protocol):
    """What becomes of the operations' gradients."""

    def record(self, output: Tensor, backward: Backward) -> None:
        """Note that ``backward`` takes the gradient of ``output`` on to the operation's inputs."""
        ...


class Forgetful:
    """Remembers nothing: evaluation, where an activation may go as soon as the model has no use for it."""

    def record(self, output: Tensor, backward: Backward) -> None:
        """Nothing."""


class Tape:
    """Remembers one training step."""

    def __init__(self) -> None:
        self._steps: list[tuple[Tensor, Backward]] = []

    def record(self, output: Tensor, backward: Backward) -> None:
        """See :class:`Recorder`."""
        self._steps.append((output, backward))

    def backward(self, output: Tensor, gradient: NDArray[Any]) -> None:
        """Take the gradient of ``output`` back through all that was recorded; the tape is empty afterwards."""
        output.gradient = gradient
        while self._steps:
            tensor, step = self._steps.pop()
            if tensor.gradient is not None:
                step(tensor.gradient)
                tensor.gradient = None  # its memory serves the operations before it
            del tensor, step
