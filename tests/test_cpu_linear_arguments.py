"""The kernels of sparse linear layers check their arguments: no call from Python accesses memory outside of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from kernel_arguments import KERNELS, LANES, by_channel, features, images, sums

from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import Form, aligned_zeros

LINEAR = _kernels.LinearKernels(KERNELS.name)


def positions(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def pattern(*numbers: int, outputs: int = 3, inputs: int = 2) -> Any:
    """Of three outputs and two inputs, with two weights unless others are given."""
    return _kernels.SparsityPattern(positions(*(numbers or (1, 4))), outputs, inputs)


def forward(**options: Any) -> None:
    given = {"x": features(channels=2), "out": features(channels=3), "add": None, "pattern": pattern()}
    LINEAR.forward(**given | {"values": by_channel(2), "sums": None, "threads": 1} | options)


def backward(**options: Any) -> None:
    given = {"x": features(channels=2), "gradient": features(channels=3), "pattern": pattern(), "add": None}
    given |= {"values": by_channel(2), "gradients": by_channel(2), "out": features(channels=2), "threads": 1}
    LINEAR.backward(**given | options)


def other_lanes(channels: int) -> Any:
    return _kernels.Activation(aligned_zeros(Form.of_features(3, channels).shape(2 * LANES)), 0, 3, True)


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "positions that turn": ("do not ascend", lambda: pattern(4, 1)),
    "a position twice": ("do not ascend", lambda: pattern(1, 1)),
    "a position before the matrix": ("do not ascend", lambda: pattern(-1)),
    "a position behind the matrix": ("do not ascend", lambda: pattern(6)),
    "a position far behind the matrix": ("do not ascend", lambda: pattern(2**62)),
    "positions of 16 bits": ("int32 or int64", lambda: _kernels.SparsityPattern(np.zeros(1, np.int16), 1, 1)),
    "positions that are floats": ("int32 or int64", lambda: _kernels.SparsityPattern(np.zeros(1, np.float32), 1, 1)),
    "no threads for a pattern": ("threads must be", lambda: _kernels.SparsityPattern(np.zeros(1, np.int64), 1, 1, 0)),
    "positions that are no array": ("must be an array", lambda: _kernels.SparsityPattern([0], 1, 1)),
    "no output": ("one row and one column", lambda: pattern(0, outputs=0)),
    "no input": ("one row and one column", lambda: pattern(0, inputs=0)),
    "inputs below zero": ("one row and one column", lambda: pattern(0, inputs=-1)),
    "too many outputs": ("than the kernels can index", lambda: pattern(0, outputs=2**31)),
    "too many inputs": ("than the kernels can index", lambda: pattern(0, inputs=2**62)),
    "too many of both": ("than the kernels can index", lambda: pattern(0, outputs=2**26, inputs=2**26)),
    "images": ("not images", lambda: forward(x=images(channels=2))),
    "outputs that are images": ("not images", lambda: forward(out=images(channels=3))),
    "another number of lanes": ("number of lanes", lambda: forward(x=other_lanes(2))),
    "features that are missing": ("rows or columns", lambda: forward(x=features(channels=1))),
    "outputs that are missing": ("rows or columns", lambda: forward(out=features(channels=2))),
    "another batch": ("different batches", lambda: forward(out=features(count=2, channels=3))),
    "values that are missing": ("as many values", lambda: forward(values=by_channel(1))),
    "values in double precision": ("float32", lambda: forward(values=np.ones(2))),
    "a start of another batch": ("batches of one size", lambda: forward(add=features(count=2, channels=3))),
    "a start of other features": ("one shape and border", lambda: forward(add=features(channels=2))),
    "sums of another shape": (r"sums are \(channels, 2\)", lambda: forward(sums=sums(2))),
    "a bias of other outputs": ("another number of entries", lambda: forward(bias=by_channel(2))),
    "no thread": ("threads must be", lambda: forward(threads=0)),
    "gradients that are missing": ("as many gradients", lambda: backward(gradients=by_channel(1))),
    "gradients of other outputs": ("rows or columns", lambda: backward(gradient=features(channels=2))),
    "gradients of another batch": ("different batches", lambda: backward(gradient=features(count=2, channels=3))),
    "inputs of another batch": ("different batches", lambda: backward(x=features(count=2, channels=2))),
    "gradients of inputs of another batch": ("different batches", lambda: backward(out=features(count=2, channels=2))),
    "read-only gradients": ("read-only", lambda: backward(gradients=np.broadcast_to(np.float32(1), 2))),
    "kernels of no name that there is": ("no kernels named 'avx3'", lambda: _kernels.LinearKernels("avx3")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arguments_that_do_not_fit_together_are_refused(what: str) -> None:
    sentence, call = REFUSED[what]
    with pytest.raises(ValueError, match=sentence):
        call()


def memory(channels: int = 3) -> Any:
    return aligned_zeros(Form.of_features(3, channels).shape(LANES))


def buffer(array: Any) -> Any:
    return _kernels.Activation(array, 0, 3, True)


def square() -> Any:
    return pattern(1, 4, outputs=3, inputs=3)


def numbers(of: Any, count: int = 2) -> Any:
    """The first ones of an array."""
    return of.reshape(-1)[:count]


def own_sums(of: Any, channels: int = 3) -> Any:
    """Sums in the memory of an array of floats."""
    return numbers(of, 4 * channels).view(np.float64).reshape(channels, 2)


SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "input and output": (memory, lambda x: forward(x=buffer(x), out=buffer(x), pattern=square())),
    "values in the output": (memory, lambda out: forward(out=buffer(out), values=numbers(out))),
    "sums in the output": (memory, lambda out: forward(out=buffer(out), sums=own_sums(out))),
    "sums in the input": (memory, lambda x: forward(x=buffer(x), sums=own_sums(x), pattern=square())),
    "the bias in the output": (memory, lambda out: forward(out=buffer(out), bias=numbers(out, 3))),
    "sums in what is added": (memory, lambda add: forward(add=buffer(add), sums=own_sums(add))),
    "gradients among the values": (by_channel, lambda values: backward(values=values, gradients=values)),
    "gradients in the input": (lambda: memory(2), lambda x: backward(x=buffer(x), gradients=numbers(x))),
    "both gradients": (lambda: memory(2), lambda out: backward(out=buffer(out), gradients=numbers(out))),
    "gradients in those of the outputs": (memory, lambda g: backward(gradient=buffer(g), gradients=numbers(g))),
    "the gradient of the inputs in that of the outputs": (
        memory,
        lambda x: backward(gradient=buffer(x), out=buffer(x), x=features(channels=3), pattern=square()),
    ),
    "the gradient of the inputs in the inputs": (lambda: memory(2), lambda x: backward(x=buffer(x), out=buffer(x))),
    "gradients in what is added": (lambda: memory(2), lambda add: backward(add=buffer(add), gradients=numbers(add))),
}


@pytest.mark.parametrize("what", SHARED)
def test_outputs_that_overlap_inputs_are_refused(what: str) -> None:
    make, call = SHARED[what]
    with pytest.raises(ValueError, match="share"):
        call(make())


def test_what_fits_together_is_accepted() -> None:
    forward(sums=sums(3), bias=by_channel(3))
    backward()
    out, made = features(channels=3), features(channels=2)
    forward(out=out, add=out)
    backward(out=made, add=made)
    LINEAR.weight_gradient(features(channels=2), features(channels=3), pattern(), by_channel(2), 1)
    LINEAR.input_gradient(features(channels=3), pattern(), by_channel(2), features(channels=2), None, 1)
    forward(pattern=_kernels.SparsityPattern(positions(), 3, 2), values=by_channel(0))
    assert _kernels.LinearKernels("")


@pytest.mark.parametrize("value", [np.nan, np.inf, np.float32(1e-45)])
def test_nan_infinity_and_subnormal_numbers_are_computed_with(value: float) -> None:
    x = memory(2)
    x[...] = value
    forward(x=buffer(x))
    backward(x=buffer(x), values=np.full(2, value, np.float32))


def test_arrays_of_a_pattern_outlive_it() -> None:
    listed = pattern().arrays
    assert [list(array) for array in listed[:1]] == [[1, 0]]
    with pytest.raises(ValueError, match="read-only"):
        listed[0][:] = 7
    with pytest.raises(ValueError, match="WRITEABLE"):
        listed[0].setflags(write=True)


def test_a_failed_allocation_raises_memory_error() -> None:
    form = Form.of_features(40 * LANES, 2)
    x, out = (_kernels.Activation(aligned_zeros(form.shape(LANES)), 0, form.images, True) for _ in range(2))
    listed = pattern(0, 3, outputs=2, inputs=2)
    for threads in (1, 3):
        _kernels._fail_scratch(1)
        try:
            with pytest.raises(MemoryError):
                LINEAR.forward(x, out, None, listed, by_channel(2), None, threads)
        finally:
            _kernels._fail_scratch(-1)
        LINEAR.forward(x, out, None, listed, by_channel(2), None, threads)
