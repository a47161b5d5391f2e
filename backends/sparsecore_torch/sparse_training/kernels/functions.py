"""The kernels as autograd functions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsecore.errors import InputError
from sparsecore_cpu import _kernels
from sparsecore_cpu._kernels import Activation, Kernels
from sparsecore_cpu.layer import Layer, Padding, buffer_of
from sparsecore_cpu.runtime import Buffer, Floats, Form
from sparsecore_torch._torch_internals import convolution_padding, is_batched
from sparsecore_torch.arrays import gather, scatter

_CACHE_LINE = 64


class Layout(Protocol):
    """How a batch lies."""

    def packed(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """The batch as the kernels read it: zero on the border, and in the lanes beyond the batch."""
        ...

    def unpacked(
        self, buffer: Tensor, form: Form, bias: Tensor | None, order: torch.memory_format, kernels: Kernels
    ) -> Tensor:
        """The batch, plus a bias by channel, in this memory format where it has one."""
        ...


class Images:
    """(images, channels, height, width), contiguous or channels last or however else."""

    def packed(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """See :class:`Layout`."""
        buffer = _without_border(torch.empty(form.shape(kernels.lanes)), form.border)
        kernels.pack(x.permute(0, 2, 3, 1).numpy(), _handle(form, buffer), torch.get_num_threads())
        return buffer

    def unpacked(
        self, buffer: Tensor, form: Form, bias: Tensor | None, order: torch.memory_format, kernels: Kernels
    ) -> Tensor:
        """See :class:`Layout`."""
        shape = (form.images, form.channels, form.height, form.width)
        images = torch.empty(shape, memory_format=order)
        kernels.unpack(_handle(form, buffer), images.permute(0, 2, 3, 1).numpy(), torch.get_num_threads())
        return images if bias is None else images.add_(bias[:, None, None])


class Features:
    """(batch, features)."""

    def packed(self, x: Tensor, form: Form, kernels: Kernels) -> Tensor:
        """See :class:`Layout`."""
        shape = form.shape(kernels.lanes)
        by_feature = x.t()
        whole = len(x) == shape[3] * shape[4]
        if whole and by_feature.is_contiguous() and x.data_ptr() % _CACHE_LINE == 0:
            return by_feature.view(shape)
        buffer = torch.empty(shape)
        kernels.pack(x[:, None, None].numpy(), _handle(form, buffer), torch.get_num_threads())
        return buffer

    def unpacked(
        self,
        buffer: Tensor,
        form: Form,
        bias: Tensor | None,
        order: torch.memory_format,  # noqa: ARG002
        kernels: Kernels,
    ) -> Tensor:
        """See :class:`Layout`; contiguous, as whoever reshapes the outputs of a linear layer expects."""
        vectors = torch.empty(form.images, form.channels)
        kernels.unpack(_handle(form, buffer), vectors[:, None, None].numpy(), torch.get_num_threads())
        return vectors if bias is None else vectors.add_(bias)


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last if that is what it lies in, and it is not contiguous as well."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _without_border(buffer: Tensor, border: int) -> Tensor:
    """The buffer, with zeros on its border."""
    if border:
        for rows in (buffer[:, :border], buffer[:, -border:]):
            rows.zero_()
        for columns in (buffer[:, border:-border, :, :border], buffer[:, border:-border, :, -border:]):
            columns.zero_()
    return buffer


def _handle(form: Form, buffer: Tensor) -> Activation:
    return buffer_of(form, buffer.numpy()).handle


@attrs.frozen(eq=False)
class Computation:
    """What one layer computes while its weights stay where they are.

    Attributes:
        layer: on the kernels' buffers.
        layout: of torch's batches.
    """

    layer: Layer
    layout: Layout

    def packed(self, batch: Tensor, form: Form) -> Tensor:
        """The batch as the kernels read it."""
        return self.layout.packed(batch.detach(), form, self.layer.kernels)

    def unpacked(
        self, write: Callable[[Buffer], None], form: Form, bias: Tensor | None, order: torch.memory_format
    ) -> Tensor:
        """What ``write`` writes, as a batch."""
        buffer = torch.empty(form.shape(self.layer.kernels.lanes))
        write(buffer_of(form, buffer.numpy()))
        return self.layout.unpacked(buffer, form, bias, order, self.layer.kernels)


class _Through(torch.autograd.Function):
    """A batch, N_i values and a bias to outputs; the gradient of these to those of the three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, computation: Computation) -> Tensor:
        layer, threads = computation.layer, torch.get_num_threads()
        forms = layer.forms(len(x), *x.shape[2:])
        packed = computation.packed(x, forms.x)
        # the batch is kept as the kernels read it, so that it is laid out once
        ctx.save_for_backward(packed if ctx.needs_input_grad[1] else None, values)
        ctx.computation, ctx.forms, ctx.order = computation, forms, memory_format(x)
        given, entries = buffer_of(forms.x, packed.numpy()), values.detach().numpy()
        return computation.unpacked(lambda out: layer.forward(given, entries, out, threads), forms.out, bias, ctx.order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        _check_once(gradient)
        *needed, needs_bias, _ = ctx.needs_input_grad
        by_bias = gradient.sum([0, *range(2, gradient.ndim)]) if needs_bias else None
        by_x, by_values = _WAYS[tuple(needed)](_Pass.of(ctx, gradient))
        return by_x, by_values, by_bias, None


@attrs.frozen(eq=False)
class _Pass:
    """What a backward pass goes by.

    Attributes:
        layer: the kernels'.
        x: the batch as they read it; None where it was not kept.
        values: of the weights.
        gradient: the outputs', as they read it.
        threads: how many compute.
        unpacked: the batch's gradient that a function writes.
    """

    layer: Layer
    x: Buffer | None
    values: Floats
    gradient: Buffer
    threads: int
    unpacked: Callable[[Callable[[Buffer], None]], Tensor]

    @property
    def batch(self) -> Buffer:
        """The batch as the kernels read it, where the gradient of the values is asked for."""
        if self.x is None:
            raise RuntimeError("the batch was not kept for the gradient of the values")
        return self.x

    @classmethod
    def of(cls, ctx: Any, gradient: Tensor) -> "_Pass":
        computation, forms = ctx.computation, ctx.forms
        x, values = ctx.saved_tensors  # once: with checkpoints, this is what computes them again
        return cls(
            computation.layer,
            None if x is None else buffer_of(forms.x, x.numpy()),
            values.detach().numpy(),
            buffer_of(forms.gradient, computation.packed(gradient, forms.gradient).numpy()),
            torch.get_num_threads(),
            lambda write: computation.unpacked(write, forms.x_gradient, None, ctx.order),
        )


Gradients = tuple[Tensor | None, Tensor | None]
"""Of the batch and of the values."""


def _of_both(of: _Pass) -> Gradients:
    listed: list[Floats] = []
    layer, x = of.layer, of.batch
    by_x = of.unpacked(lambda out: listed.append(layer.backward(x, of.gradient, of.values, out, of.threads)))
    return by_x, torch.from_numpy(listed[0])


def _of_batch(of: _Pass) -> Gradients:
    return of.unpacked(lambda out: of.layer.backward_input(of.gradient, of.values, out, of.threads)), None


def _of_values(of: _Pass) -> Gradients:
    return None, torch.from_numpy(of.layer.backward_weight(of.batch, of.gradient, of.threads))


_WAYS: Mapping[tuple[bool, ...], Callable[[_Pass], Gradients]] = MappingProxyType(
    {
        (True, True): _of_both,
        (True, False): _of_batch,
        (False, True): _of_values,
        (False, False): lambda _: (None, None),
    }
)
"""By whether the gradients of the batch and of the values are needed."""


class _Existing(torch.autograd.Function):
    """A dense weight to the N_i values where weights are; their gradient to a dense one, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(weight, places)  # the weight for autograd's check that nobody has written to it
        return gather(weight, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        weight, places = ctx.saved_tensors
        return scatter(gradient, places, weight.shape), None


def _check_once(gradient: Tensor) -> None:
    if is_batched(gradient):
        raise InputError(
            "layers that run through the sparse kernels compute one backward pass at a time, and this one is of "
            "several at once (is_grads_batched=True, vectorize=True); take kernels='dense', or one gradient at a time"
        )
    if torch.is_grad_enabled():
        raise InputError(
            "layers that run through the sparse kernels can be differentiated once, and this backward pass is to be "
            "differentiated itself (create_graph=True); take kernels='dense' for second derivatives"
        )


through: Callable[[Tensor, Tensor, Tensor | None, Computation], Tensor] = _Through.apply
existing: Callable[[Tensor, Tensor], Tensor] = _Existing.apply


Run = Callable[[Tensor], Tensor]


class Kind(Protocol):
    """Of module."""

    def takes(self, module: Any, x: Tensor) -> bool:
        """Whether the shape is one that the kernels compute; whatever they do not is left to the module itself."""
        ...

    def computation(self, module: Any, within: NDArray[np.int64]) -> Computation:
        """What the module computes with weights at these positions of its tensor."""
        ...

    def run(self, x: Tensor, run: Run) -> Tensor:
        """The output in the shape that the module gives; ``run`` takes a batch."""
        ...


@attrs.frozen(eq=False)
class Convolutions:
    """nn.Conv2d, of one image or a batch."""

    kernels: _kernels.Kernels

    def takes(self, module: nn.Conv2d, x: Tensor) -> bool:
        """See :class:`Kind`."""
        if x.ndim not in {3, 4} or x.shape[-3] != module.in_channels or x.numel() == 0:
            return False
        padding = _padding(module)
        height, width = (int(side) for side in x.shape[-2:])
        return (
            height + padding.top + padding.bottom >= module.kernel_size[0]
            and width + padding.left + padding.right >= module.kernel_size[1]
        )

    def computation(self, module: nn.Conv2d, within: NDArray[np.int64]) -> Computation:
        """See :class:`Kind`."""
        shape = (module.out_channels, module.in_channels, *module.kernel_size)
        return Computation(Layer.conv2d(self.kernels, shape, within, module.stride[0], _padding(module)), Images())

    def run(self, x: Tensor, run: Run) -> Tensor:
        """See :class:`Kind`."""
        return run(x) if x.ndim == 4 else run(x[None])[0]


@attrs.frozen(eq=False)
class LinearLayers:
    """nn.Linear, of vectors in any number of dimensions."""

    kernels: _kernels.Kernels

    def takes(self, module: nn.Linear, x: Tensor) -> bool:
        """See :class:`Kind`."""
        return x.ndim > 0 and x.shape[-1] == module.in_features and x.numel() > 0

    def computation(self, module: nn.Linear, within: NDArray[np.int64]) -> Computation:
        """See :class:`Kind`."""
        shape = (module.out_features, module.in_features)
        return Computation(Layer.linear(self.kernels, shape, within), Features())

    def run(self, x: Tensor, run: Run) -> Tensor:
        """See :class:`Kind`."""
        return run(x) if x.ndim == 2 else run(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _padding(module: nn.Conv2d) -> Padding:
    """Also where it has a name, 'same' or 'valid'."""
    left, right, top, bottom = convolution_padding(module)
    return Padding(top, bottom, left, right)
