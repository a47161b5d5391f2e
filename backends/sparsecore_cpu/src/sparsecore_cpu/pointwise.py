"""Functions that are applied to each entry of an activation, with their gradients.

Each is computed in one pass together with the affine function before it (a batch norm or a bias), of which the output
is then never written, and with the sum of it and another activation. So is its gradient. At kinks and for NaN the
gradients are those of PyTorch.

All take the operations that record them and images or features, and return an activation of the same form.
"""

import attrs
import numpy as np

from sparsecore.errors import InputError
from sparsecore_cpu._kernels import PointwiseFunction
from sparsecore_cpu.activations import Activation, AffineOp, LazyOp
from sparsecore_cpu.arguments import finite
from sparsecore_cpu.gradients import GradientTerm
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Buffer, Form, Runtime, Sums


@attrs.frozen
class Function:
    """A function of one number.

    Attributes:
        kind: the function.
        parameter: of the function, if it has one.
    """

    kind: PointwiseFunction
    parameter: float = 0.0


@attrs.frozen(eq=False)
class PointwiseOp(LazyOp):
    """function(scale·x + shift), scale and shift by channel."""

    function: Function
    inner: AffineOp

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """Both functions in one pass."""
        return self._computed(runtime, form, None)

    def compute_added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The sum in the same pass."""
        return self._computed(runtime, form, other.buffer())

    def _computed(self, runtime: Runtime, form: Form, add: Buffer | None) -> Buffer:
        function, inner, out = self.function, self.inner, runtime.buffers.take(form)
        x, start = inner.x.buffer().handle, add.handle if add else None
        runtime.kernels.pointwise(
            function.kind, function.parameter, x, out.handle, start, inner.scale, inner.shift, runtime.threads
        )
        return out

    def gradient(self, runtime: Runtime, gradient: Buffer, out: Buffer, add: Buffer | None, sums: Sums | None) -> None:
        """Write gradient·function'(scale·x + shift), plus ``add``.

        Args:
            runtime: kernels, threads and memory.
            gradient: the gradient of the outputs.
            out: the memory of the result.
            add: another gradient of the same form, if any.
            sums: receives the sums by channel of what is written and of its products with x − mean, (channels, 2).
        """
        function, inner = self.function, self.inner
        start = add.handle if add else None
        runtime.kernels.pointwise_backward(
            function.kind,
            function.parameter,
            gradient.handle,
            inner.x.buffer().handle,
            out.handle,
            start,
            inner.scale,
            inner.shift,
            inner.mean,
            sums,
            runtime.threads,
        )


@attrs.frozen(eq=False)
class PointwiseTerm(GradientTerm):
    """The gradient of a function's outputs, passed on to its inputs."""

    op: PointwiseOp
    gradient: Buffer

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the product of the gradient and the derivative, plus ``add``."""
        self.op.gradient(runtime, self.gradient, out, add, None)


def apply(ops: CpuOperations, x: Activation, function: Function) -> Activation:
    """Apply a function to each entry.

    Args:
        ops: records the operation.
        x: images or features.
        function: the function.

    Returns:
        An activation of the same form.
    """
    affine = x.op.as_affine() if x.is_pending else None
    op = PointwiseOp(function, affine or AffineOp.identity(x))
    runtime = ops.runtime
    output = Activation(runtime, x.form, op, x.differentiable)
    if not x.differentiable:
        return output

    def backward(output: Activation) -> None:
        gradient = output.gradient.total(runtime, output.form)
        if affine is None:
            x.gradient.terms.append(PointwiseTerm(op, gradient))
            return
        inner, sums = runtime.buffers.take(x.form), np.zeros((x.form.channels, 2))
        op.gradient(runtime, gradient, inner, None, sums)
        affine.backward(inner, sums)

    return ops.recorded(output, backward)


def relu6(ops: CpuOperations, x: Activation) -> Activation:
    """min(max(x, 0), 6); the gradient at both ends is 0."""
    return apply(ops, x, Function(PointwiseFunction.RELU6))


def leaky_relu(ops: CpuOperations, x: Activation, *, slope: float = 0.01) -> Activation:
    """max(x, 0) + slope·min(x, 0); the gradient at 0 is the slope.

    Args:
        ops: records the operation.
        x: images or features.
        slope: below zero.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the slope is not finite.
    """
    return apply(ops, x, Function(PointwiseFunction.LEAKY_RELU, finite("slope of leaky_relu", slope)))


def silu(ops: CpuOperations, x: Activation) -> Activation:
    """x·sigmoid(x), also known as swish."""
    return apply(ops, x, Function(PointwiseFunction.SILU))


def gelu(ops: CpuOperations, x: Activation, *, tanh: bool = False) -> Activation:
    """x·Φ(x), where Φ is the distribution function of the normal distribution.

    Args:
        ops: records the operation.
        x: images or features.
        tanh: whether it is approximated as x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2.

    Returns:
        An activation of the same form.
    """
    return apply(ops, x, Function(PointwiseFunction.GELU_TANH if tanh else PointwiseFunction.GELU))


def hardswish(ops: CpuOperations, x: Activation) -> Activation:
    """x·min(max(x + 3, 0), 6)/6; the gradients at −3 and 3 are 0 and 1."""
    return apply(ops, x, Function(PointwiseFunction.HARDSWISH))


def hardsigmoid(ops: CpuOperations, x: Activation) -> Activation:
    """min(max(x + 3, 0), 6)/6; the gradients at −3 and 3 are 0."""
    return apply(ops, x, Function(PointwiseFunction.HARDSIGMOID))


def sigmoid(ops: CpuOperations, x: Activation) -> Activation:
    """1/(1 + exp(−x))."""
    return apply(ops, x, Function(PointwiseFunction.SIGMOID))


def tanh(ops: CpuOperations, x: Activation) -> Activation:
    """The hyperbolic tangent."""
    return apply(ops, x, Function(PointwiseFunction.TANH))


def elu(ops: CpuOperations, x: Activation, *, alpha: float = 1.0) -> Activation:
    """max(x, 0) + alpha·(exp(min(x, 0)) − 1); the gradient at 0 is alpha.

    Args:
        ops: records the operation.
        x: images or features.
        alpha: the negative of the limit for negative x.

    Returns:
        An activation of the same form.

    Raises:
        InputError: alpha is not finite.
    """
    return apply(ops, x, Function(PointwiseFunction.ELU, finite("alpha of elu", alpha)))


def softplus(ops: CpuOperations, x: Activation, *, beta: float = 1.0) -> Activation:
    """log(1 + exp(beta·x))/beta.

    PyTorch replaces it by x where beta·x exceeds a threshold of 20: there both differ by less than 3e-9/beta.

    Args:
        ops: records the operation.
        x: images or features.
        beta: how sharply the function bends at 0; positive.

    Returns:
        An activation of the same form.

    Raises:
        InputError: beta is not positive and finite.
    """
    if not finite("beta of softplus", beta) > 0:
        raise InputError(f"beta of softplus must be positive; given {beta}")
    return apply(ops, x, Function(PointwiseFunction.SOFTPLUS, beta))


def mish(ops: CpuOperations, x: Activation) -> Activation:
    """x·tanh(log(1 + exp(x)))."""
    return apply(ops, x, Function(PointwiseFunction.MISH))
