"""The gradients of all values of compact storage in one vector, in whose parts layers write theirs.

Without it autograd would join the gradients of all tensors into a new vector in each step.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecore_torch._torch_internals.autograd import is_batched
from sparsecore_torch._torch_internals.compilation import untraced

_MOST_FREE = 2
"""How many vectors are kept for reuse: one that is computed, and one that the optimizer reads."""


class _Vector(np.ndarray[Any, np.dtype[np.float32]]):
    """A vector whose memory is used again when nothing refers to it or its parts any more."""


class GradientMemory:
    """Vectors of the values' size, which are used again."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.float32]] = []

    def take(self, size: int) -> NDArray[np.float32]:
        """Return an uninitialized vector.

        Args:
            size: of the vector.
        """
        self._free = [one for one in self._free if one.size == size]
        memory = self._free.pop() if self._free else np.empty(size, np.float32)
        vector = memory.view(_Vector)
        weakref.finalize(vector, _give_back, self._free, memory).atexit = False
        return vector


def _give_back(free: list[NDArray[np.float32]], memory: NDArray[np.float32]) -> None:
    if len(free) < _MOST_FREE:
        free.append(memory)


class JoinedGradient:
    """The gradient of all values in one forward pass and its backward pass.

    Args:
        bounds: where the values of each tensor begin, and the number of all values.
        memory: of the vectors.
    """

    def __init__(self, bounds: Sequence[int], memory: GradientMemory) -> None:
        self.bounds = tuple(int(bound) for bound in bounds)
        self._memory = memory
        self._vector: NDArray[np.float32] | None = None
        self._parts: dict[int, NDArray[np.float32]] = {}

    def part(self, index: int) -> NDArray[np.float32] | None:
        """Return the memory for the gradient of a tensor; None where it has been given away before.

        Args:
            index: of the tensor.
        """
        if index in self._parts:
            return None
        if self._vector is None:
            self._vector = self._memory.take(self.bounds[-1])
        part = self._parts[index] = self._vector[self.bounds[index] : self.bounds[index + 1]]
        return part

    def join(self, gradients: Sequence[Tensor | None], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the gradient of all values.

        Args:
            gradients: of each tensor, (N_i,); None for zeros.
            dtype: of the values.
            device: of the values.
        """
        vector, self._vector = self._vector, None
        parts, self._parts = self._parts, {}
        if vector is None and all(map(_is_plain, gradients)) and (dtype, device.type) == (torch.float32, "cpu"):
            vector = self._memory.take(self.bounds[-1])
        # a layer whose gradient is not in its part may write there later, in another backward pass
        if vector is None or any(not _is_in(gradients[index], part) for index, part in parts.items()):
            sizes = np.diff(self.bounds)
            return torch.cat(
                [
                    torch.zeros(int(size), dtype=dtype, device=device) if gradient is None else gradient
                    for size, gradient in zip(sizes, gradients, strict=True)
                ]
            )
        joined = torch.from_numpy(vector)
        for index, gradient in enumerate(gradients):
            part = joined[self.bounds[index] : self.bounds[index + 1]]
            if gradient is None:
                part.zero_()
            elif index not in parts:
                part.copy_(gradient)
        return joined


class ForwardPass(threading.local):
    """The forward pass that runs in this thread: others may run beside it.

    Attributes:
        pieces: the values of each tensor, of one common split; none outside of forward passes.
        joined: the memory of their gradients; None outside of forward passes.
    """

    pieces: tuple[Tensor, ...] = ()
    joined: JoinedGradient | None = None


def _is_plain(gradient: Tensor | None) -> bool:
    """Whether the gradient is neither differentiated itself nor one of several at once."""
    return gradient is None or not (torch.is_grad_enabled() or is_batched(gradient))


def _is_in(gradient: Tensor | None, part: NDArray[np.float32]) -> bool:
    return gradient is not None and gradient.data_ptr() == part.ctypes.data


class _Split(torch.autograd.Function):
    """The values to those of each tensor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, joined: JoinedGradient) -> tuple[Tensor, ...]:
        ctx.joined = joined
        ctx.like = {"dtype": values.dtype, "device": values.device}
        ctx.set_materialize_grads(False)
        return tuple(values[first:last] for first, last in zip(joined.bounds, joined.bounds[1:], strict=False))

    @staticmethod
    @untraced  # Dynamo traces the backward pass, too, where a compiled function calls it
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        if all(gradient is None for gradient in gradients):
            return None, None
        return ctx.joined.join(gradients, **ctx.like), None


split: Callable[[Tensor, JoinedGradient], tuple[Tensor, ...]] = _Split.apply
"""From the values, (N,), to those of each tensor, (N_i,), whose gradients are joined once."""
