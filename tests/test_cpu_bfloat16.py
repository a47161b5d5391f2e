"""Activations of images in bfloat16: half the memory, and everything else within its rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sparsecore_cpu._kernels")

from command_line import SMALL, said, small_images, sparsecore, train
from cpu_examples import HALVES, MACHINES, array_of, buffer_of, check, drawn, on, weight_of
from test_cpu_threads import assert_equal, computed

from sparsecore.errors import InputError
from sparsecore_cpu import CpuBackend, runtime
from sparsecore_cpu.runtime import Form, kernel_names

pytestmark = pytest.mark.usefixtures("quick_runs")

ROUNDING = 2e-2
"""A stored value is within 2⁻⁸ of itself; a few of them follow each other, and many add up."""

on_halves = pytest.mark.parametrize("machine", HALVES, ids=lambda machine: machine.kernels.name)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32, min_value=-(2.0**120), max_value=2.0**120)


def stored(*shape: int) -> Any:
    """Normal numbers that bfloat16 has."""
    return runtime.read(runtime.rounded(drawn(1, *shape)))


def some_of(dense: Any, share: float) -> Any:
    return weight_of(dense, np.flatnonzero(np.random.default_rng(5).random(dense.size) < share))


def norm(size: int) -> list[Any]:
    return [weight_of(abs(drawn(2, size)) + 1), weight_of(drawn(3, size)), np.zeros(size, "f4"), np.ones(size, "f4")]


@given(finite)
def test_a_value_is_stored_as_the_nearest_bfloat16(value: float) -> None:
    single = np.float32(value)
    there = runtime.read(runtime.rounded(single))
    steps = np.array([-1, 0, 1]) + runtime.rounded(single).astype(np.int64)
    around = runtime.read(np.clip(steps, 0, 2**16 - 1).astype(np.uint16)).astype(float)
    assert abs(float(there) - float(single)) == np.nanmin(abs(around - float(single)))
    assert runtime.rounded(there) == runtime.rounded(single)


NOT_NUMBERS = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFF8000], np.uint32).view("f4")
"""Their mantissa consists of ones, would be rounded to that of infinity, or has no bit but the first."""


def test_what_is_not_a_number_is_stored_as_that_and_infinities_as_themselves() -> None:
    assert np.isnan(runtime.read(runtime.rounded(NOT_NUMBERS))).all()
    infinite = np.array([np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(runtime.read(runtime.rounded(infinite)), infinite)


@on_halves
def test_kernels_store_what_is_not_a_number_as_that(machine: Any) -> None:
    x = np.zeros((len(NOT_NUMBERS) + 1, 1, 3, 1), np.float32)
    x[:-1, 0, 1, 0], x[-1] = NOT_NUMBERS, np.inf
    buffer = machine.buffers.take(Form(*x.shape))
    machine.kernels.pack(x, buffer.handle, 1)
    found = array_of(buffer)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(x))
    np.testing.assert_array_equal(found[-1], x[-1])


@on_halves
@pytest.mark.parametrize("batch", [1, 16, 37])
def test_kernels_round_as_numpy_does(machine: Any, batch: int) -> None:
    x = drawn(0, batch, 5, 18, 3)
    buffer = machine.buffers.take(Form(*x.shape))
    machine.kernels.pack(x, buffer.handle, 1)
    np.testing.assert_array_equal(array_of(buffer), runtime.read(runtime.rounded(x)))
    back = np.empty_like(x)
    machine.kernels.unpack(buffer.handle, back, 1)
    np.testing.assert_array_equal(back, array_of(buffer))


@on_halves
def test_images_take_half_the_memory_and_features_all_of_it(machine: Any) -> None:
    (single,) = (one for one in MACHINES if one.kernels.name == machine.kernels.name)
    for form, share in ((Form(20, 6, 7, 5), 2), (Form.of_features(20, 5), 1)):
        assert share * machine.buffers.take(form).array.nbytes == single.buffers.take(form).array.nbytes


@given(
    batch=st.integers(1, 20),
    height=st.integers(1, 9),
    width=st.integers(1, 11),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    density=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_a_convolution_and_its_gradients_equal_numpy_s_within_rounding(
    batch: int,
    height: int,
    width: int,
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    density: float,
) -> None:
    height, width = (max(side, kernel - 2 * padding) for side in (height, width))
    weight = some_of(drawn(0, outputs, channels, kernel, kernel), density)

    def forward(ops: Any, x: Any, w: list[Any]) -> Any:
        return ops.conv2d(x, w[0], stride=stride, padding=padding)

    check(forward, stored(batch, height, width, channels), [weight], rounding=ROUNDING, machines=HALVES)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [2, 33])
def test_a_residual_block_equals_numpy_s_within_rounding(batch: int, stride: int) -> None:
    weights = [
        *norm(20),
        some_of(drawn(0, 24, 20, 3, 3) / 5, 0.2),
        *norm(24),
        some_of(drawn(1, 24, 24, 3, 3) / 5, 0.2),
        weight_of(drawn(2, 24, 20, 1, 1) / 4),
    ]

    def forward(ops: Any, x: Any, w: list[Any]) -> Any:
        first = ops.batch_norm(x, *w[:4])
        inner = ops.batch_norm(ops.conv2d(first, w[4], stride=stride, padding=1), *w[5:9])
        return ops.add(ops.conv2d(inner, w[9], padding=1), ops.conv2d(first, w[10], stride=stride))

    check(forward, stored(batch, 8, 8, 20), weights, rounding=2 * ROUNDING, machines=HALVES)


def test_relu_equals_numpy_s_within_rounding() -> None:
    def kinks(ops: Any, x: Any, w: list[Any]) -> Any:
        return ops.batch_norm(x, *w)

    check(
        lambda ops, x, w: ops.relu(kinks(ops, x, w)),
        stored(18, 6, 5, 4),
        norm(4),
        kinks=kinks,
        rounding=ROUNDING,
        machines=HALVES,
    )


def test_the_mean_of_an_image_equals_numpy_s_within_rounding() -> None:
    def forward(ops: Any, x: Any, _: list[Any]) -> Any:
        return ops.global_average_pool(x)

    check(forward, stored(18, 6, 5, 4), [], rounding=ROUNDING, machines=HALVES)


def test_flattened_images_pass_their_gradient_back() -> None:
    def forward(ops: Any, x: Any, w: list[Any]) -> Any:
        return ops.linear(ops.flatten(x), w[0])

    weights = [some_of(drawn(0, 7, 5 * 6 * 2), 0.3)]
    check(forward, stored(19, 5, 6, 2), weights, rounding=ROUNDING, machines=HALVES)


@pytest.mark.parametrize("name", kernel_names())
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    one, other = (computed(name, threads, 37, 12, activations=runtime.STORED) for threads in (1, 3))
    assert_equal(one, other)


def test_mixed_activation_dtypes_are_refused() -> None:
    single, halves = on("baseline"), on("baseline", activations=runtime.STORED)
    form, ones = Form(3, 4, 5, 2), np.ones(2, np.float32)
    with pytest.raises(ValueError, match="one shape"):
        single.kernels.affine(single.buffers.take(form).handle, halves.buffers.take(form).handle, ones, ones, 1)


def test_a_buffer_returns_what_it_was_filled_with() -> None:
    for machine in (*HALVES, *MACHINES):
        x = stored(5, 3, 4, 2)
        np.testing.assert_array_equal(array_of(buffer_of(machine, x)), x)


def test_unknown_activation_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="as float32 or bfloat16; given 'float16'"):
        CpuBackend(activations="float16")
    data = ("--data-dir", small_images(tmp_path / "small.npz"), "--backend", "cpu", "--out", tmp_path / "run")
    assert "given 'float64'" in said(sparsecore("train", *SMALL, *data, "--set", "backend.activations=float64"))


@pytest.mark.slow
def test_a_run_in_bfloat16_learns_as_much_as_in_float32(tmp_path: Path) -> None:
    data = ("--data-dir", small_images(tmp_path / "small.npz"), "--backend", "cpu", "--model", "wrn-10-1")
    settings = (*SMALL, *data, "--epochs", "20", "--set", "strategy.schedule.steps=3")
    single = train(*settings, "--out", tmp_path / "single")
    halves = train(*settings, "--out", tmp_path / "halves", "--set", "backend.activations=bfloat16")
    assert halves["train_loss"] == pytest.approx(single["train_loss"], rel=0.2, abs=0.05)
    assert halves["train_loss"] != single["train_loss"]
    assert halves["sparse_parameters"] == single["sparse_parameters"]
