"""Products and sums of activations, also where one is broadcast over the other, and products with numbers.

The second operand of :func:`multiply` and :func:`add` is broadcast over the first one, x of (N, H, W, C) or (N, C),
where it is (N, C) or (N, 1) and x are images, so that all pixels of an image share its entries (squeeze and
excitation); or where it has one channel, (N, H, W, 1) or (N, 1), which all channels share. Its gradient is then the sum
over what shares an entry.
"""

from collections.abc import Callable

import attrs
import numpy as np

from sparsecore.errors import InputError
from sparsecore.host.weights import WeightSource
from sparsecore_cpu._kernels import Kernels
from sparsecore_cpu.activations import Activation, AffineOp, InputNode, LazyOp
from sparsecore_cpu.arguments import channel_values, finite
from sparsecore_cpu.gradients import GradientTerm, LinearTerm
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Buffer, Form, Runtime, Sums, copied


@attrs.frozen(eq=False)
class PairOp(LazyOp):
    """The product or the sum of two activations, of which the second one may be broadcast.

    Attributes:
        combine: the kernel, :meth:`Kernels.multiply` or :meth:`Kernels.add`.
        x: the first one, of the output's form.
        y: the second one.
    """

    combine: Callable[..., None]
    x: Activation
    y: Activation

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The outputs in one pass."""
        return self._computed(runtime, form, None)

    def compute_added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The sum with another activation in the same pass."""
        return self._computed(runtime, form, other.buffer())

    def _computed(self, runtime: Runtime, form: Form, add: Buffer | None) -> Buffer:
        x, y, out = self.x.buffer().handle, self.y.buffer().handle, runtime.buffers.take(form)
        self.combine(runtime.kernels, x, y, out.handle, add.handle if add else None, runtime.threads)
        return out


@attrs.frozen(eq=False)
class ProductTerm(GradientTerm):
    """gradient·factor: the gradient of a product; the factor may be broadcast."""

    gradient: Buffer
    factor: Buffer

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the product, plus ``add``."""
        start = add.handle if add else None
        runtime.kernels.multiply(self.gradient.handle, self.factor.handle, out.handle, start, runtime.threads)


def multiply(ops: CpuOperations, x: Activation, y: Activation) -> Activation:
    """The product of two activations; see this module for how the smaller one is broadcast.

    Args:
        ops: records the operation.
        x: images or features.
        y: of the same shape, or one that is broadcast; x and y may be exchanged.

    Returns:
        An activation of the larger one's form.

    Raises:
        InputError: neither can be broadcast over the other.
    """
    x, y = _ordered(ops, x, y)
    runtime = ops.runtime

    def backward(output: Activation) -> None:
        gradient = output.gradient.total(runtime, output.form)
        if x.differentiable:
            x.gradient.terms.append(ProductTerm(gradient, y.buffer()))
        if y.differentiable and x.form == y.form:
            y.gradient.terms.append(ProductTerm(gradient, x.buffer()))
        elif y.differentiable:
            y.gradient.ready.append(_reduced(runtime, gradient, x.buffer(), y.form))

    return _recorded(ops, Activation(runtime, x.form, PairOp(Kernels.multiply, x, y)), (x, y), backward)


def add(ops: CpuOperations, x: Activation, y: Activation) -> Activation:
    """The sum of two activations; see this module for how the smaller one is broadcast.

    Args:
        ops: records the operation.
        x: images or features.
        y: of the same shape, or one that is broadcast; x and y may be exchanged.

    Returns:
        An activation of the larger one's form.

    Raises:
        InputError: neither can be broadcast over the other.
    """
    x, y = _ordered(ops, x, y)
    if x.form == y.form:
        return ops.add(x, y)
    runtime = ops.runtime

    def backward(output: Activation) -> None:
        gradient = output.gradient.total(runtime, output.form)
        if x.differentiable:
            x.gradient.ready.append(gradient)
        if y.differentiable:
            y.gradient.ready.append(_reduced(runtime, gradient, None, y.form))

    return _recorded(ops, Activation(runtime, x.form, PairOp(Kernels.add, x, y)), (x, y), backward)


def scale(ops: CpuOperations, x: Activation, factor: float) -> Activation:
    """The product with a number.

    Args:
        ops: records the operation.
        x: images or features.
        factor: a finite number.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the factor is not finite.
    """
    ones, zeros = x.form.constants()
    factors = ones * np.float32(finite("factor", factor))

    def pass_on(gradient: Buffer) -> None:
        x.gradient.terms.append(LinearTerm(gradient, gradient, factors, zeros, zeros))

    return _affine_of_number(ops, AffineOp(x, factors, zeros, zeros, lambda gradient, _: pass_on(gradient)), pass_on)


def shift(ops: CpuOperations, x: Activation, constant: float) -> Activation:
    """The sum with a number.

    Args:
        ops: records the operation.
        x: images or features.
        constant: a finite number.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the constant is not finite.
    """
    ones, zeros = x.form.constants()
    constants = ones * np.float32(finite("constant", constant))

    def pass_on(gradient: Buffer) -> None:
        x.gradient.ready.append(gradient)

    return _affine_of_number(ops, AffineOp(x, ones, constants, zeros, lambda gradient, _: pass_on(gradient)), pass_on)


def scale_channels(
    ops: CpuOperations, x: Activation, scale: WeightSource, shift: WeightSource | None = None
) -> Activation:
    """scale·x + shift by channel (layer scale).

    Args:
        ops: records the operation.
        x: images or features.
        scale: (channels,) or any shape with as many entries.
        shift: likewise; None: there is none.

    Returns:
        An activation of the same form.

    Raises:
        InputError: scale or shift have another number of entries.
    """
    factors, zeros = channel_values("scale", scale, x.form), x.form.constants()[1]
    constants = zeros if shift is None else channel_values("shift", shift, x.form)

    def backward(gradient: Buffer, sums: Sums) -> None:
        scale.add_dense_gradient(sums[:, 1])
        if shift is not None:
            shift.add_dense_gradient(sums[:, 0])
        if x.differentiable:
            x.gradient.terms.append(LinearTerm(gradient, gradient, factors, zeros, zeros))

    source = AffineOp(x, factors, constants, zeros, backward)

    def pass_on(output: Activation) -> None:
        source.pass_on(ops.runtime, output.gradient.total(ops.runtime, output.form))

    return ops.recorded(Activation(ops.runtime, x.form, source), pass_on)


def with_border(ops: CpuOperations, x: Activation, border: int) -> Activation:
    """The same images with a zero border of this width, in pixels.

    Args:
        ops: records the operation.
        x: images, or features, which have no border.
        border: the width.

    Returns:
        ``x`` itself where it has this border already.
    """
    if x.form.features or x.form.border == border:
        return x
    runtime = ops.runtime
    out = copied(runtime, x.buffer(), border)

    def backward(output: Activation) -> None:
        x.gradient.ready.append(copied(runtime, output.gradient.total(runtime, output.form), x.form.border))

    return _recorded(ops, Activation(runtime, out.form, InputNode(out)), (x,), backward)


def _ordered(ops: CpuOperations, x: Activation, y: Activation) -> tuple[Activation, Activation]:
    """The two with the one that is broadcast last, and with equal borders where the shapes are equal."""
    if x.form.dense == y.form.dense:
        return x, with_border(ops, y, x.form.border)
    if _is_broadcast(y.form, x.form):
        return x, y
    if _is_broadcast(x.form, y.form):
        return y, x
    raise InputError(
        f"tensors of shapes {x.form.dense} and {y.form.dense} cannot be combined: the shapes must be equal, or one of "
        "them (N, C), (N, 1) or (N, H, W, 1) for the other's (N, H, W, C), or (N, 1) for (N, C)"
    )


def _is_broadcast(small: Form, large: Form) -> bool:
    if small.images != large.images or small.channels not in {1, large.channels}:
        return False
    if small.features:
        return not large.features or small.channels == 1
    sides = (small.height, small.width) == (large.height, large.width)
    return sides and small.channels == 1 and not large.features


def _reduced(runtime: Runtime, gradient: Buffer, factor: Buffer | None, form: Form) -> Buffer:
    """The sum of the gradient, or of its product with a factor, over what an operand of this form is broadcast over."""
    kernels, threads, out = runtime.kernels, runtime.threads, runtime.buffers.take(form)
    second = factor.handle if factor else None
    if not form.features or gradient.form.features:
        kernels.sum_channels(gradient.handle, second, out.handle, threads)
    elif form.channels == gradient.form.channels:
        kernels.sum_pixels(gradient.handle, second, out.handle, threads)
    else:
        sums = runtime.buffers.take(Form.of_features(form.images, gradient.form.channels))
        kernels.sum_pixels(gradient.handle, second, sums.handle, threads)
        kernels.sum_channels(sums.handle, None, out.handle, threads)
    return out


def _affine_of_number(ops: CpuOperations, source: AffineOp, pass_on: Callable[[Buffer], None]) -> Activation:
    # apart from scale_channels, because no sums by channel are needed here
    runtime = ops.runtime
    output = Activation(runtime, source.x.form, source)
    return _recorded(ops, output, (source.x,), lambda output: pass_on(output.gradient.total(runtime, output.form)))


def _recorded(
    ops: CpuOperations, output: Activation, inputs: tuple[Activation, ...], backward: Callable[[Activation], None]
) -> Activation:
    output.differentiable = any(x.differentiable for x in inputs)
    return ops.recorded(output, backward) if output.differentiable else output
