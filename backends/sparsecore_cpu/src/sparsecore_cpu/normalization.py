"""Layer norm, RMS norm and group norm, with their gradients.

Each computes (x − mean)/√(variance + ε)·scale + shift, where mean and variance are those of one vector, of one pixel or
of one image, and scale and shift have one entry for each channel. Sums over vectors and pixels do not depend on the
number of threads.
"""

import attrs
import numpy as np

from sparsecore.errors import InputError
from sparsecore.host.weights import WeightSource
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.arguments import channel_values, finite
from sparsecore_cpu.gradients import GradientTerm
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Buffer, Floats, Form, Runtime, aligned_zeros


@attrs.frozen(eq=False)
class Normalization:
    """How activations are normalized.

    Attributes:
        groups: mean and variance are those of each of so many groups of channels.
        by_image: whether they are those of all pixels of an image, rather than those of each pixel or vector.
        centered: whether the mean is subtracted.
        epsilon: what is added to the variance.
        scale: one entry for each channel; None: all are 1.
        shift: one entry for each channel; None: all are 0.
    """

    groups: int
    by_image: bool
    centered: bool
    epsilon: float
    scale: WeightSource | None
    shift: WeightSource | None

    def statistics_shape(self, form: Form, lanes: int) -> tuple[int, int, int, int]:
        """The shape of the means and inverse deviations of an activation: (pixels or blocks, groups, 2, lanes)."""
        blocks, _, _, columns, _ = form.shape(lanes)
        if form.features:
            return columns, self.groups, 2, lanes
        return blocks * (1 if self.by_image else form.height * form.width), self.groups, 2, lanes

    def factors(self, form: Form) -> tuple[Floats, Floats]:
        """Scale and shift as float32, each (channels,).

        Raises:
            InputError: the parameters do not have one entry for each channel.
        """
        ones, zeros = form.constants()
        return (
            ones if self.scale is None else channel_values("scale", self.scale, form),
            zeros if self.shift is None else channel_values("shift", self.shift, form),
        )


@attrs.frozen(eq=False)
class NormalizationTerm(GradientTerm):
    """The gradient of normalized outputs, passed on to the inputs; writing it computes the parameters', too.

    Attributes:
        normalization: how they are normalized.
        gradient: the gradient of the outputs.
        x: the inputs.
        scale: by channel, (channels,).
        statistics: means and inverse deviations; see :meth:`Normalization.statistics_shape`.
    """

    normalization: Normalization
    gradient: Buffer
    x: Buffer
    scale: Floats
    statistics: Floats

    def write(self, runtime: Runtime, out: Buffer, add: Buffer | None) -> None:
        """Write the gradient of the inputs, plus ``add``, and add to the parameters' gradients."""
        own, sums = self.normalization, np.zeros((self.x.form.channels, 2))
        runtime.kernels.normalize_backward(
            self.gradient.handle,
            self.x.handle,
            out.handle,
            add.handle if add else None,
            self.scale,
            self.statistics,
            own.groups,
            own.by_image,
            own.centered,
            sums,
            runtime.threads,
        )
        if own.scale is not None:
            own.scale.add_dense_gradient(sums[:, 0])
        if own.shift is not None:
            own.shift.add_dense_gradient(sums[:, 1])


def layer_norm(
    ops: CpuOperations,
    x: Activation,
    scale: WeightSource | None = None,
    shift: WeightSource | None = None,
    *,
    epsilon: float = 1e-5,
) -> Activation:
    """Normalize over the features of each vector, or over the channels of each pixel of images.

    Args:
        ops: records the operation.
        x: features (tokens are vectors of their own), or images.
        scale: one entry for each channel; None: all are 1.
        shift: one entry for each channel; None: all are 0.
        epsilon: what is added to the variance; not negative.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the parameters do not have one entry for each channel, or epsilon is negative or not finite.
    """
    return _normalized(
        ops, x, Normalization(1, by_image=False, centered=True, epsilon=epsilon, scale=scale, shift=shift)
    )


def rms_norm(
    ops: CpuOperations, x: Activation, scale: WeightSource | None = None, *, epsilon: float = 1e-6
) -> Activation:
    """Divide each vector, or the channels of each pixel of images, by the root of the mean square plus epsilon.

    Args:
        ops: records the operation.
        x: features (tokens are vectors of their own), or images.
        scale: one entry for each channel; None: all are 1.
        epsilon: what is added to the mean square; not negative.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the scale does not have one entry for each channel, or epsilon is negative or not finite.
    """
    return _normalized(
        ops, x, Normalization(1, by_image=False, centered=False, epsilon=epsilon, scale=scale, shift=None)
    )


def group_norm(
    ops: CpuOperations,
    x: Activation,
    groups: int,
    scale: WeightSource | None = None,
    shift: WeightSource | None = None,
    *,
    epsilon: float = 1e-5,
) -> Activation:
    """Normalize each group of neighbouring channels of each image over all its pixels.

    With as many groups as channels this is instance norm.

    Args:
        ops: records the operation.
        x: images, or features.
        groups: how many there are, which divides the number of channels.
        scale: one entry for each channel; None: all are 1.
        shift: one entry for each channel; None: all are 0.
        epsilon: what is added to the variance; not negative.

    Returns:
        An activation of the same form.

    Raises:
        InputError: the groups do not divide the channels, the parameters do not have one entry for each channel, or
            epsilon is negative or not finite.
    """
    if groups < 1 or x.form.channels % groups:
        raise InputError(f"{x.form.channels} channels cannot be divided into {groups} groups of equal size")
    by_image = not x.form.features
    return _normalized(
        ops, x, Normalization(groups, by_image, centered=True, epsilon=epsilon, scale=scale, shift=shift)
    )


def _normalized(ops: CpuOperations, x: Activation, normalization: Normalization) -> Activation:
    epsilon = finite("epsilon of a normalization", normalization.epsilon)
    if epsilon < 0:
        raise InputError(f"the epsilon of a normalization must not be negative; given {epsilon}")
    runtime, form, source = ops.runtime, x.form, x.buffer()
    scale, shift = normalization.factors(form)
    statistics = aligned_zeros(normalization.statistics_shape(form, runtime.kernels.lanes))
    out = runtime.buffers.take(form)
    runtime.kernels.normalize(
        source.handle,
        out.handle,
        scale,
        shift,
        statistics,
        normalization.groups,
        normalization.by_image,
        epsilon,
        normalization.centered,
        runtime.threads,
    )

    def backward(output: Activation) -> None:
        gradient = output.gradient.total(runtime, output.form)
        term = NormalizationTerm(normalization, gradient, source, scale, statistics)
        if x.differentiable:
            x.gradient.terms.append(term)
        else:
            term.write(runtime, runtime.buffers.take(form), None)

    return ops.recorded(Activation(runtime, form, InputNode(out)), backward)
