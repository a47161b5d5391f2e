"""Dropout with masks that the caller draws, with its gradient.

Masks have the logical shape of the activation, or that of the kernels' layout, :func:`mask_shape`, which need not be
converted.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore_cpu.activations import Activation, InputNode, LazyOp
from sparsecore_cpu.gradients import GradientTerm
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.products import multiply
from sparsecore_cpu.runtime import Buffer, Form, Runtime, Sums

Kept = NDArray[np.uint8]


def mask_shape(form: Form, lanes: int) -> tuple[int, int, int, int, int]:
    """The shape of a mask in the kernels' layout: (blocks, height, channels, width, lanes) without a border.

    Args:
        form: of the activation.
        lanes: of the kernels' vectors.

    Returns:
        The shape; what the mask holds in lanes that hold no image is ignored.
    """
    return attrs.evolve(form, border=0).shape(lanes)


@attrs.frozen(eq=False)
class Mask:
    """The entries that are kept, multiplied by a factor.

    Attributes:
        kept: not zero where an entry is kept, in the shape :func:`mask_shape`.
        factor: 1/(1 − p), where p is the probability with which an entry is dropped.
    """

    kept: Kept
    factor: float

    def write(self, runtime: Runtime, x: Buffer, out: Buffer, add: Buffer | None) -> None:
        """Write factor·x where it is kept, elsewhere 0, plus ``add``.

        Args:
            runtime: kernels, threads and memory.
            x: an activation or a gradient of one.
            out: the memory of the result.
            add: another one of the same form, if any.
        """
        start = add.handle if add else None
        runtime.kernels.dropout(x.handle, self.kept, self.factor, out.handle, start, runtime.threads)


@attrs.frozen(eq=False)
class DropoutOp(LazyOp):
    """An activation of which some entries are dropped."""

    mask: Mask
    x: Activation

    def compute(self, runtime: Runtime, form: Form, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The outputs in one pass."""
        out = runtime.buffers.take(form)
        self.mask.write(runtime, self.x.buffer(), out, None)
        return out

    def compute_added(self, runtime: Runtime, form: Form, other: Activation, sums: Sums | None) -> Buffer:  # noqa: ARG002
        """The sum with another activation in the same pass."""
        out = runtime.buffers.take(form)
        self.mask.write(runtime, self.x.buffer(), out, other.buffer())
        return out


@attrs.frozen(eq=False)
class DropoutTerm(GradientTerm):
    """The gradient of dropout, which drops the same entries."""

    mask: Mask
    gradient: Buffer

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the gradient where entries are kept, plus ``add``."""
        self.mask.write(runtime, self.gradient, out, add)


def dropout(ops: CpuOperations, x: Activation, kept: NDArray[Any], probability: float) -> Activation:
    """Set entries to zero and divide the others by 1 − probability.

    Args:
        ops: records the operation.
        x: images or features.
        kept: bool or uint8, nonzero where an entry is kept, in the logical shape of ``x`` or in that of
            :func:`mask_shape`; in the latter it may be used without a copy, until the backward pass.
        probability: with which each entry was dropped, from 0 to 1.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the probability is not from 0 to 1, or the mask has another shape or dtype.
    """
    runtime = ops.runtime
    mask = Mask(_packed(kept, x.form, runtime.kernels.lanes), _factor(probability))
    output = Activation(runtime, x.form, DropoutOp(mask, x), x.differentiable)
    if not x.differentiable:
        return output

    def backward(output: Activation) -> None:
        x.gradient.terms.append(DropoutTerm(mask, output.gradient.total(runtime, output.form)))

    return ops.recorded(output, backward)


def dropout_channels(ops: CpuOperations, x: Activation, kept: NDArray[Any], probability: float) -> Activation:
    """Set whole channels of images, or whole images, to zero, and divide the others by 1 − probability.

    The first is dropout2d, the second stochastic depth.

    Args:
        ops: records the operation.
        x: images or features.
        kept: bool or uint8, nonzero where a channel is kept, (N, channels), or where an image (or vector) is, (N, 1).
        probability: with which each was dropped, from 0 to 1.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the probability is not from 0 to 1, or the mask has another shape or dtype.
    """
    form = x.form
    shapes = [(form.images, 1)] if form.features else [(form.images, 1), (form.images, form.channels)]
    if kept.shape not in shapes or kept.dtype not in _DTYPES:
        raise InputError(f"a mask of dtype bool or uint8 and of shape {_listed(shapes)} is expected; {_given(kept)}")
    runtime = ops.runtime
    factors = np.where(kept != 0, np.float32(_factor(probability)), np.float32(0))
    buffer = runtime.buffers.take(Form.of_features(*kept.shape))
    runtime.kernels.pack(factors[:, None, None], buffer.handle, runtime.threads)
    return multiply(ops, x, Activation(runtime, buffer.form, InputNode(buffer), differentiable=False))


_DTYPES = (np.dtype(np.bool_), np.dtype(np.uint8))


def _packed(kept: NDArray[Any], form: Form, lanes: int) -> Kept:
    shape = mask_shape(form, lanes)
    if kept.dtype not in _DTYPES or kept.shape not in (form.dense, shape):
        shapes = _listed([form.dense, shape])
        raise InputError(f"a mask of dtype bool or uint8 and of shape {shapes} is expected; {_given(kept)}")
    own = kept.view(np.uint8)
    if kept.shape == shape:
        return np.ascontiguousarray(own)
    packed = np.zeros(shape, np.uint8)
    if form.features:
        packed.reshape(form.channels, -1)[:, : form.images] = own.T
        return packed
    for lane in range(lanes):
        images = own[lane::lanes]
        packed[: len(images), ..., lane] = images.transpose(0, 1, 3, 2)
    return packed


def _factor(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise InputError(f"the probability of dropout must be from 0 to 1; given {probability}")
    return 1 / (1 - probability) if probability < 1 else 0.0


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return " or ".join(map(str, shapes))


def _given(kept: NDArray[Any]) -> str:
    return f"given one of {kept.dtype} and {kept.shape}"
