"""Operations of the CPU backend on several activations and weights, and PyTorch's in double precision."""

from collections.abc import Callable, Sequence

import attrs
import numpy as np
import torch
from cpu_examples import MACHINES, Array, array_of, buffer_of, drawn, in_single
from hypothesis import strategies as st

from sparsecore.host.computation import Tape
from sparsecore.host.weights import WeightView
from sparsecore_cpu import runtime
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Runtime
from sparsecore_cpu.weighted import ListCache

Kernels = Callable[..., Activation]
Reference = Callable[..., torch.Tensor]


@attrs.frozen
class Example:
    """The shape of an activation, its border, and the seed of its entries."""

    shape: tuple[int, ...]
    border: int
    seed: int

    @property
    def array(self) -> Array:
        """Normal numbers of this shape."""
        return drawn(self.seed, *self.shape)


def batches() -> st.SearchStrategy[int]:
    """One image, about as many as a vector of each instruction set has lanes, and some more."""
    return st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40])


@st.composite
def images(draw: st.DrawFn, most_channels: int = 12) -> Example:
    """Images (batch, height, width, channels)."""
    sides = draw(st.sampled_from([(1, 1), (1, 5), (2, 3), (7, 5), (33, 2)]))
    shape = (draw(batches()), *sides, draw(st.integers(1, most_channels)))
    return Example(shape, draw(st.integers(0, 2)), draw(st.integers(0, 2**32)))


@st.composite
def features(draw: st.DrawFn, most_channels: int = 40) -> Example:
    """Vectors (batch, features)."""
    shape = (draw(batches() | st.just(150)), draw(st.integers(1, most_channels)))
    return Example(shape, 0, draw(st.integers(0, 2**32)))


@attrs.frozen(eq=False)
class Outcome:
    """An output, and the gradients of its sum weighted by a direction for all inputs and weights."""

    output: Array
    gradients: list[Array]


def direction_for(output: Array) -> Array:
    """A gradient of the output, which bfloat16 represents exactly."""
    return runtime.read(runtime.rounded(drawn(output.size, *output.shape)))


def in_torch(reference: Reference, arrays: Sequence[Array], direction: Array | None = None) -> Outcome:
    """In double precision, from arrays of the logical shapes."""
    tensors = [torch.tensor(array.astype(np.float64), requires_grad=True) for array in arrays]
    output = reference(*tensors)
    made = output.detach().numpy()
    weights = torch.tensor(direction_for(made) if direction is None else direction, dtype=torch.float64)
    (output * weights).sum().backward()
    return Outcome(made, [np.zeros(one.shape) if one.grad is None else one.grad.numpy() for one in tensors])


def in_kernels(
    machine: Runtime,
    kernels: Kernels,
    arrays: Sequence[Array],
    weights: Sequence[WeightView] = (),
    direction: Array | None = None,
    border: int = 1,
) -> Outcome:
    """By the kernels: ``kernels(ops, *activations, *weights)``."""
    tape: Tape[Activation] = Tape()
    ops = CpuOperations(machine, ListCache(), tape, of_batch)
    buffers = [buffer_of(machine, array, border) for array in arrays]
    given = [Activation(machine, buffer.form, InputNode(buffer)) for buffer in buffers]
    own = in_single(list(weights))
    output = kernels(ops, *given, *own)
    made = array_of(output.buffer())
    dense = direction_for(made) if direction is None else direction
    tape.backward(output, buffer_of(machine, dense, border))
    gradients = [array_of(one.gradient.total(machine, one.form)) for one in given]
    for buffer, array in zip(buffers, arrays, strict=True):
        np.testing.assert_array_equal(array_of(buffer), array)
    return Outcome(made, [*gradients, *map(_dense_gradient, own)])


def _dense_gradient(weight: WeightView) -> Array:
    """Its gradient, zero where it is not active."""
    dense = np.zeros(weight.shape, np.float32)
    dense.reshape(-1)[weight.positions] = weight.gradient
    return dense


def assert_close(given: Outcome, expected: Outcome, rounding: float) -> None:
    """Each entry within so much of itself, or of 1 where that is more; gradients likewise of the largest one."""
    assert given.output.shape == expected.output.shape
    np.testing.assert_allclose(given.output, expected.output, rtol=rounding, atol=rounding)
    for one, other in zip(given.gradients, expected.gradients, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding * max(1, abs(other).max(initial=0)))


def check(
    kernels: Kernels,
    reference: Reference,
    arrays: Sequence[Array],
    weights: Sequence[WeightView] = (),
    *,
    border: int = 1,
    rounding: float = 1e-6,
    machines: Sequence[Runtime] = MACHINES,
) -> None:
    """With all kernels, output and gradients are those of ``reference(*arrays, *weights)`` in double precision."""
    dense = [weight.to_array() for weight in weights]
    expected = in_torch(reference, [*arrays, *dense])
    for machine in machines:
        given = in_kernels(machine, kernels, arrays, weights, direction_for(expected.output), border)
        assert_close(given, expected, rounding)


def halved(array: Array) -> Array:
    """The nearest numbers that bfloat16 represents."""
    return runtime.read(runtime.rounded(array))
