"""Convolutions with any stride, padding, dilation and groups, and their gradients, are torch's in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, drawn, in_kernels, on, weight_of
from torch.nn import functional
from torch_oracles import check_against_torch, check_halves_against_torch

from sparsecore.errors import InputError
from sparsecore.host.computation import Moments
from sparsecore_cpu.batch_norm import Norm
from sparsecore_cpu.window import Padding, Window

LANES = MACHINES[0].kernels.lanes


def some_of(dense: Any, density: float) -> Any:
    """A weight with about this share of the entries."""
    return weight_of(dense, np.flatnonzero(np.random.default_rng(dense.size).random(dense.size) < density))


def both(window: dict[str, Any]) -> tuple[Any, Any]:
    """The convolution by the backend and by torch, where the padding may be a tuple (top, bottom, left, right)."""
    sides = window["padding"]
    rest = {name: value for name, value in window.items() if name != "padding"}

    def theirs(x: Any, weights: list[Any]) -> Any:
        top, bottom, left, right = sides
        return functional.conv2d(functional.pad(x, (left, right, top, bottom)), *weights, **rest)

    return lambda ops, x, weights: ops.conv2d(x, *weights, padding=Padding(*sides), **rest), theirs


batches = st.sampled_from([1, LANES - 1, LANES, LANES + 1]) | st.integers(1, 40)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, list[Any], dict[str, Any]]:
    """Images, a weight with or without a bias, and a window."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride, dilation = draw(pairs), draw(pairs)
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    groups = draw(st.sampled_from([1, 1, 2, 3, 5]))
    into, out = draw(st.integers(1, 20 // groups)), draw(st.integers(1, 5) | st.sampled_from([4, 8]))
    reach = [step * (taps - 1) + 1 for step, taps in zip(dilation, kernel, strict=True)]
    height = draw(st.integers(max(1, reach[0] - padding[0] - padding[1]), 13))
    width = draw(st.integers(max(1, reach[1] - padding[2] - padding[3]), 13))
    seed = draw(st.integers(0, 2**32))
    x = drawn(seed, draw(batches), height, width, into * groups)
    weight = some_of(drawn(seed + 1, out * groups, into, *kernel), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])))
    bias = [weight_of(drawn(seed + 2, out * groups))] if draw(st.booleans()) else []
    return x, [weight, *bias], {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


@settings(max_examples=60)
@given(convolutions())
def test_convolutions_and_their_gradients_equal_torch_s(case: tuple[Any, list[Any], dict[str, Any]]) -> None:
    x, weights, window = case
    check_against_torch(*both(window), x, weights)


@settings(max_examples=20)
@given(convolutions())
def test_convolutions_of_images_in_bfloat16_equal_torch_s_up_to_rounding(
    case: tuple[Any, list[Any], dict[str, Any]],
) -> None:
    x, weights, window = case
    check_halves_against_torch(*both(window), x, weights)


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize(("channels", "outputs", "groups"), [(24, 24, 24), (24, 48, 24), (64, 96, 2), (64, 64, 8)])
def test_grouped_and_depthwise_convolutions_equal_torch_s(
    channels: int, outputs: int, groups: int, density: float
) -> None:
    x, weight = drawn(0, 17, 9, 10, channels), some_of(drawn(1, outputs, channels // groups, 3, 3), density)
    for stride in (1, 2):
        window = {"stride": stride, "padding": (1, 1, 1, 1), "groups": groups}
        check_against_torch(*both(window), x, [weight])


def test_a_bias_relu_and_another_convolution_have_torch_s_gradients() -> None:
    x, first, second = drawn(0, 5, 8, 9, 3), weight_of(drawn(1, 6, 3, 5, 5)), weight_of(drawn(2, 4, 6, 3, 3))
    weights = [first, weight_of(drawn(3, 6)), second, weight_of(drawn(4, 4))]
    window: dict[str, Any] = {"padding": 2, "dilation": 1, "stride": (2, 1)}

    def ours(ops: Any, x: Any, weights: list[Any]) -> Any:
        return ops.conv2d(ops.relu(ops.conv2d(x, *weights[:2], **window)), *weights[2:])

    def theirs(x: Any, weights: list[Any]) -> Any:
        return functional.conv2d(functional.relu(functional.conv2d(x, *weights[:2], **window)), *weights[2:])

    check_against_torch(ours, theirs, x, weights)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_a_convolution_with_a_bias_has_torch_s_gradients(training: bool, shared: bool) -> None:
    x, channels = drawn(0, 19, 6, 7, 3), 5
    mean, variance = drawn(7, channels), np.abs(drawn(8, channels)) + 1
    shapes = ((channels, 3, 3, 3), (channels,), (channels,), (channels,))
    weights = [weight_of(drawn(seed, *shape)) for seed, shape in enumerate(shapes)]
    moved = []

    def ours(ops: Any, x: Any, w: list[Any]) -> Any:
        y = ops.conv2d(x, w[0], w[1], padding=1)
        running = mean.copy(), variance.copy()
        if training:
            normalized = ops.batch_norm(y, *w[2:], *running)
        else:
            scale, shift = (one.to_array() for one in w[2:])
            moments = Moments(*(one.astype(float) for one in running))
            normalized = ops.normalized(y, Norm(moments, scale, shift, is_of_batch=False), *w[2:])
        assert y.is_pending
        moved.append(running)
        return ops.relu(ops.add(normalized, y) if shared else normalized)

    statistics = torch.from_numpy(mean.astype(float)), torch.from_numpy(variance.astype(float))

    def theirs(x: Any, w: list[Any]) -> Any:
        y = functional.conv2d(x, w[0], w[1], padding=1)
        running = [one.clone() for one in statistics]
        normalized = functional.batch_norm(y, *running, *w[2:], training=training)
        expected[:] = [one.numpy() for one in running]
        return functional.relu(normalized + y if shared else normalized)

    expected: list[Any] = []
    check_against_torch(ours, theirs, x, weights, rounding=1e-4)
    for own in moved:
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


def test_threads_change_no_bit() -> None:
    x, weight = drawn(0, 2 * LANES + 1, 11, 10, 12), some_of(drawn(1, 18, 4, 3, 2), 0.5)
    window = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 3}
    ours, _ = both(window)
    name = MACHINES[0].kernels.name
    shape = (
        len(x),
        *Window(window["stride"], Padding(*window["padding"]), window["dilation"]).outputs((11, 10), (3, 2)),
        18,
    )
    one, *others = (in_kernels(on(name, threads), ours, x, [weight], drawn(2, *shape)) for threads in (1, 2, 5))
    for other in others:
        for first, second in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_array_equal(first, second)


@settings(max_examples=40)
@given(st.tuples(st.integers(1, 7), st.integers(1, 7)), pairs)
def test_padding_same_keeps_height_and_width(kernel: tuple[int, int], dilation: tuple[int, int]) -> None:
    window = Window(padding=Padding.same(kernel, dilation), dilation=dilation)
    assert window.outputs((9, 8), kernel) == (9, 8)
    odd_at_the_end = window.padding.bottom - window.padding.top, window.padding.right - window.padding.left
    assert set(odd_at_the_end) <= {0, 1}


WRONG = {
    "stride": [0, -1, (1, 0), (1, 2, 3), 1.5, "two"],
    "dilation": [0, (0, 1), None],
    "padding": [-1, (1, -1), (1, 2, 3, 4), "same", Padding(top=-1)],
    "groups": [0, -2, 1.0],
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_out_of_range_are_refused_with_a_sentence_that_names_them(name: str) -> None:
    for wrong in WRONG[name]:
        with pytest.raises(InputError, match=rf"{name}.*must be an integer of at least [01]|{name}.*at least"):
            Window(**{name: wrong})


def test_layers_that_do_not_fit_are_refused_with_a_sentence() -> None:
    x = drawn(0, 2, 4, 5, 6)

    def refused(shape: tuple[int, ...], message: str, **window: Any) -> None:
        with pytest.raises(InputError, match=message):
            in_kernels(
                on("baseline"), lambda ops, x, w: ops.conv2d(x, w[0], **window), x, [weight_of(drawn(1, *shape))], x
            )

    refused(
        (4, 6, 3, 3), r"weights of shape \(4, 6, 3, 3\) and 2 groups cannot take a tensor of \(2, 4, 5, 6\)", groups=2
    )
    refused((4, 2, 3, 3), "4 output channels cannot be split into 3 equal groups", groups=3)
    refused((4, 6, 3, 3), r"3×3 with a dilation of 2×2 does not fit into images of 4×5 pixels", dilation=2)
    refused((4, 6, 6, 3), "does not fit.*padding of 1, 0, 0 and 0", padding=Padding(top=1))
