"""The operations that models are written in, each with its gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.computation import NullTape, Tape, batch_totals, mean_gradient
from sparsecore.host.parameters import CachedArrays
from sparsecore.host.tied_weights import TiedWeight
from sparsecore.host.weights import WeightSource, WeightView
from sparsecore.learning.operations import check_equal_shapes
from sparsecore.learning.protocols import Model, Totals
from sparsecore_cpu._kernels import Mask
from sparsecore_cpu.activations import Activation, AffineOp, ConvolutionOp, InputNode, ReluOp, SumOp
from sparsecore_cpu.batch_norm import Norm, Statistics, of_batch, running, without_bias
from sparsecore_cpu.gradients import ConvolutionTerm, FlattenTerm, LinearTerm, PoolTerm
from sparsecore_cpu.runtime import Buffer, Form, Runtime, Sums
from sparsecore_cpu.weighted import ListCache, WeightedLayer
from sparsecore_cpu.window import Padding, Window


@attrs.frozen(eq=False)
class CpuOperations:
    """Implements :class:`sparsecore.learning.protocols.Operations` lazily, so that operations are fused.

    Attributes:
        runtime: kernels, threads and memory.
        lists: the lists of active weights.
        tape: records the operations for the backward pass.
        statistics: chooses the moments that batch norm normalizes by.
    """

    runtime: Runtime
    lists: ListCache
    tape: Tape[Activation]
    statistics: Statistics

    def conv2d(
        self,
        x: Activation,
        weight: WeightSource,
        bias: WeightSource | None = None,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Padding = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> Activation:
        """Cross-correlation with zero padding, as ``torch.nn.functional.conv2d``.

        Args:
            x: images, (batch, height, width, channels).
            weight: (out, in / groups, height, width).
            bias: (out,), or None.
            stride: one number, or (height, width).
            padding: one number for all sides, (height, width), or a number for each side.
            dilation: one number, or (height, width).
            groups: input and output channels are split into so many groups.

        Raises:
            InputError: the kernel is larger than the padded images, ``x`` are not images with the weight's channels, or
                a number is out of range; see :class:`Window`.
        """
        product = self._convolved(x, weight, Window(stride, padding, dilation, groups))
        return product if bias is None else self._biased(product, bias)

    def linear(self, x: Activation, weight: WeightSource, bias: WeightSource | None = None) -> Activation:
        """x·weightᵀ + bias, for x of (batch, in).

        Raises:
            InputError: ``x`` are images, or vectors of another length.
        """
        product = self._convolved(x, weight, Window())
        return product if bias is None else self._biased(product, bias)

    def batch_norm(
        self,
        x: Activation,
        scale: WeightSource,
        shift: WeightSource,
        mean: NDArray[np.float32],
        variance: NDArray[np.float32],
    ) -> Activation:
        """Normalize each channel (or feature); ``mean`` and ``variance`` are the running statistics."""
        return self.normalized(
            x, Norm(self.statistics(x, mean, variance), scale.to_array(), shift.to_array()), scale, shift
        )

    def normalized(
        self, x: Activation, norm: Norm, scale: WeightSource | None = None, shift: WeightSource | None = None
    ) -> Activation:
        """Apply a batch norm, of images or features, by channel.

        Args:
            x: the input.
            norm: with the values of scale and shift.
            scale: receives its gradient; None where it is not a parameter.
            shift: likewise.
        """
        source, own, bias = without_bias(x, norm)

        def backward(gradient: Buffer, sums: Sums) -> None:
            by_scale, by_shift, factors = own.backward(sums, x.form.entries)
            if scale is not None:
                scale.add_dense_gradient(by_scale)
            if shift is not None:
                shift.add_dense_gradient(by_shift)
            if bias is not None:
                # the norm of a batch is the same whatever the bias
                bias.add_dense_gradient(np.zeros_like(by_shift) if own.is_of_batch else factors[0] * sums[:, 0])
            source.gradient.terms.append(LinearTerm(gradient, source.buffer(), *factors))

        return self._affine(AffineOp(source, *own.forward, backward))

    def relu(self, x: Activation) -> Activation:
        """max(x, 0); the gradient at 0 is 0."""
        affine = x.op.as_affine() if x.is_pending else None
        source = affine or AffineOp.identity(x)

        def backward(output: Activation) -> None:
            mask = Mask(source.x.buffer().handle, source.scale, source.shift, source.mean)
            source.backward(*output.gradient.masked(self.runtime, output.form, mask))

        return self.recorded(Activation(self.runtime, x.form, ReluOp(source)), backward)

    def global_average_pool(self, x: Activation) -> Activation:
        """The mean over height and width: (batch, channels)."""
        out = self.runtime.buffers.take(Form.of_features(x.form.images, x.form.channels))
        self.runtime.kernels.pool(x.buffer().handle, out.handle, self.runtime.threads)

        def backward(output: Activation) -> None:
            x.gradient.terms.append(PoolTerm(output.gradient.total(self.runtime, output.form)))

        return self.recorded(Activation(self.runtime, out.form, InputNode(out)), backward)

    def add(self, x: Activation, y: Activation) -> Activation:
        """The sum of two tensors of equal shapes."""
        check_equal_shapes(x.form.dense, y.form.dense)

        def backward(output: Activation) -> None:
            gradient = output.gradient.total(self.runtime, output.form)
            x.gradient.ready.append(gradient)
            y.gradient.ready.append(gradient)

        return self.recorded(Activation(self.runtime, x.form, SumOp(x, y)), backward)

    def flatten(self, x: Activation, *, channels_first: bool = False) -> Activation:
        """Images as vectors.

        Args:
            x: images; vectors are returned themselves.
            channels_first: whether the features are in the order channel, height, width, as in PyTorch, or in the order
                height, width, channel.

        Returns:
            A copy, for the buffers have another order.
        """
        if x.form.features:
            return x
        form, runtime = x.form, self.runtime
        out = runtime.buffers.take(Form.of_features(form.images, form.height * form.width * form.channels))
        runtime.kernels.flatten(x.buffer().handle, out.handle, channels_first, runtime.threads)

        def backward(output: Activation) -> None:
            x.gradient.terms.append(FlattenTerm(output.gradient.total(runtime, output.form), channels_first))

        return self.recorded(Activation(runtime, out.form, InputNode(out), x.differentiable), backward)

    def tied(self, values: WeightSource, shape: tuple[int, ...], key: int) -> TiedWeight:
        """A dense weight whose entries share ``values`` by a hash."""
        return TiedWeight(values, shape, key)

    def recorded(self, output: Activation, backward: Callable[[Activation], None]) -> Activation:
        """Record an operation on the tape.

        Args:
            output: its output.
            backward: passes the output's gradient on to the operation's inputs and weights; called at most once, when
                all gradients of the output are known, and only if there are any.

        Returns:
            ``output``.
        """
        self.tape.record(output, backward)
        return output

    def _convolved(self, x: Activation, weight: WeightSource, window: Window) -> Activation:
        window.check_fits(weight.shape, x.form)
        weight.measure_input(x.sums_of_squares)
        layer = WeightedLayer(self.runtime, weight, window, self.lists)

        def backward(output: Activation) -> None:
            gradient = output.gradient.kernel_input(self.runtime, output.form)
            if x.differentiable:
                x.gradient.terms.append(ConvolutionTerm(layer, x.kernel_input(), gradient))
            else:
                layer.backward_weight(x.kernel_input(), gradient)

        output = Activation(self.runtime, layer.output(x.form), ConvolutionOp(layer, x))
        return self.recorded(output, backward)

    def _biased(self, x: Activation, bias: WeightSource) -> Activation:
        ones, zeros = x.form.constants()

        def backward(gradient: Buffer, sums: Sums) -> None:
            bias.add_dense_gradient(sums[:, 0])
            x.gradient.ready.append(gradient)

        return self._affine(AffineOp(x, ones, bias.to_array().astype(np.float32), zeros, backward, bias))

    def _affine(self, source: AffineOp) -> Activation:
        def backward(output: Activation) -> None:
            source.pass_on(self.runtime, output.gradient.total(self.runtime, output.form))

        return self.recorded(Activation(self.runtime, source.x.form, source), backward)


class CpuComputation:
    """Implements :class:`sparsecore.host.computation.Computation` on the kernels."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lists = ListCache(runtime.threads)

    def forward_backward(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the batch's mean loss to the parameters' gradients, and return the batch's totals."""
        tape: Tape[Activation] = Tape()
        ops = CpuOperations(self._runtime, self._lists, tape, of_batch)
        logits = model.forward(ops, parameters, self._packed(images))
        outputs = self._unpacked(logits.buffer())
        tape.backward(logits, self._features(mean_gradient(outputs, labels)))
        return batch_totals(outputs, labels)

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """Logits with running statistics, (batch, classes)."""
        ops = CpuOperations(self._runtime, self._lists, NullTape(), running)
        return self._unpacked(model.forward(ops, parameters, self._packed(images)).buffer())

    def cached_arrays(self, weight: WeightView) -> CachedArrays:
        """The indices of its active entries, and the lists that were made of it."""
        cached = self._lists.arrays(weight)
        return attrs.evolve(cached, indices=(*weight.indices, *cached.indices))

    def _packed(self, images: NDArray[Any]) -> Activation:
        count, height, width, channels = images.shape
        buffer = self._runtime.buffers.take(Form(count, height, width, channels))
        self._runtime.kernels.pack(np.asarray(images, np.float32), buffer.handle, self._runtime.threads)
        return Activation(self._runtime, buffer.form, InputNode(buffer), differentiable=False)

    def _features(self, vectors: NDArray[Any]) -> Buffer:
        buffer = self._runtime.buffers.take(Form.of_features(*vectors.shape))
        self._runtime.kernels.pack(vectors[:, None, None], buffer.handle, 1)
        return buffer

    def _unpacked(self, features: Buffer) -> NDArray[Any]:
        vectors = np.empty((features.form.images, features.form.channels), np.float32)
        self._runtime.kernels.unpack(features.handle, vectors[:, None, None], 1)
        return vectors
