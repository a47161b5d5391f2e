"""Sparse training on a simulated CUDA device: nothing is mixed with the CPU's, and how often the host waits for it."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from command_line import SMALL, small_images  # noqa: E402
from simulated_cuda import DEVICE, CudaTensor, on_device, simulated_cuda, waits  # noqa: E402
from torch import nn  # noqa: E402

from sparsecore import Every  # noqa: E402
from sparsecore.cli import run  # noqa: E402
from sparsecore_deepr import DeepRewiring  # noqa: E402
from sparsecore_dpr import DynamicReallocation  # noqa: E402
from sparsecore_numpy import NumpyArrays  # noqa: E402
from sparsecore_rigl import RigL  # noqa: E402
from sparsecore_set import SparseEvolution  # noqa: E402
from sparsecore_snfs import SparseMomentum  # noqa: E402
from sparsecore_torch import TorchArrays, sparsify  # noqa: E402

MOST = 8
"""Waits in an update."""

_EVERY = Every(steps=3)
STRATEGIES: dict[str, Any] = {
    "dpr": DynamicReallocation(target="10%", schedule=_EVERY),
    "set": SparseEvolution(schedule=_EVERY),
    "set by magnitude": SparseEvolution(schedule=_EVERY, ranking="magnitude"),
    "rigl": RigL(schedule=_EVERY),
    "deepr": DeepRewiring(),
    "snfs": SparseMomentum(schedule=_EVERY),
    "gradient growth": [DynamicReallocation(target="10%", schedule=_EVERY), "gradient-growth"],
    "erk start": ["erk-start", DynamicReallocation(target="10%", schedule=_EVERY)],
}


def network() -> nn.Module:
    torch.manual_seed(0)
    sides = (12, 24, 24, 24, 24, 24, 4)
    layers = [part for fan in itertools.pairwise(sides) for part in (nn.Linear(*fan, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def trained(
    strategy: Any, storage: str, *, device: bool, steps: int = 8, **options: Any
) -> tuple[Any, list[list[str]], list[list[str]]]:
    """The training, and what the host waited for in each quiet step but the first two, and in each update."""
    model = on_device(network()) if device else network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.7, storage=storage, include="*", total_steps=99)
    inputs, labels = torch.randn(16, 12), torch.randint(4, (16,))
    if device:
        inputs, labels = CudaTensor(inputs), CudaTensor(labels)
    quiet, updates = [], []
    for step in range(steps):
        before = training.updates
        optimizer.zero_grad()
        with waits() as waited:
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        if training.updates > before:
            updates.append(waited)
        elif step > 1:
            quiet.append(waited)
    return training, quiet, updates


def test_the_device_refuses_to_be_mixed_and_counts_who_waits() -> None:
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


@pytest.mark.parametrize("storage", ["masked", "compact"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_quiet_step_waits_for_nothing_and_an_update_a_few_times(name: str, storage: str) -> None:
    with simulated_cuda():
        training, quiet, updates = trained(STRATEGIES[name], storage, device=True)
        assert updates
        assert all(waited == [] for waited in quiet), quiet
        assert max(map(len, updates)) <= MOST, updates[-1]
        saved = training.state_dict()
        training.load_state_dict(saved)
        assert str(training.summary())
        assert training.memory().total.measured > 0
        topology, weights = training.topology.sha256(), training.model
        training.squash()
        assert {parameter.device for parameter in weights.parameters()} == {DEVICE}
    expected, _, _ = trained(STRATEGIES[name], storage, device=False)
    assert topology == expected.topology.sha256()


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}])
def test_foreach_and_fused_optimizers_wait_for_nothing(options: dict[str, bool]) -> None:
    with simulated_cuda():
        _, quiet, updates = trained(STRATEGIES["dpr"], "masked", device=True, **options)
        assert all(waited == [] for waited in quiet)
        assert max(map(len, updates)) <= MOST


def test_the_counting_verbs_count_as_numpy_does() -> None:
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
