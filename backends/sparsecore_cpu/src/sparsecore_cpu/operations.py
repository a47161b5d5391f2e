"""The operations that models are written in, each with its gradient."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.host import loss
from sparsecore.host.network import CachedArrays
from sparsecore.host.weights import Operand, TiedWeight, WeightTensor
from sparsecore.learning.protocols import Model, Totals
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.activations import Activation, Affine, Convolved, Given, Sum
from sparsecore_cpu.convolution import Convolution
from sparsecore_cpu.gradients import Combined, Spread, ThroughConvolution
from sparsecore_cpu.lists import Entries, Lists, Own, Tied, Window
from sparsecore_cpu.workspace import Buffer, Floats, Form, Runtime, Sums
from sparsecore_numpy.normalization import Channels, Moments, followed
from sparsecore_numpy.operations import measured


class Statistics(Protocol):
    """Which moments the activations are normalized by."""

    def __call__(self, x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:
        """The moments for ``x``, given the running ones."""
        ...


@attrs.frozen(eq=False)
class Norm:
    """(x − mean)/√(variance + ε)·scale + shift."""

    moments: Moments
    scale: Channels
    shift: Channels

    @property
    def forward(self) -> tuple[Floats, Floats, Floats]:
        """Factor and constant by channel, and the mean."""
        factor = self.scale * self.moments.inverse_deviation
        mean = self.moments.mean
        return _single(factor), _single(self.shift - mean * factor), _single(mean)

    def backward(self, sums: Sums, count: int) -> tuple[Channels, Channels, tuple[Floats, Floats, Floats]]:
        """The gradients of scale and shift; the factors of the outputs' gradient and of x, and a constant.

        ``sums`` are those of the outputs' gradient, and of it times x − mean in single precision.
        """
        inverse, mean = self.moments.inverse_deviation, self.moments.mean
        by_shift = sums[:, 0]
        by_scale = (sums[:, 1] + (_single(mean) - mean) * by_shift) * inverse
        by_gradient = self.scale * inverse
        by_x = -by_gradient * inverse * by_scale / count
        constant = -by_gradient * by_shift / count - by_x * mean
        return by_scale, by_shift, (_single(by_gradient), _single(by_x), _single(constant))


def of_batch(x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:
    """In training: those of the batch, towards which the running ones move."""
    return followed(lambda: Moments(*x.moments()), x.form.entries, mean, variance)


def running(x: Activation, mean: NDArray[np.float32], variance: NDArray[np.float32]) -> Moments:  # noqa: ARG001
    """In evaluation: the running ones."""
    return Moments(mean.astype(np.float64), variance.astype(np.float64))


def _single(channels: Channels) -> Floats:
    return channels.astype(np.float32)


Backward = Callable[[Activation], None]


class Recorder(Protocol):
    """What becomes of the operations' gradients."""

    def record(self, output: Activation, backward: Backward) -> None:
        """Note that ``backward`` takes the gradient of ``output`` on to the operation's inputs."""
        ...


class Forgetful:
    """Remembers nothing: evaluation."""

    def record(self, output: Activation, backward: Backward) -> None:
        """Nothing."""


class Tape:
    """Remembers one training step."""

    def __init__(self) -> None:
        self._steps: list[tuple[Activation, Backward]] = []

    def record(self, output: Activation, backward: Backward) -> None:
        """See :class:`Recorder`."""
        self._steps.append((output, backward))

    def backward(self, output: Activation, gradient: Buffer) -> None:
        """Take the gradient of ``output`` back through all that was recorded; the tape is empty afterwards."""
        output.gradient.ready.append(gradient)
        while self._steps:
            activation, step = self._steps.pop()
            if activation.gradient:
                step(activation)
            del activation, step  # their memory serves the operations before them


@attrs.frozen(eq=False)
class CpuOperations:
    """See :class:`sparsecore.learning.protocols.Operations`.

    Attributes:
        runtime: kernels, threads and memory.
        lists: of the weights that exist.
        recorder: what becomes of the gradients.
        statistics: what batch norm normalizes by.
    """

    runtime: Runtime
    lists: Lists
    recorder: Recorder
    statistics: Statistics

    def conv2d(self, x: Activation, weight: Entries | WeightTensor, *, stride: int = 1, padding: int = 0) -> Activation:
        """Cross-correlation without a bias, zero padding on all four sides."""
        (height, width), form = weight.shape[2:], x.form
        if form.height + 2 * padding < height or form.width + 2 * padding < width:
            raise InputError(
                f"a kernel of {height}×{width} does not fit into images of {form.height}×{form.width} pixels "
                f"with a padding of {padding}"
            )
        return self._convolved(x, weight, Window(stride, padding))

    def linear(self, x: Activation, weight: Entries | WeightTensor, bias: Operand | None = None) -> Activation:
        """x·weightᵀ + bias, for x of (batch, in)."""
        product = self._convolved(x, weight, Window())
        return product if bias is None else self._biased(product, bias)

    def batch_norm(
        self, x: Activation, scale: Operand, shift: Operand, mean: NDArray[np.float32], variance: NDArray[np.float32]
    ) -> Activation:
        """Normalize each channel (or feature); ``mean`` and ``variance`` are the running statistics."""
        norm = Norm(self.statistics(x, mean, variance), scale.vector(), shift.vector())

        def undone(gradient: Buffer, sums: Sums) -> None:
            by_scale, by_shift, factors = norm.backward(sums, x.form.entries)
            scale.accumulate(by_scale)
            shift.accumulate(by_shift)
            x.gradient.terms.append(Combined(gradient, x.buffer(), *factors))

        return self._affine(Affine(x, *norm.forward, undone))

    def relu(self, x: Activation) -> Activation:
        """max(x, 0); the gradient at 0 is 0."""
        affine = x.source.affine() if x.pending else None
        source = affine or Affine.identity(x)

        def backward(output: Activation) -> None:
            mask = Mask(source.x.buffer().handle, source.scale, source.shift, source.mean)
            source.undo(*output.gradient.masked(self.runtime, output.form, mask))

        return self._recorded(Activation(self.runtime, x.form, source.rectified()), backward)

    def global_average_pool(self, x: Activation) -> Activation:
        """The mean over height and width: (batch, channels)."""
        out = self.runtime.buffers.take(Form.of_features(x.form.images, x.form.channels))
        self.runtime.kernels.pool(x.buffer().handle, out.handle, self.runtime.threads)

        def backward(output: Activation) -> None:
            x.gradient.terms.append(Spread(output.gradient.total(self.runtime, output.form)))

        return self._recorded(Activation(self.runtime, out.form, Given(out)), backward)

    def add(self, x: Activation, y: Activation) -> Activation:
        """The sum of two tensors of equal shapes."""
        if x.form != y.form:
            raise InputError(f"add takes two tensors of the same shape; given {x.form.dense} and {y.form.dense}")

        def backward(output: Activation) -> None:
            gradient = output.gradient.total(self.runtime, output.form)
            x.gradient.ready.append(gradient)
            y.gradient.ready.append(gradient)

        return self._recorded(Activation(self.runtime, x.form, Sum(x, y)), backward)

    def flatten(self, x: Activation) -> Activation:
        """Images as vectors, in the order height, width, channel."""
        if x.form.features:
            return x
        form = x.form
        out = self.runtime.buffers.take(Form.of_features(form.images, form.height * form.width * form.channels))
        inside = x.buffer().inside
        by_feature = (form.height, form.width, form.channels, *out.array.shape[3:])
        out.array.reshape(by_feature)[:] = inside.transpose(1, 3, 2, 0, 4)

        def backward(output: Activation) -> None:
            given = output.gradient.total(self.runtime, output.form)
            images = self.runtime.buffers.take(form)
            images.fill(given.array.reshape(by_feature).transpose(3, 0, 2, 1, 4))
            x.gradient.ready.append(images)

        return self._recorded(Activation(self.runtime, out.form, Given(out), x.differentiable), backward)

    def tied(self, values: Operand, shape: tuple[int, ...], key: int) -> Tied:
        """A weight of this shape whose entries are those of ``values``, by a hash."""
        return Tied(TiedWeight(values, shape, key))

    def _convolved(self, x: Activation, weight: Entries | WeightTensor, window: Window) -> Activation:
        entries = Own(weight) if isinstance(weight, WeightTensor) else weight
        if entries.shape[1] != x.form.channels or (len(entries.shape) == 2) != x.form.features:
            raise InputError(f"a layer with weights of shape {entries.shape} cannot take a tensor of {x.form.dense}")
        convolution = Convolution(entries, window, self.lists)

        def backward(output: Activation) -> None:
            gradient = output.gradient.reading(self.runtime, output.form)
            if x.differentiable:
                x.gradient.terms.append(ThroughConvolution(convolution, x.reading(), gradient))
            else:
                convolution.backward_weight(self.runtime, x.reading(), gradient)

        return self._recorded(Activation(self.runtime, convolution.output(x.form), Convolved(convolution, x)), backward)

    def _biased(self, x: Activation, bias: Operand) -> Activation:
        ones, zeros = x.form.constants()

        def undone(gradient: Buffer, sums: Sums) -> None:
            bias.accumulate(sums[:, 0])
            x.gradient.ready.append(gradient)

        return self._affine(Affine(x, ones, bias.vector().astype(np.float32), zeros, undone))

    def _affine(self, source: Affine) -> Activation:
        def backward(output: Activation) -> None:
            gradient = output.gradient.total(self.runtime, output.form)
            sums = np.zeros((output.form.channels, 2))
            x = source.x.buffer()
            self.runtime.kernels.products(gradient.handle, x.handle, source.mean, sums, self.runtime.threads)
            source.undo(gradient, sums)

        return self._recorded(Activation(self.runtime, source.x.form, source), backward)

    def _recorded(self, output: Activation, backward: Backward) -> Activation:
        self.recorder.record(output, backward)
        return output


class CpuComputation:
    """See :class:`sparsecore_numpy.operations.Computation`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lists = Lists(runtime.threads)

    def forward_backward(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the mean loss to the parameters'; the sums over the batch."""
        tape = Tape()
        ops = CpuOperations(self._runtime, self._lists, tape, of_batch)
        logits = model.forward(ops, parameters, self._packed(images))
        outputs = self._unpacked(logits.buffer())
        tape.backward(logits, self._features(loss.mean_gradient(outputs, labels)))
        return measured(outputs, labels)

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """With running statistics, (batch, classes)."""
        ops = CpuOperations(self._runtime, self._lists, Forgetful(), running)
        return self._unpacked(model.forward(ops, parameters, self._packed(images)).buffer())

    def cached_arrays(self, weight: WeightTensor) -> CachedArrays:
        """Its positions, and the lists that were made of it."""
        lists = self._lists.of(weight)
        places = [array for one in lists for array in one.places]
        return CachedArrays((*weight.indices, *places), tuple(one.values for one in lists))

    def _packed(self, images: NDArray[Any]) -> Activation:
        count, height, width, channels = images.shape
        buffer = self._runtime.buffers.take(Form(count, height, width, channels))
        self._runtime.kernels.pack(np.asarray(images, np.float32), buffer.handle, self._runtime.threads)
        return Activation(self._runtime, buffer.form, Given(buffer), differentiable=False)

    def _features(self, vectors: NDArray[Any]) -> Buffer:
        buffer = self._runtime.buffers.take(Form.of_features(*vectors.shape))
        self._runtime.kernels.pack(vectors[:, None, None], buffer.handle, 1)
        return buffer

    def _unpacked(self, features: Buffer) -> NDArray[Any]:
        vectors = np.empty((features.form.images, features.form.channels), np.float32)
        self._runtime.kernels.unpack(features.handle, vectors[:, None, None], 1)
        return vectors
