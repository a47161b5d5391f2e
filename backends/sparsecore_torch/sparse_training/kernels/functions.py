"""The kernels of ``sparsecore_cpu`` as autograd functions on torch's tensors, for convolutions and linear layers.

The kernels' own layout of a batch is (blocks, height + border, channels, width + border, lanes). A batch is copied once
each way, except for a batch of features that is stored transposed already and fills its blocks.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsecore_cpu._kernels import Activation, Kernels
from sparsecore_cpu.layer import Layer, buffer_of
from sparsecore_cpu.runtime import Buffer, Floats, Form
from sparsecore_cpu.window import Padding, Window
from sparsecore_torch._torch_internals.compilation import untraced
from sparsecore_torch._torch_internals.modules import convolution_padding
from sparsecore_torch.sparse_training.regions.transforms import check_first_order
from sparsecore_torch.sparse_training.storage.sparse_weights import SparseWeight

_CACHE_LINE = 64

Run = Callable[[Tensor], Tensor]
"""From a batch to the outputs of a layer."""


class LayerKind(Protocol):
    """A kind of module that the kernels can compute."""

    def supports(self, module: Any, x: Tensor) -> bool:
        """Return whether the kernels compute inputs of this shape; the module itself computes all others.

        Args:
            module: the module.
            x: its input, a float32 tensor on the CPU.
        """
        ...

    def layer(self, module: Any, indices: NDArray[np.int64]) -> Layer:
        """Make the kernels' layer of a module.

        Args:
            module: the module.
            indices: of the active weights in the flat weight tensor, ascending, (N_i,).
        """
        ...

    def run(self, x: Tensor, run: Run) -> Tensor:
        """Return the output in the shape in which the module returns it.

        Args:
            x: the module's input.
            run: from a batch (examples, features...) to the outputs of the batch.
        """
        ...

    def pack(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """Copy a batch into the kernels' layout.

        Args:
            x: the batch, (images, channels, height, width) or (vectors, features).
            form: of the result.
            kernels: those of this processor.

        Returns:
            Zero on the border, and in the lanes beyond the batch; it may share memory with a batch that is stored so
            already.
        """
        ...

    def unpack(
        self, buffer: Tensor, form: Form, bias: Tensor | None, memory_format: torch.memory_format, kernels: Kernels
    ) -> Tensor:
        """Copy a batch out of the kernels' layout.

        Args:
            buffer: in the kernels' layout.
            form: of the buffer.
            bias: added by channel, (channels,).
            memory_format: of the result, where that has several.
            kernels: those of this processor.
        """
        ...


@attrs.frozen(eq=False)
class Convolutions:
    """nn.Conv2d, of one image or a batch of images (images, channels, height, width) in any strides.

    Attributes:
        kernels: those of this processor.
    """

    kernels: Kernels

    def supports(self, module: nn.Conv2d, x: Tensor) -> bool:
        """Return whether the kernels compute these images.

        Returns:
            False for an empty batch, images of other channels, and images that the kernel does not fit into.
        """
        if x.ndim not in {3, 4} or x.shape[-3] != module.in_channels or x.numel() == 0:
            return False
        height, width = (int(side) for side in x.shape[-2:])
        return min(_window(module).outputs((height, width), _pair(module.kernel_size))) > 0

    def layer(self, module: nn.Conv2d, indices: NDArray[np.int64]) -> Layer:
        """Make the kernels' convolution."""
        shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        return Layer.conv2d(self.kernels, shape, indices, _window(module))

    def run(self, x: Tensor, run: Run) -> Tensor:
        """Run a batch of images, or one image as a batch of one."""
        return run(x) if x.ndim == 4 else run(x[None])[0]

    def pack(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """Copy images into the kernels' layout."""
        buffer = _with_zero_border(torch.empty(form.shape(kernels.lanes), dtype=torch.float32), form.border)
        kernels.pack(x.permute(0, 2, 3, 1).numpy(), _activation(form, buffer), torch.get_num_threads())
        return buffer

    def unpack(
        self, buffer: Tensor, form: Form, bias: Tensor | None, memory_format: torch.memory_format, kernels: Kernels
    ) -> Tensor:
        """Copy images out of the kernels' layout.

        Returns:
            A new tensor, (images, channels, height, width), in this memory format.
        """
        shape = (form.images, form.channels, form.height, form.width)
        images = torch.empty(shape, dtype=torch.float32, memory_format=memory_format)
        kernels.unpack(_activation(form, buffer), images.permute(0, 2, 3, 1).numpy(), torch.get_num_threads())
        return images if bias is None else images.add_(bias[:, None, None])


@attrs.frozen(eq=False)
class LinearLayers:
    """nn.Linear, of feature vectors in any number of dimensions.

    Attributes:
        kernels: those of this processor.
    """

    kernels: Kernels

    def supports(self, module: nn.Linear, x: Tensor) -> bool:
        """Return whether the kernels compute these vectors.

        Returns:
            False where there are none, or they have another length.
        """
        return x.ndim > 0 and x.shape[-1] == module.in_features and x.numel() > 0

    def layer(self, module: nn.Linear, indices: NDArray[np.int64]) -> Layer:
        """Make the kernels' matrix product."""
        return Layer.linear(self.kernels, (module.out_features, module.in_features), indices)

    def run(self, x: Tensor, run: Run) -> Tensor:
        """Run all vectors as one batch (batch, features)."""
        return run(x) if x.ndim == 2 else run(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    def pack(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """Copy vectors into the kernels' layout.

        Returns:
            A view where they are stored so: transposed, from the start of a cache line on, and as many as fill all
            lanes.
        """
        shape = form.shape(kernels.lanes)
        by_feature = x.t()
        fills_blocks = len(x) == shape[3] * shape[4]
        if fills_blocks and by_feature.is_contiguous() and x.data_ptr() % _CACHE_LINE == 0:
            return by_feature.view(shape)
        buffer = torch.empty(shape, dtype=torch.float32)
        kernels.pack(x[:, None, None].numpy(), _activation(form, buffer), torch.get_num_threads())
        return buffer

    def unpack(
        self,
        buffer: Tensor,
        form: Form,
        bias: Tensor | None,
        memory_format: torch.memory_format,  # noqa: ARG002
        kernels: Kernels,
    ) -> Tensor:
        """Copy vectors out of the kernels' layout; contiguous, as users of linear layers expect."""
        vectors = torch.empty(form.images, form.channels, dtype=torch.float32)
        kernels.unpack(_activation(form, buffer), vectors[:, None, None].numpy(), torch.get_num_threads())
        return vectors if bias is None else vectors.add_(bias)


def _window(module: nn.Conv2d) -> Window:
    left, right, top, bottom = convolution_padding(module)
    padding = Padding(top, bottom, left, right)
    return Window(_pair(module.stride), padding, _pair(module.dilation), module.groups)


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    height, width = sides
    return height, width


def _memory_format_of(x: Tensor) -> torch.memory_format:
    """Channels last if the tensor is stored so, and is not contiguous as well."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _with_zero_border(buffer: Tensor, border: int) -> Tensor:
    if border:
        for rows in (buffer[:, :border], buffer[:, -border:]):
            rows.zero_()
        for columns in (buffer[:, border:-border, :, :border], buffer[:, border:-border, :, -border:]):
            columns.zero_()
    return buffer


def _activation(form: Form, buffer: Tensor) -> Activation:
    return buffer_of(form, buffer.numpy()).handle


@attrs.frozen(eq=False)
class Computation:
    """The computation of one module, as long as its weights stay at their positions.

    Attributes:
        layer: the kernels' layer.
        kind: of the module.
    """

    layer: Layer
    kind: LayerKind

    def pack(self, batch: Tensor, form: Form) -> Tensor:
        """Copy a batch into the kernels' layout.

        Args:
            batch: float32, on the CPU, in any strides.
            form: of the result.

        Returns:
            Of the shape ``form.shape(lanes)``; it may share the batch's memory.
        """
        return self.kind.pack(batch.detach(), form, self.layer.kernels)

    def unpack(
        self, write: Callable[[Buffer], None], form: Form, bias: Tensor | None, memory_format: torch.memory_format
    ) -> Tensor:
        """Return, as a batch, what a function writes in the kernels' layout.

        Args:
            write: writes a buffer, which is not initialized.
            form: of the buffer.
            bias: added by channel, (channels,); or None.
            memory_format: of the result, where that has several.
        """
        buffer = torch.empty(form.shape(self.layer.kernels.lanes), dtype=torch.float32)
        write(buffer_of(form, buffer.numpy()))
        return self.kind.unpack(buffer, form, bias, memory_format, self.layer.kernels)


class _SparseLayer(torch.autograd.Function):
    """A batch, N_i values and a bias to outputs; the gradient of the outputs to those of the three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, computation: Computation) -> Tensor:
        layer, threads = computation.layer, torch.get_num_threads()
        forms = layer.forms(len(x), *x.shape[2:])
        packed = computation.pack(x, forms.x)
        # the batch is kept in the kernels' layout, so that it is copied once
        ctx.save_for_backward(packed if ctx.needs_input_grad[1] else None, values)
        ctx.computation, ctx.forms, ctx.memory_format = computation, forms, _memory_format_of(x)
        given, entries = buffer_of(forms.x, packed.numpy()), values.detach().numpy()
        return computation.unpack(
            lambda out: layer.forward(given, entries, out, threads), forms.out, bias, ctx.memory_format
        )

    @staticmethod
    @untraced  # Dynamo traces the backward pass, too, where a compiled function calls it
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        check_first_order(gradient)
        *needed, needs_bias, _ = ctx.needs_input_grad
        by_bias = gradient.sum([0, *range(2, gradient.ndim)]) if needs_bias else None
        by_x, by_values = _GRADIENTS[tuple(needed)](_BackwardPass.of(ctx, gradient))
        return by_x, by_values, by_bias, None


@attrs.frozen(eq=False)
class _BackwardPass:
    """The inputs of a backward pass.

    Attributes:
        layer: the kernels' layer.
        x: the batch in the kernels' layout; None where it was not kept.
        values: of the active weights.
        gradient: of the outputs, in the kernels' layout.
        threads: how many compute.
        unpack: returns, as a batch, the gradient of the batch that a function writes.
    """

    layer: Layer
    x: Buffer | None
    values: Floats
    gradient: Buffer
    threads: int
    unpack: Callable[[Callable[[Buffer], None]], Tensor]

    @property
    def batch(self) -> Buffer:
        """The batch in the kernels' layout, which is kept where the gradient of the values is needed."""
        if self.x is None:
            raise RuntimeError("the batch was not kept for the gradient of the values")
        return self.x

    @classmethod
    def of(cls, ctx: Any, gradient: Tensor) -> "_BackwardPass":
        computation, forms = ctx.computation, ctx.forms
        x, values = ctx.saved_tensors  # read once: with checkpoints, reading them computes them again
        return cls(
            computation.layer,
            None if x is None else buffer_of(forms.x, x.numpy()),
            values.detach().numpy(),
            buffer_of(forms.gradient, computation.pack(gradient, forms.gradient).numpy()),
            torch.get_num_threads(),
            lambda write: computation.unpack(write, forms.x_gradient, None, ctx.memory_format),
        )


Gradients = tuple[Tensor | None, Tensor | None]
"""The gradients of the batch and of the values."""


def _of_both(of: _BackwardPass) -> Gradients:
    listed: list[Floats] = []
    layer, x = of.layer, of.batch
    by_x = of.unpack(lambda out: listed.append(layer.backward(x, of.gradient, of.values, out, of.threads)))
    return by_x, torch.from_numpy(listed[0])


def _of_batch(of: _BackwardPass) -> Gradients:
    return of.unpack(lambda out: of.layer.backward_input(of.gradient, of.values, out, of.threads)), None


def _of_values(of: _BackwardPass) -> Gradients:
    return None, torch.from_numpy(of.layer.backward_weight(of.batch, of.gradient, of.threads))


_GRADIENTS: Mapping[tuple[bool, ...], Callable[[_BackwardPass], Gradients]] = MappingProxyType(
    {
        (True, True): _of_both,
        (True, False): _of_batch,
        (False, True): _of_values,
        (False, False): lambda _: (None, None),
    }
)
"""Computes the gradients, by whether those of the batch and of the values are needed."""


class _ActiveWeights(torch.autograd.Function):
    """A dense weight to its N_i active values; their gradient to a dense one, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, declared: SparseWeight) -> Tensor:
        ctx.save_for_backward(weight)  # for autograd's check that nothing has written to it
        ctx.declared = declared
        return declared.entries(weight)

    @staticmethod
    @untraced
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return ctx.declared.add_to(weight, None, gradient), None


sparse_layer: Callable[[Tensor, Tensor, Tensor | None, Computation], Tensor] = _SparseLayer.apply
"""From a batch, the N_i values, a bias and what the layer computes to its outputs; differentiable once."""

active_weights: Callable[[Tensor, SparseWeight], Tensor] = _ActiveWeights.apply
"""From a dense weight and what it is declared to be to its active values, (N_i,); differentiable once."""
