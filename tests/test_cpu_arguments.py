"""No call of the kernels from Python accesses memory outside a buffer, whatever happens to its arguments."""

import os
import subprocess
import sys
import threading
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
    images,
    mask,
    memory,
    places,
    read,
    rows,
    sums,
    two_in_one_memory,
    weights,
)

from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import aligned_zeros

FAR = 2**30


def test_a_weight_list_ignores_later_changes_of_its_offsets_and_pointers() -> None:
    pointers, offsets, values = places(0, 1, 2), places(0, LANES), by_channel(2)
    listed = _kernels.Weights(pointers, offsets, values, 2)
    x, out = memory(), memory()
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    given, made = _kernels.Activation(x, 1, LANES, False), _kernels.Activation(out, 1, LANES, False)
    convolve(_kernels.Input(given), made, listed=listed)
    expected = out.copy()
    pointers[:], offsets[:] = (0, 0, FAR), FAR
    convolve(_kernels.Input(given), made, listed=listed)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(listed.offsets, [0, LANES])
    np.testing.assert_array_equal(listed.pointers, [0, 1, 2])
    values[:] = 2  # these are what a step fills in
    convolve(_kernels.Input(given), made, listed=listed)
    np.testing.assert_array_equal(out, 2 * expected)


def test_a_weight_list_by_rows_ignores_later_changes_too() -> None:
    pointers, offsets, out = places(0, 1, 2), places(-16, 16), aligned_zeros((64,))
    convolution = rows(pointers=pointers, offsets=offsets, out=out, x=np.arange(64, dtype=np.float32))
    convolution.run(1)
    expected = out.copy()
    pointers[:], offsets[:] = (0, 0, FAR), FAR
    convolution.run(1)
    np.testing.assert_array_equal(out, expected)


def test_arrays_that_a_list_holds_are_read_only() -> None:
    held = weights(0, LANES).offsets
    with pytest.raises(ValueError, match="read-only"):
        held[:] = FAR
    with pytest.raises(ValueError, match="WRITEABLE"):
        held.setflags(write=True)
    with pytest.raises(ValueError, match="WRITEABLE"):
        held.base and np.frombuffer(held.data, np.int32).setflags(write=True)


def test_arrays_that_kernels_hold_cannot_be_resized() -> None:
    array, values = memory(), by_channel(1)
    listed = _kernels.Weights(places(0, 1, 1), places(0), values, 2)
    own = np.zeros((1, 6, 2, 7, LANES), np.float32)
    if own.ctypes.data % 64 == 0:
        held = _kernels.Activation(own, 1, 3, False)
        with pytest.raises(ValueError, match="resize"):
            own.resize((1, 1, 1, 1, 1))
        del held
    with pytest.raises(ValueError, match="resize"):
        values.resize(1000)
    given = _kernels.Activation(array, 1, 3, False)
    del array, values
    convolve(_kernels.Input(given), listed=listed)


class Passing:
    """A sequence that keeps nothing of what it gives."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        if index:
            raise IndexError
        return weights(0, 0), _kernels.Steps()


def test_lists_that_only_the_call_references_live_until_it_returns() -> None:
    for _ in range(20):
        backward(transposed=Passing())


def test_keys_that_another_thread_changes_are_sorted_or_refused() -> None:
    keys, done = np.zeros(200_000, np.int32), threading.Event()

    def change() -> None:
        while not done.is_set():
            np.bitwise_xor(keys, 7, out=keys)

    other = threading.Thread(target=change)
    other.start()
    try:
        for _ in range(30):
            order, pointers = np.empty_like(keys), np.empty(9, np.int32)
            try:
                _kernels.sort_by_bucket(keys, order, pointers)
            except ValueError:
                continue
            assert np.all((order >= 0) & (order < len(keys)))
    finally:
        done.set()
        other.join()


def buffer(array: Any) -> Any:
    return _kernels.Activation(array, 1, 3, False)


def factors() -> Any:
    return by_channel(), by_channel()


def gradients_of(values: Any) -> Any:
    listed = _kernels.Weights(places(0, 1, 1), places(0), values, 2)
    return KERNELS.weight_gradient(read(), read(), listed, _kernels.Steps(), values, 1)


def masked(x: Any, out: Any) -> Any:
    return KERNELS.relu_backward(images(), out, _kernels.Mask(x, *factors(), by_channel()), sums(), 1)


def sums_of(array: Any) -> Any:
    own = array.reshape(-1)[:8].view(np.float64).reshape(2, 2)
    return KERNELS.moments(buffer(array), by_channel(), own, 1)


def overlapping() -> Any:
    """Four images at one place."""
    return np.lib.stride_tricks.as_strided(by_channel(60), (3, 4, 5, 2), (0, 40, 8, 4))


SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "keys and order": (lambda: places(0, 0), lambda a: _kernels.sort_by_bucket(a, a, places(0, 0))),
    "keys and pointers": (lambda: places(0, 0), lambda a: _kernels.sort_by_bucket(a, places(0, 0), a)),
    "order and pointers": (lambda: places(0, 0), lambda a: _kernels.sort_by_bucket(places(0), a[:1], a)),
    "entries and what is listed": (by_channel, lambda a: _kernels.gather(a, places(0, 1), a, 1)),
    "a part of the entries": (by_channel, lambda a: _kernels.gather(a, places(0), a[1:], 1)),
    "order and what is listed": (
        lambda: places(0, 1),
        lambda a: _kernels.gather(by_channel(), a, a.view(np.float32), 1),
    ),
    "what is scattered": (by_channel, lambda a: _kernels.scatter(a, places(0, 1), a, 1)),
    "input and output of a convolution": (images, lambda x: convolve(_kernels.Input(x), x)),
    "half of the input": (two_in_one_memory, lambda two: convolve(_kernels.Input(two[0]), two[1])),
    "a start that lies otherwise": (two_in_one_memory, lambda two: convolve(out=two[0], add=two[1])),
    "a mask that lies otherwise": (two_in_one_memory, lambda two: masked(*two)),
    "both buffers of a pass": (two_in_one_memory, lambda two: KERNELS.affine(*two, *factors(), 1)),
    "factors in the output": (
        memory,
        lambda out: KERNELS.affine(images(), buffer(out), out.reshape(-1)[:2], by_channel(), 1),
    ),
    "sums in the input": (memory, sums_of),
    "the weights' gradients among the weights": (lambda: by_channel(1), gradients_of),
    "the gradient of the inputs in that of the outputs": (
        images,
        lambda x: backward(gradient=_kernels.Input(x), out=x),
    ),
    "pictures in their buffer": (
        memory,
        lambda x: KERNELS.pack(x.reshape(-1)[:120].reshape(3, 4, 5, 2), buffer(x), 1),
    ),
    "pictures that lie one over another": (overlapping, lambda x: KERNELS.unpack(images(), x, 1)),
    "rows": (lambda: aligned_zeros((64,)), lambda x: rows(x=x, out=x)),
    "rows and a part of what is added": (
        lambda: aligned_zeros((68,)),
        lambda x: rows(add=x[4:68], out=x[:64]),
    ),
}


@pytest.mark.parametrize("what", SHARED)
def test_outputs_that_overlap_inputs_are_refused(what: str) -> None:
    make, call = SHARED[what]
    with pytest.raises(ValueError, match="share"):
        call(make())


def test_elementwise_passes_may_write_in_place() -> None:
    x = images()
    KERNELS.affine(x, x, by_channel(), by_channel(), 1)
    KERNELS.combine(x, x, x, x, *[by_channel()] * 3, 1)
    KERNELS.relu_backward(x, x, _kernels.Mask(x, *[by_channel()] * 3), sums(), 1)
    convolve(out=x, add=x)
    backward(out=x, add=x)


@pytest.mark.parametrize("far", [5, 6, 7 + 5])
@pytest.mark.parametrize("kind", ["plain", "rectified", "combined"])
def test_a_list_that_reads_into_other_channels_reads_the_same_from_computed_activations(kind: str, far: int) -> None:
    """It makes no sense, but the last columns of such outputs lie in rows that no first column reads."""
    x = memory()
    x[0, 1:5, :, 1:6] = np.random.default_rng(far).uniform(1, 2, (4, 2, 5, LANES))
    given, out, ones, zeros = _kernels.Activation(x, 1, LANES, False), memory(), by_channel(), np.zeros(2, np.float32)
    as_read = {
        "plain": lambda: _kernels.Input(given),
        "rectified": lambda: _kernels.Input.rectified(given, ones, zeros),
        "combined": lambda: _kernels.Input.combined(given, given, ones, zeros, zeros),
    }[kind]()
    made = _kernels.Activation(out, 1, LANES, False)
    convolve(as_read, made, listed=weights(far * LANES, 0))
    flat, inside = x.reshape(-1), np.zeros((4, 5, LANES), np.float32)
    for row in range(4):
        for column in range(5):
            first = ((row + 1) * 2 * 7 + column + 1) * LANES
            inside[row, column] = flat[first : first + LANES] + flat[first + far * LANES :][:LANES]
    np.testing.assert_array_equal(out[0, 1:5, 0, 1:6], inside)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(1e-45)])
def test_kernels_accept_nan_infinity_and_subnormal_numbers(value: float) -> None:
    x = memory()
    x[...] = value
    given = _kernels.Activation(x, 1, 3, False)
    vector = np.full(2, value, np.float32)
    for reading in (_kernels.Input(given), _kernels.Input.rectified(given, vector, vector)):
        convolve(reading)
        backward(reading)
    KERNELS.relu_backward(given, images(), mask(), sums(), 1)
    rows(x=np.full(64, value, np.float32), floor=value).run(1)


FAILING = """
import numpy as np
from kernel_arguments import KERNELS, backward, convolve, images, read, weights
from sparsecore_cpu import _kernels
from sparsecore_cpu.runtime import aligned_zeros

def big():
    return _kernels.Activation(aligned_zeros((8, 34, 4, 34, KERNELS.lanes)), 1, 8 * KERNELS.lanes, False)

ones = np.ones(4, np.float32)
listed = weights(0, 0, channels=4)
x = _kernels.Input.rectified(big(), ones, ones)
out, sums, gradients = big(), np.zeros((4, 2)), np.zeros(2, np.float32)
calls = {
    "convolve": lambda threads: KERNELS.convolve(x, out, None, listed, _kernels.Steps(), sums, threads),
    "weight_gradient": lambda threads: KERNELS.weight_gradient(
        x, _kernels.Input(out), listed, _kernels.Steps(), gradients, threads),
    "backward": lambda threads: KERNELS.backward(
        x, _kernels.Input(big()), listed, 1, gradients, out, None, [(listed, _kernels.Steps())], None, sums, threads),
}
failed = 0
for name, call in calls.items():
    for threads in (1, 2, 5):
        call(threads)
        expected = [sums.copy(), gradients.copy()]
        for after in (0, 1, 2, 7, 20):
            _kernels._fail_scratch(after)
            try:
                call(threads)
            except MemoryError:
                failed += 1
        _kernels._fail_scratch(-1)
        call(threads)
print(failed)
"""


@pytest.mark.integration
def test_a_failed_allocation_on_any_thread_raises_memory_error() -> None:
    """In a process of its own, so that one that ends is seen; all threads are waited for, and go on working."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING], cwd="tests", capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 45


WITHOUT_THREADS = """
import resource
import numpy as np
from sparsecore_cpu import _kernels

order, entries, listed = np.zeros(300_000, np.int32), np.ones(1, np.float32), np.zeros(300_000, np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
_kernels.gather(entries, order, listed, 64)
assert np.all(listed == 1)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
_kernels.gather(entries, order, listed, 64)
"""


@pytest.mark.integration
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how much memory a process uses is asked of Linux")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer needs all addresses")
def test_without_new_threads_the_existing_ones_do_all_the_work() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THREADS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WHILE_FORKING = """
import os, threading
import numpy as np
from sparsecore_cpu import _kernels

def gather():
    order, listed = np.zeros(2_000_000, np.int32), np.zeros(2_000_000, np.float32)
    _kernels.gather(np.ones(1, np.float32), order, listed, 3)
    return np.all(listed == 1)

end = threading.Event()
def compute():
    while not end.is_set():
        gather()
other = threading.Thread(target=compute)
other.start()
for _ in range(10):
    child = os.fork()
    if not child:
        os._exit(0 if gather() else 1)
    assert os.waitpid(child, 0)[1] == 0
end.set()
other.join()
"""


@pytest.mark.integration
def test_parent_and_child_both_compute_after_a_fork_during_kernels() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WHILE_FORKING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
