"""Convolutions whose weights read the output's own pixel only, as those of 1×1 pixel, and whatever looks like them."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES, array_of, buffer_of, check, drawn, on, weight_of

from sparsecore_cpu import _kernels, runtime
from sparsecore_cpu.convolution import LayerKernels
from sparsecore_cpu.runtime import Buffer, KernelInput, Runtime, kernel_names
from sparsecore_cpu.weight_lists import LayerLists, Taps
from sparsecore_cpu.window import Padding, Window

Array = NDArray[Any]

MOST_CHANNELS = 150
"""More than half a list has in one block of input channels, where weights are few."""


@attrs.frozen(eq=False)
class Example:
    """A layer of 1×1 pixel, and all that its kernels may be given; arrays are (images, height, width, channels).

    Attributes:
        weight: (outputs, inputs), zero where weights are not active.
        x: the input, of which rectified(x·scale + shift) is read where ``is_fused``.
        gradient: of the outputs, to which ``other`` is added, by channel, where ``is_fused``.
        add: is added to the outputs.
        mask: where it is positive there is a gradient of the inputs.
    """

    weight: Array
    x: Array
    gradient: Array
    other: Array
    add: Array
    mask: Array
    stride: int
    is_fused: bool

    @classmethod
    def of(cls, seed: int, images: int, sides: tuple[int, int], channels: tuple[int, int], **more: Any) -> "Example":
        """Draw numbers that bfloat16 has; ``more`` are stride, is_fused and the threshold of active ones."""
        (outputs, inputs), stride = channels, more["stride"]
        made = [-(-side // stride) for side in sides]
        dense = drawn(seed, outputs, inputs) * (drawn(seed + 1, outputs, inputs) < more["threshold"])
        small, large = (images, *made, outputs), (images, *sides, inputs)
        arrays = [drawn(seed + 2 + number, *shape) for number, shape in enumerate([large, small, small, small])]
        mask = np.sign(drawn(seed + 6, *large)).astype(np.float32)
        return cls(dense, *(runtime.read(runtime.rounded(one)) for one in arrays), mask, stride, more["is_fused"])

    @property
    def positions(self) -> Array:
        """Those of the active weights."""
        return np.flatnonzero(self.weight)

    def kernels(self, machine: Runtime) -> LayerKernels:
        """The layer's kernels, which list its weights."""
        shape = (*self.weight.shape, 1, 1)
        lists = LayerLists(shape, Window(self.stride), machine.threads, lambda: Taps.of(shape, self.positions))
        return LayerKernels(machine.kernels, lists)

    def computed(self, machine: Runtime) -> list[Array]:
        """What the kernels make: outputs, their sums, the inputs' gradient, its sums, and the weights' twice."""
        layer, values = self.kernels(machine), self.weight.reshape(-1)[self.positions]
        x, gradient, other, add, mask = (
            buffer_of(machine, one) for one in (self.x, self.gradient, self.other, self.add, self.mask)
        )
        read, given_gradient = KernelInput.plain(x), KernelInput.plain(gradient)
        if self.is_fused:
            handle = _kernels.Input.rectified(x.handle, *by_channel(self.x))
            read = KernelInput(x.form, handle, lambda: x, (x,))
            factors = (*by_channel(self.gradient), by_channel(self.gradient)[0])
            handle = _kernels.Input.combined(gradient.handle, other.handle, *factors)
            given_gradient = KernelInput(gradient.form, handle, lambda: gradient, (gradient, other))
        out, sums = machine.buffers.take(add.form), np.zeros((add.form.channels, 2))
        layer.forward(read, values, out, add, sums)
        ones, zeros = x.form.constants()
        by_input = machine.buffers.take(x.form)
        masked = _kernels.Mask(mask.handle, ones, zeros, ones)
        by_weight, mask_sums = layer.backward(read, given_gradient, values, by_input, x, masked)
        alone = layer.backward_weight(read, given_gradient)
        return [array_of(out), sums, array_of(by_input), mask_sums, by_weight, alone]

    def expected(self) -> list[Array]:
        """The same in double precision."""
        x, gradient, weight = (one.astype(float) for one in (self.x, self.gradient, self.weight))
        read = x
        if self.is_fused:
            scale, shift = by_channel(self.x)
            read = np.maximum(x * scale + shift, 0)
            scale, factor = by_channel(self.gradient)
            gradient = gradient * scale + self.other * factor + scale
        read = read[:, :: self.stride, :: self.stride]
        out = read @ weight.T + self.add
        by_input = x.copy()
        by_input[:, :: self.stride, :: self.stride] += gradient @ weight
        by_input *= self.mask > 0
        by_weight = np.einsum("nhwo,nhwi->oi", gradient, read).reshape(-1)[self.positions]
        return [out, sums_of(out, out), by_input, sums_of(by_input, self.mask - 1.0), by_weight, by_weight]


def by_channel(array: Array) -> tuple[Any, Any]:
    """A factor and a summand for each channel."""
    channels = np.arange(array.shape[-1], dtype=np.float32)
    return 1 + channels % 3 / 4, channels % 5 / 4 - 0.5


def sums_of(one: Array, other: Array) -> Array:
    """The sums by channel of an array, and of its products with another one."""
    axes = tuple(range(one.ndim - 1))
    return np.stack([one.sum(axes), (one * other).sum(axes)], 1)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Of whatever sizes there are."""
    sides = draw(st.integers(1, 9)), draw(st.integers(1, 18))
    channels = draw(st.integers(1, MOST_CHANNELS)), draw(st.integers(1, MOST_CHANNELS))
    more = {"threshold": draw(st.sampled_from([-3.0, -1.3, 0.0])), "stride": draw(st.integers(1, 3))}
    return Example.of(
        draw(st.integers(0, 2**32)), draw(st.integers(1, 34)), sides, channels, is_fused=draw(st.booleans()), **more
    )


def assert_close(given_: list[Array], expected: list[Array], rounding: float) -> None:
    for one, other in zip(given_, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=rounding * max(1, abs(other).max(initial=0)))


@settings(max_examples=15)
@given(examples())
def test_outputs_gradients_and_sums_are_numpy_s(example: Example) -> None:
    expected = example.expected()
    for machine in MACHINES:
        assert_close(example.computed(machine), expected, 2e-5)


@settings(max_examples=5)
@given(examples())
def test_images_in_bfloat16_are_rounded_where_they_are_stored_only(example: Example) -> None:
    expected = example.expected()
    for machine in HALVES:
        out, sums, by_input, mask_sums, *by_weight = example.computed(machine)
        assert_close([out, by_input], [expected[0], expected[2]], 2.0**-7)
        assert_close([sums, mask_sums, *by_weight], [expected[1], expected[3], *expected[4:]], 2e-5)


@pytest.mark.parametrize("name", kernel_names())
@settings(max_examples=4)
@given(examples())
def test_any_number_of_threads_gives_the_same_bits(name: str, example: Example) -> None:
    alone = example.computed(on(name, 1))
    for threads in (2, 5):
        for one, other in zip(example.computed(on(name, threads)), alone, strict=True):
            np.testing.assert_array_equal(one, other)


def listed_channels(shape: tuple[int, ...], window: Window, positions: Array, x: Buffer, machine: Runtime) -> Array:
    """The channels that a list names after it was used."""
    lists = LayerLists(shape, window, 1, lambda: Taps.of(shape, positions))
    made = window.outputs((x.form.height, x.form.width), (shape[2], shape[3]))
    out = machine.buffers.take(attrs.evolve(x.form, height=made[0], width=made[1], channels=shape[0]))
    LayerKernels(machine.kernels, lists).forward(KernelInput.plain(x), np.ones(len(positions), np.float32), out)
    (listed,) = lists.made
    channels: Array = listed.indices[-1]
    return channels


def test_lists_name_channels_where_all_weights_read_the_own_pixel_and_nowhere_else() -> None:
    machine = MACHINES[0]
    x = buffer_of(machine, drawn(0, 3, 5, 4, 6))
    few = np.array([0, 4, 5, 7])
    np.testing.assert_array_equal(listed_channels((2, 6, 1, 1), Window(2), few, x, machine), [0, 4, 5, 1])
    assert not len(listed_channels((2, 6, 1, 1), Window(1, Padding(1, 1, 1, 1)), few, x, machine))
    assert not len(listed_channels((2, 6, 1, 1), Window(), np.arange(12), x, machine))  # bundled
    below = np.array([1, 3])  # the lower one of two rows, which is as far away as six channels
    assert not len(listed_channels((2, 6, 2, 1), Window(), below, x, machine))
    again = listed_channels((2, 6, 2, 1), Window(), below - 1, x, machine)  # the upper one is the own pixel
    np.testing.assert_array_equal(again, [0, 1])


@pytest.mark.parametrize("row", [0, 1])
def test_a_kernel_of_two_rows_of_which_one_is_active_is_numpy_s(row: int) -> None:
    dense = drawn(1, 7, 20, 2, 1)
    weight = weight_of(dense, np.arange(dense.size).reshape(7, 20, 2)[:, ::3, row].reshape(-1))
    check(lambda ops, x, w: ops.conv2d(x, w[0]), drawn(2, 17, 6, 9, 20), [weight])
