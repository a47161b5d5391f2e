"""The CPU backend's operations and those of NumPy in double precision, from the same inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsecore.host.buffers import BufferPool
from sparsecore.host.computation import NullTape, Tape
from sparsecore.host.weights import WeightView
from sparsecore_cpu import _kernels, runtime
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Buffer, Buffers, Form, Runtime, kernel_names
from sparsecore_cpu.weighted import ListCache
from sparsecore_numpy import normalization, operations
from sparsecore_numpy.workspace import WorkerPool, Workspace

Array = NDArray[Any]
Forward = Callable[[Any, Any, list[Any]], Any]

ORACLE = Workspace(BufferPool("float64"), WorkerPool(1))


def on(kernels: str, threads: int = 1, activations: DTypeLike = np.float32) -> Runtime:
    """A machine of its own."""
    bound = _kernels.Kernels(kernels)
    return Runtime(bound, threads, Buffers(bound.lanes, activations))


def drawn(seed: int, *shape: int) -> NDArray[np.float32]:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MACHINES = [on(name) for name in kernel_names()]
"""One for each instruction set that this processor has."""

HALVES = [on(name, activations=runtime.STORED) for name in kernel_names()]
"""Likewise, with images in bfloat16."""


def buffer_of(machine: Runtime, array: Array, border: int = 1) -> Buffer:
    """Images (batch, height, width, channels) with a border, or vectors (batch, features), image by image."""
    form = Form(*array.shape, border) if array.ndim == 4 else Form.of_features(*array.shape)
    buffer = machine.buffers.take(form)
    inside = np.zeros_like(buffer.inside)
    for image, own in enumerate(array):
        block, lane = divmod(image, machine.kernels.lanes)
        if form.features:
            inside[0, 0, :, block, lane] = own
        else:
            inside[block, ..., lane] = own.transpose(0, 2, 1)
    buffer.fill(inside)
    return buffer


def array_of(buffer: Buffer) -> Array:
    """The other way; whatever is not inside, or beyond the batch, is zero."""
    form, lanes = buffer.form, buffer.array.shape[-1]
    array = np.empty(form.dense, np.float32)
    left = runtime.read(buffer.array) if buffer.array.dtype == runtime.STORED else buffer.array.copy()
    border = form.border
    for image in range(form.images):
        block, lane = divmod(image, lanes)
        if form.features:
            there = left[0, 0, :, block, lane]
            array[image] = there
        else:
            there = left[block, border : border + form.height, :, border : border + form.width, lane]
            array[image] = there.transpose(0, 2, 1)
        there[...] = 0
    assert not left.any()
    return array


def weight_of(dense: Array, positions: Array | None = None) -> WeightView:
    """Of these entries of a dense tensor those at the positions, or all."""
    positions = np.arange(dense.size) if positions is None else positions
    values = dense.reshape(-1)[positions].copy()
    return WeightView(dense.shape, positions, values, np.zeros_like(values))


def in_double(weights: list[Any]) -> list[Any]:
    """Copies, for NumPy."""
    return [
        WeightView(one.shape, one.positions, one.values.astype(float), np.zeros(len(one.values)))
        if isinstance(one, WeightView)
        else one.astype(float)
        for one in weights
    ]


def in_single(weights: list[Any]) -> list[Any]:
    """Copies, for the kernels."""
    return [
        WeightView(one.shape, one.positions, one.values.copy(), np.zeros_like(one.values))
        if isinstance(one, WeightView)
        else one.copy()
        for one in weights
    ]


@attrs.frozen(eq=False)
class Outcome:
    """What an operation made.

    Attributes:
        output: of it.
        by_input: the gradient of a linear function of the output for the input; None where it is not needed.
        by_weight: for each weight; of an array, which is a running statistic, what it is afterwards.
    """

    output: Array
    by_input: Array | None
    by_weight: list[Array]

    @property
    def arrays(self) -> list[Array]:
        """All of them."""
        return [self.output, *([] if self.by_input is None else [self.by_input]), *self.by_weight]


def in_numpy(forward: Forward, x: Array, given: list[Any], direction: Array) -> Outcome:
    """In double precision; the gradients are those of the output times ``direction``."""
    tape, there, weights = Tape(), operations.Tensor(x.astype(float)), in_double(given)
    output = forward(operations.NumpyOperations(ORACLE, tape, normalization.of_batch), there, weights)
    kept = output.data.copy()
    tape.backward(output, direction.astype(float))
    return Outcome(kept, there.gradient, _after(weights))


def output_of(forward: Forward, x: Array, given: list[Any]) -> Array:
    """In double precision, without gradients."""
    ops = operations.NumpyOperations(ORACLE, NullTape(), normalization.of_batch)
    return np.asarray(forward(ops, operations.Tensor(x.astype(float)), in_double(given)).data)


def in_kernels(
    machine: Runtime, forward: Forward, x: Array, given: list[Any], direction: Array, *, differentiable: bool = True
) -> Outcome:
    """By the kernels."""
    tape, weights, buffer = Tape(), in_single(given), buffer_of(machine, x)
    there = Activation(machine, buffer.form, InputNode(buffer), differentiable)
    output = forward(CpuOperations(machine, ListCache(), tape, of_batch), there, weights)
    made = array_of(output.buffer())
    tape.backward(output, buffer_of(machine, direction))
    by_input = array_of(there.gradient.total(machine, there.form)) if there.has_gradient else None
    np.testing.assert_array_equal(array_of(buffer), x)
    return Outcome(made, by_input, _after(weights))


def _after(weights: list[Any]) -> list[Array]:
    return [one.gradient if isinstance(one, WeightView) else one for one in weights]


def assert_close(given: Outcome, expected: Outcome, rounding: float = 1e-5) -> None:
    """Within so much of each array's largest entry, or of 1."""
    assert (given.by_input is None) == (expected.by_input is None)
    for one, other in zip(given.arrays, expected.arrays, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=rounding * max(1, abs(other).max(initial=0)))


def check(
    forward: Forward,
    x: Array,
    weights: list[Any],
    *,
    kinks: Forward | None = None,
    rounding: float = 1e-5,
    machines: Sequence[Runtime] = MACHINES,
) -> None:
    """With all kernels, outputs and all gradients are NumPy's.

    ``kinks`` computes what relu is of, at the end of ``forward``: no gradient is looked at so near to zero that a
    rounding decides what it is.
    """
    shape = output_of(forward, x, weights).shape
    direction = runtime.read(runtime.rounded(np.random.default_rng(9).standard_normal(shape).astype(np.float32)))
    if kinks is not None:
        direction[abs(output_of(kinks, x, weights)) < 10 * rounding] = 0
    expected = in_numpy(forward, x, weights, direction)
    for machine in machines:
        assert_close(in_kernels(machine, forward, x, weights, direction), expected, rounding)
