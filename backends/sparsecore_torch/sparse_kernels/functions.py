"""The kernels as autograd functions."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsecore.errors import InputError
from sparsecore_cpu.layer import Forms, Layer, buffer_of
from sparsecore_cpu.machine import Buffer, Form
from sparsecore_torch.materialize import gather, scatter
from sparsecore_torch.sparse_kernels.layouts import Layout, memory_format


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
        return self.layout.packed(batch.detach(), form, self.layer.kernels.lanes)

    def unpacked(
        self, write: Callable[[Buffer], None], form: Form, bias: Tensor | None, order: torch.memory_format
    ) -> Tensor:
        """What ``write`` writes, as a batch."""
        buffer = torch.empty(form.shape(self.layer.kernels.lanes))
        write(buffer_of(form, buffer.numpy()))
        return self.layout.unpacked(buffer, form, bias, order)


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
        _check_once()
        needs_x, needs_values, needs_bias, _ = ctx.needs_input_grad
        x, values = ctx.saved_tensors
        given = _Gradient.of(ctx.computation, ctx.forms, gradient) if needs_x or needs_values else None
        return (
            given.of_x(values, ctx.order) if given and needs_x else None,
            given.of_values(x) if given and needs_values else None,
            gradient.sum([0, *range(2, gradient.ndim)]) if needs_bias else None,
            None,
        )


@attrs.frozen(eq=False)
class _Gradient:
    """Of the outputs, as the kernels read it."""

    computation: Computation
    forms: Forms
    buffer: Buffer
    threads: int = attrs.field(factory=torch.get_num_threads)

    @classmethod
    def of(cls, computation: Computation, forms: Forms, gradient: Tensor) -> "_Gradient":
        packed = computation.packed(gradient, forms.gradient)
        return cls(computation, forms, buffer_of(forms.gradient, packed.numpy()))

    def of_x(self, values: Tensor, order: torch.memory_format) -> Tensor:
        entries = values.detach().numpy()
        return self.computation.unpacked(
            lambda out: self.computation.layer.backward_input(self.buffer, entries, out, self.threads),
            self.forms.x_gradient,
            None,
            order,
        )

    def of_values(self, x: Tensor) -> Tensor:
        given = buffer_of(self.forms.x, x.numpy())
        return torch.from_numpy(self.computation.layer.backward_weight(given, self.buffer, self.threads))


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


def _check_once() -> None:
    if torch.is_grad_enabled():
        raise InputError(
            "layers that run through the sparse kernels can be differentiated once, and this backward pass is to be "
            "differentiated itself (create_graph=True); take kernels='dense' for second derivatives"
        )


through: Callable[[Tensor, Tensor, Tensor | None, Computation], Tensor] = _Through.apply
existing: Callable[[Tensor, Tensor], Tensor] = _Existing.apply
