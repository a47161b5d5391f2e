"""Arguments of the kernels that do not fit are refused in one sentence: sizes, threads, types, strides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from kernel_arguments import (
    KERNELS,
    LANES,
    backward,
    by_channel,
    convolve,
    features,
    images,
    memory,
    places,
    rows,
    sums,
    weights,
)

from sparsecore.errors import InputError
from sparsecore_cpu import CpuBackend, _kernels
from sparsecore_cpu.runtime import aligned_zeros

EXTREME = [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
BOTH = [*EXTREME, *(-number for number in EXTREME)]

TAKES_INTEGERS: dict[str, Callable[[int], Any]] = {
    "border": lambda number: _kernels.Activation(memory(), number, 1, False),
    "images": lambda number: _kernels.Activation(memory(), 1, number, False),
    "channels": lambda number: _kernels.Weights(places(0, 1), places(0), by_channel(1), number),
    "channels of bundles": lambda number: _kernels.Weights(places(0, 1), places(0), by_channel(4), number, True),
    "stride": lambda number: backward(transposed=[], stride=number),
    "threads": lambda number: convolve(threads=number),
    "threads of lists": lambda number: _kernels.gather(by_channel(1), places(0), by_channel(1), number),
    "threads of rows": lambda number: rows().run(number),
    "threads of pictures": lambda number: KERNELS.pack(np.zeros((3, 4, 5, 2), np.float32), images(), number),
    "where rows start": lambda number: rows(x_start=number),
    "where outputs start": lambda number: rows(out_start=number),
    "room of a channel": lambda number: rows(channel_stride=number),
    "step of the input": lambda number: convolve(steps=_kernels.Steps(x_step=number)),
}


@pytest.mark.parametrize("what", TAKES_INTEGERS)
@pytest.mark.parametrize("number", BOTH)
def test_an_integer_that_is_far_too_large_is_refused(what: str, number: int) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        TAKES_INTEGERS[what](number)


@pytest.mark.parametrize("number", [-1, *BOTH])
@pytest.mark.parametrize("what", ["out_step", "row", "column"])
def test_output_steps_beyond_int32_are_refused_and_the_largest_writes_nothing(what: str, number: int) -> None:
    if number == 2**31 - 1:
        convolve(steps=_kernels.Steps(**{what: number}))
        return
    with pytest.raises(ValueError, match="steps"):
        _kernels.Steps(**{what: number})


@pytest.mark.parametrize("number", [0, -1, 1025])
def test_thread_counts_outside_1_to_1024_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 1024; given {number}"):
        convolve(threads=number)
    if number:
        with pytest.raises(InputError, match=f"threads.*given {number}"):
            CpuBackend(threads=number)


def _empty(axis: int) -> Any:
    shape = [1, 6, 2, 7, LANES]
    shape[axis] = 0
    return _kernels.Activation(np.zeros(shape, np.float32), 0, 1, False)


WITHOUT_SIZE: dict[str, Callable[[], Any]] = {
    **{f"axis {axis} of a buffer": lambda axis=axis: _empty(axis) for axis in range(5)},
    "rows inside": lambda: _kernels.Activation(memory(), 3, 1, False),
    "columns inside": lambda: _kernels.Activation(aligned_zeros((1, 9, 2, 2, LANES)), 1, 1, False),
    "features": lambda: _kernels.Activation(np.zeros((1, 1, 0, 1, LANES), np.float32), 0, 1, True),
    "channels of a list": lambda: _kernels.Weights(places(0, 0), places(), by_channel(0), 0),
    "channels of rows": lambda: rows(pointers=places(0), offsets=places(), values=by_channel(0), bias=by_channel(0)),
    "pixels of rows": lambda: rows(inside=by_channel(0)),
}


@pytest.mark.parametrize("what", WITHOUT_SIZE)
def test_arguments_of_size_zero_are_refused(what: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        WITHOUT_SIZE[what]()


@pytest.mark.parametrize("offset", [1, -1, LANES // 2, LANES + 1])
def test_offsets_between_pixels_are_refused(offset: int) -> None:
    with pytest.raises(ValueError, match="multiple of the lanes"):
        convolve(listed=weights(offset))
    with pytest.raises(ValueError, match="multiple of the lanes"):
        backward(behind=weights(offset))


CONVERTED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a buffer": ("buffer", lambda array: _kernels.Activation(array, 1, 1, False)),
    "factors": ("scale", lambda array: _kernels.Input.rectified(images(), array, by_channel())),
    "a mean": ("mean", lambda array: _kernels.Mask(images(), by_channel(), by_channel(), array)),
    "pointers": ("pointers", lambda array: _kernels.Weights(array, places(0), by_channel(1), 1)),
    "offsets": ("offsets", lambda array: _kernels.Weights(places(0, 1), array, by_channel(1), 1)),
    "values": ("values", lambda array: _kernels.Weights(places(0, 1), places(0), array, 1)),
    "sums": ("sums", lambda array: KERNELS.moments(images(), by_channel(), array, 1)),
    "gradients": ("gradients", lambda array: backward(gradients=array)),
    "pictures": ("images", lambda array: KERNELS.unpack(images(), array, 1)),
    "keys": ("keys", lambda array: _kernels.sort_by_bucket(array, places(0), places(0, 0))),
    "an order": ("order", lambda array: _kernels.sort_by_bucket(places(0), array, places(0, 0))),
    "entries": ("entries", lambda array: _kernels.scatter(by_channel(1), places(0), array, 1)),
    "what is listed": ("listed", lambda array: _kernels.gather(by_channel(1), places(0), array, 1)),
    "outputs of rows": ("out", lambda array: rows(out=array)),
    "inputs of rows": ("x", lambda array: rows(x=array)),
}
KINDS: dict[str, Any] = {
    "float16": np.zeros(1, np.float16),
    "complex": np.zeros(1, np.complex64),
    "bool": np.zeros(1, np.bool_),
    "int64": np.zeros(1, np.int64),
    "big endian": np.zeros(1, ">f4"),
    "big endian integers": np.zeros(1, ">i4"),
    "objects": np.zeros(1, object),
    "records": np.zeros(1, [("a", np.float32)]),
    "text": np.zeros(1, "U4"),
    "a scalar": np.float32(1),
    "an array without axes": np.zeros((), np.float32),
    "too many axes": np.zeros((1,) * 7, np.float32),
    "a list": [0.0],
    "nothing": None,
    "bytes": b"0000",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", CONVERTED)
def test_an_array_of_another_dtype_or_shape_is_refused_by_name_and_never_converted(what: str, kind: str) -> None:
    name, call = CONVERTED[what]
    with pytest.raises(ValueError, match=rf"(?:^| ){name}[^\n]+$"):
        call(KINDS[kind])


WRITTEN: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "a buffer": (memory(), lambda array: _kernels.Activation(array, 1, 1, False)),
    "sums": (sums(), lambda array: KERNELS.moments(images(), by_channel(), array, 1)),
    "gradients": (by_channel(1), lambda array: backward(gradients=array)),
    "pictures": (np.zeros((3, 4, 5, 2), np.float32), lambda array: KERNELS.unpack(images(), array, 1)),
    "an order": (places(0), lambda array: _kernels.sort_by_bucket(places(0), array, places(0, 0))),
    "pointers": (places(0, 0), lambda array: _kernels.sort_by_bucket(places(0), places(0), array)),
    "entries": (by_channel(1), lambda array: _kernels.scatter(by_channel(1), places(0), array, 1)),
    "what is listed": (by_channel(1), lambda array: _kernels.gather(by_channel(1), places(0), array, 1)),
    "rows": (aligned_zeros((64,)), lambda array: rows(out=array)),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_read_only_or_noncontiguous_outputs_are_refused(what: str) -> None:
    array, call = WRITTEN[what]
    call(array)
    sealed = array.view()
    sealed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        call(sealed)
    if array.ndim != 4:  # pictures may have any strides
        apart = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
        if array.shape[-1] > 1:
            with pytest.raises(ValueError, match="contiguous"):
                call(apart)
    shifted = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    with pytest.raises(ValueError, match="start at a"):
        call(shifted)


def test_inputs_may_be_read_only() -> None:
    vector, order = by_channel(), places(0, 1)
    for array in (vector, order):
        array.flags.writeable = False
    KERNELS.affine(images(), images(), vector, vector, 1)
    KERNELS.moments(images(), vector, sums(), 1)
    _kernels.gather(vector, order, by_channel(), 1)
    _kernels.Mask(images(), vector, vector, vector)
    rows(bias=vector, values=vector, offsets=order * 0)


def test_activations_of_different_batches_or_dtypes_are_not_mixed() -> None:
    alike = _kernels.Activation(aligned_zeros((1, 1, 2, 1, LANES)), 0, 3, False)
    with pytest.raises(ValueError, match="batches"):
        KERNELS.affine(images(3), images(2), by_channel(), by_channel(), 1)
    with pytest.raises(ValueError, match="one shape"):
        KERNELS.affine(alike, features(), by_channel(), by_channel(), 1)
    with pytest.raises(ValueError, match="batches"):
        convolve(_kernels.Input(alike), features())
    with pytest.raises(ValueError, match="each place among the strides"):
        backward(transposed=[])
    with pytest.raises(ValueError, match="pairs"):
        backward(transposed=[(1, 2)])
    with pytest.raises(ValueError, match="pairs"):
        backward(transposed=[weights(0)])
