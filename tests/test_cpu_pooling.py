"""Pooling on the CPU backend, and its gradients, are torch's in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import HALVES, MACHINES, drawn, in_kernels, on, weight_of
from torch.nn import functional
from torch_oracles import check_against_torch, check_halves_against_torch, in_halves

from sparsecore.errors import InputError
from sparsecore_cpu.pixel_windows import PoolingAxis
from sparsecore_cpu.pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, global_max_pool, max_pool2d

LANES = MACHINES[0].kernels.lanes

batches = st.sampled_from([1, LANES - 1, LANES, LANES + 1]) | st.integers(1, 40)
sides = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def images(draw: st.DrawFn, *, ties: bool = False) -> Any:
    """Images of any batch, sides and channels; with ties of few different numbers."""
    x = drawn(draw(st.integers(0, 2**32)), draw(batches), *draw(sides), draw(st.integers(1, 9)))
    return np.round(x).astype(np.float32) if ties else x


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Settings that max and average pooling share."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    stride = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}


def fitting(x: Any, window: dict[str, Any]) -> bool:
    """Whether there is a window at all."""
    kernel, padding = window["kernel"], window["padding"]
    strides = window["stride"] or kernel
    axes = [PoolingAxis(*of, window["ceil_mode"]) for of in zip(kernel, strides, padding, strict=True)]
    return all(axis.outputs(side) > 0 for axis, side in zip(axes, x.shape[1:3], strict=True))


def by_torch(window: dict[str, Any]) -> dict[str, Any]:
    """The settings by torch's names."""
    return {"kernel_size" if name == "kernel" else name: value for name, value in window.items()}


@settings(max_examples=60)
@given(images(ties=True), windows())
def test_max_pooling_equals_torch_s_and_sends_gradients_to_the_first_maximum(x: Any, window: dict[str, Any]) -> None:
    assume(fitting(x, window))
    options = by_torch(window)

    def ours(ops: Any, x: Any, _: Any) -> Any:
        return max_pool2d(ops, x, **window)

    def theirs(x: Any, _: Any) -> Any:
        return functional.max_pool2d(x, **options)

    check_against_torch(ours, theirs, x)
    check_halves_against_torch(ours, theirs, x)


@settings(max_examples=60)
@given(images(), windows(), st.booleans(), st.none() | st.sampled_from([1, 3, -2]))
def test_average_pooling_equals_torch_s(x: Any, window: dict[str, Any], include: bool, divisor: int | None) -> None:
    assume(fitting(x, window))
    options = by_torch(window) | {"count_include_pad": include, "divisor_override": divisor}

    def ours(ops: Any, x: Any, _: Any) -> Any:
        return avg_pool2d(ops, x, **window, count_include_pad=include, divisor=divisor)

    check_against_torch(ours, lambda x, _: functional.avg_pool2d(x, **options), x)
    check_halves_against_torch(ours, lambda x, _: functional.avg_pool2d(x, **options), x)


@settings(max_examples=40)
@given(images(), st.tuples(st.none() | st.integers(1, 15), st.integers(1, 15)))
def test_adaptive_pooling_to_any_size_equals_torch_s(x: Any, size: tuple[int | None, int]) -> None:
    for ours, theirs in (
        (adaptive_avg_pool2d, functional.adaptive_avg_pool2d),
        (adaptive_max_pool2d, functional.adaptive_max_pool2d),
    ):
        check_against_torch(lambda ops, x, _, of=ours: of(ops, x, size), lambda x, _, of=theirs: of(x, size), x)


@settings(max_examples=10)
@given(images(ties=True))
def test_the_global_maximum_is_a_vector_of_features(x: Any) -> None:
    check_against_torch(
        lambda ops, x, _: global_max_pool(ops, x), lambda x, _: functional.adaptive_max_pool2d(x, 1).flatten(1), x
    )


@pytest.mark.parametrize("machine", [*MACHINES, *HALVES], ids=lambda machine: machine.kernels.name)
def test_nan_and_infinities_are_pooled_as_by_torch(machine: Any) -> None:
    x = in_halves(drawn(0, 3, 7, 6, 2))
    x[0, 1:4, 2:4], x[1, 2, 3], x[2] = np.nan, np.inf, -np.inf
    there = torch.from_numpy(x).permute(0, 3, 1, 2).clone().requires_grad_()
    expected = functional.max_pool2d(there, 3, 2, 1)
    expected.backward(torch.ones_like(expected))
    made = in_kernels(machine, lambda ops, x, _: max_pool2d(ops, x, 3, 2, 1), x, [], np.ones((3, 4, 3, 2), np.float32))
    np.testing.assert_array_equal(made.output, expected.detach().permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(made.by_input, there.grad.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("make", [on, lambda name, threads: on(name, threads, np.uint16)], ids=["float32", "bfloat16"])
def test_threads_change_no_bit(make: Any) -> None:
    x, name = in_halves(drawn(0, 2 * LANES + 1, 40, 9, 5)), MACHINES[0].kernels.name

    def forward(ops: Any, x: Any, _: Any) -> Any:
        return avg_pool2d(ops, max_pool2d(ops, x, 3, 2, 1), 3, 1, 1)

    one, *others = (
        in_kernels(make(name, threads), forward, x, [], drawn(1, len(x), 20, 5, 5)) for threads in (1, 2, 5)
    )
    for other in others:
        np.testing.assert_array_equal(other.output, one.output)
        np.testing.assert_array_equal(other.by_input, one.by_input)


def test_gradients_of_pooling_are_added_to_others() -> None:
    def ours(ops: Any, x: Any, _: Any) -> Any:
        return ops.add(ops.add(max_pool2d(ops, x, 3, 1, 1), avg_pool2d(ops, x, 3, 1, 1)), ops.relu(x))

    def theirs(x: Any, _: Any) -> Any:
        return functional.max_pool2d(x, 3, 1, 1) + functional.avg_pool2d(x, 3, 1, 1) + functional.relu(x)

    check_against_torch(ours, theirs, drawn(0, 5, 6, 7, 3))


@settings(max_examples=20)
@given(images(), st.booleans())
def test_max_pooling_of_batch_norm_and_relu_has_torch_s_gradients(x: Any, shared: bool) -> None:
    assume(x[..., 0].size > 8)
    channels = x.shape[-1]
    scale, shift = (weight_of(one) for one in drawn(channels, 2, channels))

    def ours(ops: Any, x: Any, weights: list[Any]) -> Any:
        mean, variance = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        active = ops.relu(ops.batch_norm(x, *weights, mean, variance))
        pooled = max_pool2d(ops, active, 3, 1, 1)
        return ops.add(pooled, active) if shared else pooled

    def theirs(x: Any, weights: list[Any]) -> Any:
        active = functional.relu(functional.batch_norm(x, None, None, *weights, training=True))
        return functional.max_pool2d(active, 3, 1, 1) + (active if shared else 0)

    check_against_torch(ours, theirs, x, [scale, shift], rounding=1e-4)


def test_pooling_what_needs_no_gradient_computes_none() -> None:
    forward = lambda ops, x, _: avg_pool2d(ops, max_pool2d(ops, x, 2), 2)  # noqa: E731
    made = in_kernels(MACHINES[0], forward, drawn(0, 3, 8, 8, 2), [], drawn(1, 3, 2, 2, 2), differentiable=False)
    assert made.by_input is None


REFUSED = {
    "a padding over half the kernel": ("at most half the kernel", {"kernel": 3, "padding": 2}),
    "a kernel larger than the images": ("does not fit into images of 4×4", {"kernel": 5}),
    "no stride": ("the stride must be an integer of at least 1", {"kernel": 2, "stride": 0}),
    "no kernel": ("the kernel must be an integer of at least 1", {"kernel": (0, 2)}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_out_of_range_are_refused_with_a_sentence(case: str) -> None:
    message, window = REFUSED[case]
    for pool in (max_pool2d, avg_pool2d):
        with pytest.raises(InputError, match=message):
            in_kernels(MACHINES[0], lambda ops, x, _, of=pool: of(ops, x, **window), drawn(0, 2, 4, 4, 1), [], drawn(0))


def test_vectors_are_refused_with_a_sentence() -> None:
    for pool in (lambda ops, x, _: max_pool2d(ops, x, 2), lambda ops, x, _: adaptive_avg_pool2d(ops, x, 1)):
        with pytest.raises(InputError, match=r"takes images .*given a tensor of \(2, 4\)"):
            in_kernels(MACHINES[0], pool, drawn(0, 2, 4), [], drawn(0))
    with pytest.raises(InputError, match="divisor of avg_pool2d must not be 0"):
        in_kernels(MACHINES[0], lambda ops, x, _: avg_pool2d(ops, x, 2, divisor=0), drawn(0, 2, 4, 4, 1), [], drawn(0))
