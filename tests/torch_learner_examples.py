"""Tasks, learners and reallocations for the tests of learners on torch."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from test_numpy_learner import reallocation_of as reallocation_on_numpy
from test_numpy_learner import task_of as task_on_numpy

torch = pytest.importorskip("torch")

from torch_devices import DEVICES

from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.parameters import HeNormal, Parameter, batch_norm
from sparsecore.learning.protocols import Adam, AdamW, Operations, Sgd, Task
from sparsecore_torch import TorchArrays, TorchBackend
from sparsecore_torch.experiment.learner import TorchLearner

RULES = {
    "plain": Sgd(momentum=0.0, nesterov=False),
    "Nesterov without momentum": Sgd(momentum=0.0, nesterov=True, weight_decay=0.01),
    "momentum": Sgd(momentum=0.8, nesterov=False, weight_decay=0.01),
    "Nesterov": Sgd(momentum=0.8, nesterov=True, weight_decay=0.01),
    "Adam": Adam(betas=(0.8, 0.95), weight_decay=0.01),
    "AdamW": AdamW(betas=(0.8, 0.95), weight_decay=0.01),
}
on_devices = pytest.mark.parametrize("device", DEVICES)
with_rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@attrs.frozen(eq=False)
class Normalized:
    """Batch norm of what a sparse layer makes of vectors."""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        weight = Parameter("weight", (classes, image_shape[2]), HeNormal(), sparse=True)
        return weight, *batch_norm("norm", classes)

    def forward(self, ops: Operations, p: Mapping[str, Any], images: Any) -> Any:
        norm = (p[f"norm.{part}"] for part in ("scale", "shift", "mean", "variance"))
        return ops.batch_norm(ops.linear(ops.flatten(images), p["weight"]), *norm)


def moved(topology: Topology, device: str) -> Topology:
    arrays = TorchArrays(device)
    return Topology.of(topology.layout, arrays.from_numpy(topology.positions), arrays)


def task_of(dtype: str = "float64", device: str = "cpu", **options: Any) -> Task:
    """The task that the tests of the NumPy backend have."""
    return on_device(task_on_numpy(dtype, **options), device)


def on_device(task: Task, device: str) -> Task:
    """The task with its topology and its values on the device."""
    return attrs.evolve(task, topology=moved(task.topology, device), values=torch.tensor(task.values, device=device))


def learner_of(
    dtype: str = "float64", device: str = "cpu", options: Mapping[str, Any] = {}, **task: Any
) -> TorchLearner:
    parameters = "float32" if dtype == "bfloat16" else dtype
    learner = TorchBackend(device=device, dtype=dtype, **options).learner(task_of(parameters, device, **task))
    assert isinstance(learner, TorchLearner)
    return learner


def reallocation_of(learner: TorchLearner, device: str = "cpu", **task: Any) -> tuple[Reallocation, Reallocation]:
    """Every third weight goes and as many come; the same update on NumPy and on torch."""
    values = learner.values.cpu().numpy()
    on_numpy = reallocation_on_numpy(task_on_numpy(**task), values)
    there = torch.tensor
    return on_numpy, attrs.evolve(
        on_numpy,
        before=moved(on_numpy.before, device),
        after=moved(on_numpy.after, device),
        survives=there(on_numpy.survives, device=device),
        sources=there(on_numpy.sources, device=device),
        values=there(on_numpy.values, device=device),
    )


def assert_equal_states(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def running(state: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([buffer for name, buffer in state.items() if name.startswith("running.")])
