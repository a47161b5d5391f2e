"""One forward pass of a region: tensors in the kernels' layout, and what operations need to compute with them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, fx

from sparsecore.host.computation import NullTape, Tape
from sparsecore.host.weights import WeightView
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import STORED, Buffer, Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_torch.sparse_training.regions.layouts import ARRAYS, Layout
from sparsecore_torch.sparse_training.regions.weights import RegionInput, WeightUse, weight_use


@attrs.frozen(eq=False)
class KernelTensor:
    """A tensor in the kernels' layout.

    Attributes:
        activation: its data.
        shape: as torch sees it.
        layout: how the data are stored.
    """

    activation: Activation
    shape: tuple[int, ...]
    layout: Layout

    @property
    def needs_gradient(self) -> bool:
        """Whether it depends on anything whose gradient is asked for."""
        return self.activation.differentiable

    def constant(self) -> "KernelTensor":
        """Return it as one that depends on nothing whose gradient is asked for."""
        self.activation.differentiable = False
        return self

    def with_activation(self, activation: Activation) -> "KernelTensor":
        """Return another activation as a tensor of the same shape and layout.

        Args:
            activation: of the same form.
        """
        return attrs.evolve(self, activation=activation)


@cache
def _resources(threads: int, is_half: bool) -> tuple[Runtime, ListCache]:
    return Runtime.of(threads, STORED if is_half else np.float32), ListCache(threads)


class Execution:
    """One forward pass of a region.

    Args:
        is_differentiable: whether a backward pass may follow.
        is_half: whether images are stored as bfloat16, as under autocast.
        gives_all_gradients: whether the gradients of all positions are handed out where a strategy asks for them.

    Attributes:
        numbers: the arguments of the region that are no tensors, by their nodes.
    """

    def __init__(self, *, is_half: bool, is_differentiable: bool = False, gives_all_gradients: bool = False) -> None:
        self.threads = torch.get_num_threads()
        self.runtime, lists = _resources(self.threads, is_half)
        self.tape: Tape[Activation] = Tape() if is_differentiable else NullTape()
        self.ops = self._recording = CpuOperations(self.runtime, lists, self.tape, of_batch)
        self._constant = CpuOperations(self.runtime, lists, NullTape(), of_batch)
        self.weights: dict[tuple[int, tuple[int, ...] | None], WeightUse] = {}
        self.numbers: dict[fx.Node, Any] = {}
        self._gives_all_gradients = gives_all_gradients
        self._images = STORED if is_half else np.dtype(np.float32)
        self._packed: dict[tuple[int, Layout], KernelTensor] = {}

    def stores(self, buffer: Buffer) -> bool:
        """Return whether this execution stores such tensors in numbers of the same kind.

        Args:
            buffer: of an execution with perhaps other numbers.
        """
        dtype = np.float32 if buffer.form.features else self._images
        return bool(buffer.array.dtype == dtype)

    def computed(self, compute: Callable[..., Any], read: Sequence[Any], args: Any, kwargs: Any) -> Any:
        """Run an operation; nothing is recorded of one that depends on nothing whose gradient is asked for.

        Args:
            compute: the operation, called with the execution and its arguments.
            read: the values among its arguments.
            args: its arguments by position.
            kwargs: its arguments by name.

        Returns:
            Its result.
        """
        is_constant = not any(one.needs_gradient for one in read)
        self.ops = self._constant if is_constant else self._recording
        made = compute(self, *args, **kwargs)
        return made.constant() if is_constant and isinstance(made, KernelTensor) else made

    def images(self, value: Any, border: int = 1) -> KernelTensor:
        """Return a value as images, or as pixels if it is stored as these.

        Args:
            value: an input of the region, (N, C, H, W), or the result of an operation.
            border: the zero pixels around an image that its first reader needs.
        """
        return self._read(value, value.layout or Layout.IMAGES, border)

    def vectors(self, value: Any) -> KernelTensor:
        """Return a value as vectors.

        Args:
            value: an input of the region, (..., features), or the result of an operation.
        """
        return self._read(value, Layout.VECTORS, 0)

    def tensor(self, value: Any) -> KernelTensor:
        """Return a value in the layout in which the kernels have stored it.

        Args:
            value: the result of an operation of this region, or of another one.
        """
        return self._read(value, Layout.IMAGES if value.layout is None else value.layout, 1)

    def stored_as(self, value: Any, layout: Layout) -> KernelTensor:
        """Return a value in a given layout.

        Args:
            value: a tensor of torch's, or a result of the kernels in this layout.
            layout: the layout.
        """
        return self._read(value, layout, 1)

    def weight(self, value: RegionInput, shape: tuple[int, ...] | None = None) -> WeightView:
        """Return a Parameter as a weight of an operation.

        Args:
            value: an input of the region.
            shape: the shape that the operation takes it in; None for its own.
        """
        key = (id(value), shape)
        if key not in self.weights:
            self.weights[key] = weight_use(value, shape, gives_all_gradients=self._gives_all_gradients)
        return self.weights[key].view

    def pack(self, tensor: Tensor, layout: Layout, border: int = 1) -> Buffer:
        """Copy a tensor into a buffer of the kernels'.

        Args:
            tensor: on the CPU; it is rounded to float32.
            layout: how it is stored.
            border: the zero pixels around images.
        """
        form, array = ARRAYS[layout](tensor.detach().float(), border)
        buffer = self.runtime.buffers.take(form)
        self.runtime.kernels.pack(array, buffer.handle, self.threads)
        return buffer

    def unpack(self, buffer: Buffer, shape: Sequence[int], layout: Layout, axes: Sequence[int] = ()) -> Tensor:
        """Copy a buffer of the kernels' into a new tensor.

        Args:
            buffer: the data.
            shape: of the tensor.
            layout: how the buffer stores it.
            axes: the dimensions in the order in which they are to lie in memory; by default as they are.

        Returns:
            Float32, of this shape.
        """
        axes = axes or range(len(shape))
        ordered = torch.empty([shape[axis] for axis in axes], dtype=torch.float32)
        tensor = ordered.permute([axes.index(axis) for axis in range(len(axes))])
        # the memory of vectors can be described to the kernels only where it is contiguous
        is_described = layout is Layout.IMAGES or tensor.is_contiguous()
        written = tensor if is_described else torch.empty(tuple(shape), dtype=torch.float32)
        _, array = ARRAYS[layout](written, 0)
        self.runtime.kernels.unpack(buffer.handle, array, self.threads)
        return tensor if written is tensor else tensor.copy_(written)

    def packed_gradient_of(self, value: RegionInput) -> Buffer | None:
        """Return the gradient of an input that another region has passed on, in the kernels' layout.

        Args:
            value: an input of the region, after the backward pass.

        Returns:
            Not to be written to, and perhaps that of a result as well; None where no result depends on the input.
        """
        read = [one for layout in Layout if (one := self._packed.get((id(value), layout))) is not None]
        if not read or not read[0].activation.has_gradient:
            return None
        return read[0].activation.gradient.total(self.runtime, read[0].activation.form)

    def gradient_of(self, value: RegionInput) -> Tensor | None:
        """Return the gradient of an input that is read as an activation, once for each layout that it is read in.

        Args:
            value: an input of the region, after the backward pass.

        Returns:
            Float32, of the shape of the input; None where no result depends on it.
        """
        total: Tensor | None = None
        is_channels_last = value.tensor.ndim == 4 and value.tensor.is_contiguous(memory_format=torch.channels_last)
        axes = (0, 2, 3, 1) if is_channels_last else ()
        for layout in Layout:
            read = self._packed.get((id(value), layout))
            if read is not None and read.activation.has_gradient:
                buffer = read.activation.gradient.total(self.runtime, read.activation.form)
                own = self.unpack(buffer, read.shape, layout, axes)
                total = own if total is None else total.add_(own)
        return total

    def _read(self, value: Any, layout: Layout, border: int) -> KernelTensor:
        if not isinstance(value, RegionInput):
            made: KernelTensor = value
            return made
        key = (id(value), layout)
        if key not in self._packed:
            buffer = self.pack(value.tensor, layout, border) if value.buffer is None else value.buffer
            activation = Activation(self.runtime, buffer.form, InputNode(buffer), value.needs_gradient)
            self._packed[key] = KernelTensor(activation, value.shape, layout)
        return self._packed[key]
