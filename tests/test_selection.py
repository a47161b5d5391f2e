"""The selection of the smallest entries, against a sort of all entries in plain Python."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from simulated_cuda import DEVICE, simulated_cuda, waits

from sparsecore.engine import selection
from sparsecore.engine.selection import smallest_indices
from sparsecore_torch import TorchArrays

ENTRIES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, 3e38, math.nan, -math.nan, math.inf, -math.inf])
DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "bool")


def sorted_first(array: Any, count: int) -> list[int]:
    """A stable sort of Python's, with NaN at the end."""
    entries = array.tolist()
    order = sorted(
        range(len(entries)),
        key=lambda i: (math.isnan(entries[i]), i) if math.isnan(entries[i]) else (False, entries[i]),
    )
    return sorted(order[:count])


@pytest.fixture(params=[selection._SHORT, 4], ids=["as a whole", "by a sample"])
def _lengths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_SHORT", request.param)
    monkeypatch.setattr(selection, "_SAMPLE", min(selection._SAMPLE, request.param))


@pytest.mark.usefixtures("_lengths")
@given(array=st.lists(ENTRIES, max_size=60), data=st.data())
def test_the_smallest_are_those_that_a_stable_sort_puts_first(array: list[float], data: st.DataObject) -> None:
    entries, count = np.array(array, np.float32), data.draw(st.integers(0, len(array)))
    assert smallest_indices(entries, count).tolist() == sorted_first(entries, count)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_every_dtype_is_ordered(dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays_of.arrays(dtype, st.integers(0, 20)))
    count = data.draw(st.integers(0, len(array)))
    assert smallest_indices(array, count).tolist() == sorted_first(array, count)
    assert TorchArrays().smallest_indices(torch.from_numpy(array), count).tolist() == sorted_first(array, count)


def long_arrays() -> dict[str, Any]:
    """Arrays beyond the length that is partitioned as a whole, some of which a sample says little about."""
    draws, length = np.random.default_rng(0), 3 * selection._SHORT + 5
    normal = draws.standard_normal(length).astype(np.float32)
    step = selection._step(length // selection._SAMPLE)
    sampled = np.arange(length) % step == 0
    return {
        "normal": normal,
        "few values": draws.integers(-2, 3, length).astype(np.float32),
        "constant": np.zeros(length, np.float32),
        "ascending": np.sort(normal),
        "descending": np.sort(normal)[::-1],
        "half NaN": np.where(draws.random(length) < 0.5, np.nan, normal),
        "all NaN": np.full(length, np.nan, np.float32),
        "sampled entries large": np.where(sampled, np.float32(9), normal),
        "sampled entries small": np.where(sampled, np.float32(-9), normal),
        "sampled entries NaN": np.where(sampled, np.float32(np.nan), normal),
        "integers": draws.integers(-1000, 1000, length),
        "strided": np.repeat(normal, 2)[::2],
    }


@pytest.mark.parametrize("kind", long_arrays())
def test_long_arrays_agree_with_a_stable_sort(kind: str) -> None:
    array = long_arrays()[kind]
    order = np.argsort(array, kind="stable")
    for count in (0, 1, 2, len(array) // 33, len(array) // 2, len(array) * 9 // 10, len(array) - 1, len(array)):
        expected = np.sort(order[:count])
        assert np.array_equal(smallest_indices(array, count), expected)
        assert np.array_equal(TorchArrays().smallest_indices(torch.tensor(array.copy()), count), expected)


def test_half_precision_of_torch_is_ordered() -> None:
    array = torch.tensor([0.5, -0.25, 0.0, 0.5, math.nan, -0.25])
    for dtype in (torch.bfloat16, torch.float16):
        found = [TorchArrays().smallest_indices(array.to(dtype), count).tolist() for count in range(7)]
        assert found == [[], [1], [1, 5], [1, 2, 5], [0, 1, 2, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]


@given(array=st.lists(ENTRIES, max_size=12), data=st.data())
def test_on_a_device_the_same_are_selected_without_waiting(array: list[float], data: st.DataObject) -> None:
    entries, count = np.array(array, np.float32), data.draw(st.integers(0, len(array)))
    with simulated_cuda():
        arrays = TorchArrays(DEVICE)
        there = arrays.from_numpy(entries)
        with waits() as waited:
            found = arrays.smallest_indices(there, count)
        assert waited == []
        assert arrays.to_numpy(found).tolist() == sorted_first(entries, count)


def test_arguments_are_not_changed() -> None:
    array = np.random.default_rng(0).standard_normal(2 * selection._SHORT).astype(np.float32)
    array.flags.writeable = False
    before = array.tobytes()
    smallest_indices(array, 1000)
    assert array.tobytes() == before
