"""Results that a region hands to another one in the kernels' layout, through autograd but without conversion."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecore_cpu.layer import buffer_of
from sparsecore_cpu.runtime import STORED, Buffer, Form
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch.sparse_training.regions.execution import Execution
from sparsecore_torch.sparse_training.regions.layouts import Layout

_CACHE_LINE = 64


class _Kept(np.ndarray[Any, np.dtype[Any]]):
    """The memory of a buffer, which stays out of the pool as long as a tensor has this memory."""

    buffer: Buffer


def tensor_of(buffer: Buffer) -> Tensor:
    """Return the memory of a buffer as a tensor, in the shape in which the kernels store it.

    Args:
        buffer: not written to as long as the tensor lives; the pool gets its memory back afterwards.

    Returns:
        Float32 or bfloat16, (blocks, rows, channels, columns, lanes).
    """
    kept = buffer.array.view(_Kept)
    kept.buffer = buffer
    tensor = torch.from_numpy(kept)
    return tensor.view(torch.bfloat16) if buffer.array.dtype == STORED else tensor


def buffer_with(tensor: Tensor, form: Form) -> Buffer:
    """Return the memory of a tensor as a buffer.

    Args:
        tensor: of the shape that :func:`tensor_of` returns for this form.
        form: of the buffer.
    """
    memory = tensor.detach().contiguous()
    if memory.data_ptr() % _CACHE_LINE:
        memory = memory.clone()
    array: NDArray[Any] = (memory.view(torch.int16) if memory.dtype is torch.bfloat16 else memory).numpy()
    return buffer_of(form, array.view(STORED) if memory.dtype is torch.bfloat16 else array)


@attrs.frozen(eq=False)
class Passed:
    """A result of a region that other regions of the same graph read.

    Attributes:
        tensor: the memory of the buffer, by which autograd knows the result; see :func:`tensor_of`.
        buffer: the data.
        shape: as torch sees it.
        layout: how the buffer stores it.
        dtype: of the tensor that torch would have.
        axes: the dimensions of that tensor in the order in which they lie in memory.
    """

    tensor: Tensor
    buffer: Buffer
    shape: tuple[int, ...]
    layout: Layout
    dtype: torch.dtype
    axes: tuple[int, ...]

    def suits(self, run: Execution) -> bool:
        """Return whether the kernels of an execution read numbers that are stored like these."""
        return run.stores(self.buffer)

    def unpacked(self, run: Execution) -> Tensor:
        """Return it as a tensor of torch's, differentiable.

        Args:
            run: has the kernels.
        """
        return _unpack(self.tensor, self, run)


class _Unpacked(torch.autograd.Function):
    """Data in the kernels' layout to a tensor of torch's; its gradient to one in the kernels' layout."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, passed: Passed, run: Execution) -> Tensor:  # noqa: ARG004
        ctx.passed, ctx.run = passed, run
        ctx.set_materialize_grads(False)
        return run.unpack(passed.buffer, passed.shape, passed.layout, passed.axes).to(passed.dtype)

    @staticmethod
    @untraced
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return None, None, None
        passed, run = ctx.passed, ctx.run
        packed = run.pack(gradient, passed.layout, passed.buffer.form.border)
        return tensor_of(packed), None, None


_unpack: Callable[[Tensor, Passed, Execution], Tensor] = _Unpacked.apply
