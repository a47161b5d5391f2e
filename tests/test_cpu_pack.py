"""Images and features survive packing into the CPU backend's layout and unpacking, whatever their strides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, array_of

from sparsecore_cpu.runtime import Form, Runtime

machines = st.sampled_from(MACHINES)
threads = st.sampled_from([1, 3])
orders = st.permutations(range(4))


def laid_out(shape: tuple[int, ...], order: list[int], gap: int) -> NDArray[np.float32]:
    """Distinct numbers of this shape whose axes lie in this order in memory, every ``gap``-th entry of the last."""
    stored = [shape[axis] for axis in order]
    memory = np.arange(np.prod(stored) * gap, dtype=np.float32).reshape(*stored[:3], stored[3] * gap) + 1
    return memory[..., ::gap].transpose(np.argsort(order))


@given(machines, threads, orders, st.sampled_from([1, 1, 2]), st.data())
def test_images_of_any_strides_survive_packing_and_unpacking(
    machine: Runtime, count: int, order: list[int], gap: int, data: st.DataObject
) -> None:
    sides = [data.draw(st.integers(1, most)) for most in (40, 5, 20, 20)]
    images = laid_out(tuple(sides), order, gap)
    buffer = machine.buffers.take(Form(*sides, border=data.draw(st.integers(0, 2))))
    buffer.fill(np.full_like(buffer.inside, np.nan))
    machine.kernels.pack(images, buffer.handle, count)
    np.testing.assert_array_equal(array_of(buffer), images)
    back = np.full_like(laid_out(tuple(sides), order, gap), np.nan)
    machine.kernels.unpack(buffer.handle, back, count)
    np.testing.assert_array_equal(back, images)


@given(machines, st.booleans(), st.integers(1, 40), st.integers(1, 40))
def test_features_survive_packing_and_unpacking(machine: Runtime, by_feature: bool, images: int, features: int) -> None:
    vectors = laid_out((images, features, 1, 1), [1, 0, 2, 3] if by_feature else [0, 1, 2, 3], 1)
    as_images = vectors.transpose(0, 2, 3, 1)
    buffer = machine.buffers.take(Form.of_features(images, features))
    buffer.array[:] = np.nan
    machine.kernels.pack(as_images, buffer.handle, 1)
    np.testing.assert_array_equal(array_of(buffer), vectors[..., 0, 0])
    back = np.empty_like(as_images)
    machine.kernels.unpack(buffer.handle, back, 1)
    np.testing.assert_array_equal(back, as_images)


@given(machines, orders)
def test_unpacking_writes_nothing_outside_the_images(machine: Runtime, order: list[int]) -> None:
    outer = np.full((35, 5, 22, 18), -1, np.float32).transpose(order).copy().transpose(np.argsort(order))
    images = outer[1:-1, 1:-1, 1:-1, 1:-1]
    buffer = machine.buffers.take(Form(*images.shape))
    buffer.fill(np.full_like(buffer.inside, 7))
    machine.kernels.unpack(buffer.handle, images, 1)
    assert np.all(images == 7)
    assert np.count_nonzero(outer == -1) == outer.size - images.size
