"""What is JAX's own in the array operations of its backend; tests/test_backend_arrays.py compares them with NumPy's."""

import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

from sparsecore.engine.arrays import describe
from sparsecore.engine.topology import Layout, Topology
from sparsecore_jax import JaxArray, JaxArrays

ARRAYS = JaxArrays()


def test_arrays_of_jax_are_read_without_a_copy_and_cannot_be_written_to():
    own = jnp.arange(5.0)
    array = JaxArray(own)
    assert array.on_device() is own
    assert np.shares_memory(array.host, np.asarray(own))
    with pytest.raises(TypeError):
        array[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        ARRAYS.to_numpy(array + 1)[0] = 1
    given = np.arange(3)
    kept = ARRAYS.from_numpy(given)
    given[:] = 7
    assert kept.host.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_64_bits_stay_64_bits_on_jax_s_device_and_back_while_jax_stays_as_it_is(dtype):
    numbers = np.array([2**40 + 1, 3], dtype)
    there = ARRAYS.from_numpy(numbers).on_device()
    assert there.dtype == dtype
    array = JaxArray(there)
    for result, expected in ((array + 1, numbers + 1), (array - array, numbers - numbers), (array * 2, numbers * 2)):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result.host, expected)
    assert jnp.zeros(1).dtype == np.float32
    assert not jax.config.jax_enable_x64


def test_denormal_numbers_differ_from_zero_and_are_ordered():
    numbers = np.array([1e-40, -1e-40, 0.0, 1.4e-45], np.float32)
    array = JaxArray(jnp.asarray(numbers))
    assert (array > 0).host.tolist() == [True, False, False, True]
    assert ARRAYS.argsort(array).host.tolist() == [1, 2, 3, 0]
    assert (array * 0.5).host.tobytes() == (numbers * np.float32(0.5)).tobytes()


def test_operations_take_arrays_of_jax_itself():
    own, indices = jnp.asarray([3.0, 1.0, 2.0]), jnp.asarray([2, 0])
    assert ARRAYS.take(own, indices).host.tolist() == [2.0, 3.0]
    assert ARRAYS.readonly(own).on_device() is own
    assert (ARRAYS.from_numpy(np.ones(3, np.float32)) + own).host.tolist() == [4.0, 2.0, 3.0]
    assert (np.float32(2) * ARRAYS.readonly(own)).host.tolist() == [6.0, 2.0, 4.0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_of_16_bits_keep_their_dtype_and_are_ordered_with_nan_last(dtype):
    array = JaxArray(jnp.asarray([0.5, np.nan, -0.25, 0.0, 0.5], dtype))
    assert describe(array) == f"JaxArray of {dtype}, shape (5,)"
    assert ARRAYS.smallest_indices(array, 4).host.tolist() == [0, 2, 3, 4]
    assert not ARRAYS.all_finite(array)
    finite = ARRAYS.take(array, jnp.asarray([0, 2, 3, 4]))
    assert ARRAYS.argsort(finite).host.tolist() == [1, 2, 0, 3]
    assert ARRAYS.sort(finite).dtype == array.dtype
    assert (finite + finite).dtype == array.dtype  # bfloat16 plus a number is float32 in NumPy 2.0


def test_positions_beyond_32_bits_are_exact():
    layout = Layout.of({"huge": (2**20, 2**20), "other": (7,)})
    positions = ARRAYS.from_numpy(np.array([5, 2**35 + 1, 2**40 + 3], np.int64))
    topology = Topology.of(layout, JaxArray(positions.on_device()), ARRAYS)
    assert topology.counts.tolist() == [2, 1]
    assert topology.local("other").tolist() == [3]


@pytest.mark.integration
def test_neither_the_core_nor_a_list_of_plugins_imports_jax():
    code = (
        "import sys, sparsecore, sparsecore_jax\n"
        "from sparsecore.plugins.listing import listings\n"
        "print(len(listings()) > 0, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
