"""What the CPU backend computes in one pass, where operations meet: sums, relus and batch norms of several tensors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import check, drawn, weight_of

FloatArray = NDArray[np.float32]

SEEDS = st.integers(0, 2**32)
BATCHES = st.sampled_from([2, 5, 16, 19])


def kernel(seed: int, channels: int = 4, side: int = 3) -> Any:
    """A sparse one, which neither enlarges nor diminishes much."""
    dense = drawn(seed, channels, channels, side, side) / np.float32(side * channels**0.5)
    return weight_of(dense, np.flatnonzero(np.random.default_rng(seed).random(dense.size) < 0.6))


def norm(seed: int) -> list[Any]:
    scale, shift, mean, variance = drawn(seed, 4, 4)
    return [weight_of(scale), weight_of(shift), mean, abs(variance) + 0.5]


def convolved(ops: Any, x: Any, weight: Any) -> Any:
    return ops.conv2d(x, weight, padding=1)


# each is of images with 4 channels and of the weights: two kernels of 3x3, one of 1x1, and batch norm's four
SUMS = {
    "of a convolution and its input": lambda ops, x, w: ops.add(convolved(ops, x, w[0]), x),
    "of the input and a convolution": lambda ops, x, w: ops.add(x, convolved(ops, x, w[0])),
    "of two convolutions": lambda ops, x, w: ops.add(convolved(ops, x, w[0]), ops.conv2d(x, w[2])),
    "of a convolution with itself": lambda ops, x, w: twice(ops, convolved(ops, x, w[0])),
    "of batch norm with itself": lambda ops, x, w: twice(ops, ops.batch_norm(x, *w[3:])),
    "of batch norm and its input": lambda ops, x, w: ops.add(ops.batch_norm(x, *w[3:]), x),
    "of sums": lambda ops, x, w: ops.add(ops.add(x, convolved(ops, x, w[0])), ops.add(convolved(ops, x, w[1]), x)),
    "of a sum with itself": lambda ops, x, w: twice(ops, ops.add(x, convolved(ops, x, w[0]))),
    "of a convolution used twice": lambda ops, x, w: used_twice(ops, convolved(ops, x, w[0]), w),
    "of a sum used twice": lambda ops, x, w: used_twice(ops, ops.add(convolved(ops, x, w[0]), x), w),
    "of a batch norm used twice": lambda ops, x, w: used_twice(ops, ops.batch_norm(x, *w[3:]), w),
    "of the same weights twice": lambda ops, x, w: ops.add(convolved(ops, x, w[0]), convolved(ops, x, w[0])),
    "batch norm of a sum": lambda ops, x, w: ops.batch_norm(ops.add(convolved(ops, x, w[0]), x), *w[3:]),
    "batch norm, and what it is of": lambda ops, x, w: norm_beside(ops, convolved(ops, x, w[0]), w),
    "strides that differ": lambda ops, x, w: ops.add(
        ops.conv2d(x, w[0], stride=2, padding=1), ops.conv2d(x, w[2], stride=2)
    ),
}


def twice(ops: Any, x: Any) -> Any:
    return ops.add(x, x)


def used_twice(ops: Any, x: Any, w: list[Any]) -> Any:
    return ops.add(convolved(ops, x, w[1]), ops.add(x, ops.conv2d(x, w[2])))


def norm_beside(ops: Any, x: Any, w: list[Any]) -> Any:
    return ops.add(convolved(ops, ops.batch_norm(x, *w[3:]), w[1]), x)


@pytest.mark.parametrize("name", SUMS)
@settings(max_examples=6)
@given(seed=SEEDS, batch=BATCHES, relued=st.booleans(), height=st.integers(1, 9))
def test_a_combination_and_its_gradients_equal_numpy_s(
    name: str, seed: int, batch: int, relued: bool, height: int
) -> None:
    combine = SUMS[name]
    x, weights = drawn(seed, batch, height, 6, 4), [kernel(1), kernel(2), kernel(3, side=1), *norm(4)]
    if relued:
        check(lambda ops, x, w: ops.relu(combine(ops, x, w)), x, weights, kinks=combine, rounding=3e-5)
    else:
        check(combine, x, weights, rounding=3e-5)


@pytest.mark.parametrize("count", [3, 40])
def test_a_fully_connected_network_and_its_gradients_equal_numpy_s(count: int) -> None:
    def before(ops: Any, x: Any, w: list[Any]) -> Any:
        return ops.batch_norm(ops.linear(x, w[0], w[1]), *w[2:6])

    def forward(ops: Any, x: Any, w: list[Any]) -> Any:
        return ops.relu(ops.add(before(ops, x, w), x))

    matrix = weight_of(drawn(0, 4, 4), np.array([0, 3, 5, 6, 10, 13]))
    weights = [matrix, weight_of(drawn(1, 4)), *norm(2)]
    check(forward, drawn(3, count, 4), weights, kinks=lambda ops, x, w: ops.add(before(ops, x, w), x), rounding=3e-5)


@settings(max_examples=15)
@given(seed=SEEDS, count=st.integers(1, 30), batch=BATCHES, key=st.integers(0, 2**32))
def test_tied_weights_and_their_gradients_equal_numpy_s(seed: int, count: int, batch: int, key: int) -> None:
    def forward(ops: Any, x: Any, w: list[Any]) -> Any:
        x = ops.conv2d(x, ops.tied(w[0], (6, 4, 3, 3), key), stride=2, padding=1)
        return ops.linear(ops.flatten(x), ops.tied(w[0], (5, 54), key + 1))

    values = drawn(seed, count)
    some = weight_of(values, np.flatnonzero(np.random.default_rng(seed).random(count) < 0.7))
    for weight in (weight_of(values), some):
        check(forward, drawn(seed + 1, batch, 5, 6, 4), [weight], rounding=3e-5)
