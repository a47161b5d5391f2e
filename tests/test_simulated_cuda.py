"""The engine and the torch backend on a simulated CUDA device: nothing is mixed, and waits of the host are counted."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from command_line import SMALL, small_images
from simulated_cuda import DEVICE, CudaTensor, simulated_cuda, waits

from sparsecore import Engine, Every, Layout
from sparsecore.cli.command_line import run
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.deepr import DeepRewiring
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.soft_deepr import SoftDeepRewiring
from sparsecore_torch import TorchArrays

MOST = 8
"""Waits in an update."""

_EVERY = Every(steps=3)
STRATEGIES: dict[str, Any] = {
    "dpr": DynamicReallocation(target="10%", schedule=_EVERY),
    "set": SparseEvolution(schedule=_EVERY),
    "set by magnitude": SparseEvolution(schedule=_EVERY, ranking="magnitude"),
    "deepr": DeepRewiring(),
    "soft-deepr": SoftDeepRewiring(),
}


def test_the_device_refuses_mixed_tensors_and_counts_waits() -> None:
    with simulated_cuda():
        vector = torch.arange(4, device="cuda")
        assert vector.device == DEVICE
        with pytest.raises(RuntimeError, match="same device"):
            vector + torch.arange(4)
        for waiting in (lambda: int(vector[0]), vector.nonzero, lambda: vector[vector > 1], vector.tolist):
            with waits() as waited:
                waiting()
            assert len(waited) == 1
        with waits() as waited:
            (vector * 2).sort()
            torch.arange(4).pin_memory().to("cuda", non_blocking=True)
        assert waited == []
        with waits() as waited:
            torch.arange(4).to("cuda")
        assert len(waited) == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_engine_update_waits_a_bounded_number_of_times_and_decides_as_on_numpy(name: str) -> None:
    layout = Layout.of({"first": (20, 12), "second": (8, 20), "third": (4, 8, 3, 3)})
    values = np.random.default_rng(0).normal(0, 1e-3, 300)
    found = []
    with simulated_cuda():
        for arrays in (TorchArrays(DEVICE), NumpyArrays()):
            engine = Engine(layout, [STRATEGIES[name]], arrays=arrays, seed=3)
            state = engine.start(0.7)
            own = arrays.from_numpy(values[: state.topology.size])
            with waits() as waited:
                after, reallocation = engine.update(state, own)
            assert len(waited) <= MOST
            moved = (after.topology.positions, reallocation.grown_positions, reallocation.pruned_positions)
            found.append([arrays.to_numpy(each).tolist() for each in (*moved, reallocation.values)])
    assert found[0] == found[1]


def test_counting_operations_equal_numpy_s() -> None:
    mask = np.random.default_rng(0).random(50) < 0.3
    values = np.where(mask, np.inf, 1.0)
    bounds = (0, 7, 7, 31, 50)
    with simulated_cuda():
        arrays = TorchArrays(DEVICE)
        counting, on_it = arrays.counting, arrays.from_numpy(mask)
        assert isinstance(on_it, CudaTensor)
        with waits() as waited:
            found = counting.nonzero(on_it, int(mask.sum()))
            count, lost = counting.count(on_it), counting.count_not_finite(arrays.from_numpy(values))
        assert waited == []
        assert arrays.to_numpy(found).tolist() == np.flatnonzero(mask).tolist()
        assert [int(count), int(lost)] == [mask.sum(), mask.sum()]
        with waits() as waited:
            each = counting.count_each(on_it, bounds)
        assert len(waited) == 1
    ends = itertools.pairwise(bounds)
    assert each.tolist() == [int(mask[first:last].sum()) for first, last in ends]
    assert not hasattr(NumpyArrays(), "counting")


def test_the_torch_backend_trains_on_the_device(tmp_path: Path) -> None:
    images = small_images(tmp_path / "small.npz")
    device = ("--backend", "torch", "--set", "backend.device=cuda")
    with simulated_cuda():
        arguments = ["train", *SMALL, *device, "--data-dir", str(images), "--out", str(tmp_path / "run")]
        assert run(arguments) == 0
    assert (tmp_path / "run/result.json").exists()
