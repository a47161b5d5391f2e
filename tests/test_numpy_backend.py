"""The plugin, its memory and its threads."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.errors import InputError
from sparsecore.host.buffers import BufferPool
from sparsecore.host.weights import WeightView
from sparsecore_numpy import NumpyBackend, convolution
from sparsecore_numpy.convolution import KernelWindow
from sparsecore_numpy.workspace import WorkerPool, Workspace, divided, single_threaded_blas


def test_a_dtype_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match="float32 or float64; given 'float16'"):
        NumpyBackend("float16")


@pytest.mark.integration
def test_importing_the_package_imports_no_learner_and_no_other_library() -> None:
    others = ["sparsecore.host.learner", "threadpoolctl", "scipy", "sklearn", "torch", "matplotlib"]
    script = f"import sys, sparsecore_numpy; print([name for name in sys.modules if name in {others}])"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"


def test_memory_is_reused_once_its_array_is_released() -> None:
    memory = BufferPool("float32")
    address = memory.take(100, 7).ctypes.data
    assert memory.take(70, 10).ctypes.data == address


def test_memory_is_not_reused_while_any_view_exists() -> None:
    memory = BufferPool("float64")
    view = memory.take(6, 4).reshape(-1)[2:].reshape(11, 2).T
    start = view.ctypes.data - 2 * view.itemsize
    others = [memory.take(24), memory.take(4, 6), memory.take(20)]
    assert start not in {other.ctypes.data for other in others}
    del view
    assert memory.take(24).ctypes.data == start


def test_memory_serves_the_smallest_block_that_fits() -> None:
    memory = BufferPool("float32")
    large, small = memory.take(120), memory.take(100)
    addresses = large.ctypes.data, small.ctypes.data
    del large, small
    first, second = memory.take(90), memory.take(90)
    assert (second.ctypes.data, first.ctypes.data) == addresses


def test_a_small_array_does_not_occupy_a_large_block() -> None:
    memory = BufferPool("float32")
    large = memory.take(1000).ctypes.data
    small = memory.take(10)
    assert small.ctypes.data != large
    assert memory.take(1000).ctypes.data == large


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_are_aligned_to_cache_lines(dtype: str) -> None:
    memory = BufferPool(dtype)
    arrays = [memory.take(size) for size in (1, 3, 1000, 0)]
    assert all(array.ctypes.data % 64 == 0 and array.dtype == dtype for array in arrays)


@given(st.integers(1, 200), st.floats(0, 1e9), st.floats(1, 1e9))
def test_parts_cover_everything_in_order_and_none_is_empty(count: int, work: float, grain: float) -> None:
    parts = divided(count, work, grain)
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    assert all(part.stop > part.start for part in parts)


def test_every_part_is_computed_once_by_the_available_threads() -> None:
    done: list[tuple[int, int]] = []
    WorkerPool(3).each(lambda part: done.append((part, threading.get_ident())), range(50))
    assert sorted(part for part, _ in done) == list(range(50))
    assert len({thread for _, thread in done}) <= 3


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_any_part_is_raised(count: int) -> None:
    def fail_at_the_last(part: int) -> None:
        if part == 19:
            raise InputError("part 19")

    with pytest.raises(InputError, match="part 19"):
        WorkerPool(count).each(fail_at_the_last, range(20))


def test_the_thread_count_of_blas_is_restored_afterwards() -> None:
    from threadpoolctl import threadpool_info

    before = threadpool_info()
    with single_threaded_blas():
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} <= {1}
    assert threadpool_info() == before


def test_results_do_not_depend_on_the_number_of_cores() -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 16, 16, 8)).astype(np.float32)
    gradient = rng.standard_normal((40, 16, 16, 8)).astype(np.float32)
    results = []
    for count in 1, 2, 5:
        weight = WeightView((8, 8, 3, 3), np.arange(576), rng_values(), np.zeros(576, np.float32))
        machine, window = Workspace(BufferPool("float32"), WorkerPool(count)), KernelWindow(3, 3, 1, 1, 1)
        with single_threaded_blas():
            output = convolution.forward(machine, images, weight, window)
            given_back = convolution.backward(machine, images, weight, window, gradient)
        results.append((output.copy(), given_back.copy(), weight.gradient))
    for result in results[1:]:
        for array, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(array, expected)


def rng_values() -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.random.default_rng(1).standard_normal(576).astype(np.float32)
