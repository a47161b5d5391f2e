"""WRN-28-2 as the benchmarks train it: a task for any backend, on images of noise."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.arrays import Arrays
from sparsecore.engine.engine import Engine
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Backend, Learner, Model, Sgd, Task
from sparsecore_models.wrn import WideResNet
from sparsecore_strategies.static import Static

EXAMPLES = 1000
RULE = Sgd(weight_decay=5e-4)
"""The paper's, which all of them are trained by."""


def learner(backend: Backend, shape: tuple[int, int, int], sparsity: float, model: Model | None = None) -> Learner:
    """The network on this backend, ready to train on noise of (height, width, channels)."""
    return backend.learner(task(backend, noise(shape), sparsity, model or WideResNet()))


def task(backend: Backend, images: Images, sparsity: float, model: Model) -> Task:
    """All that the backend needs to train the model at this sparsity, the same in every tensor."""
    layout = layout_of(model.parameters(images.shape, images.classes))
    return task_on(topology_of(layout, sparsity, backend.arrays), backend, images, model)


def task_on(topology: Topology, backend: Backend, images: Images, model: Model) -> Task:
    """The same on a topology."""
    parameters = model.parameters(images.shape, images.classes)
    values = [_start(p, topology.local(p.name)) for p in parameters if p.sparse]
    return Task(
        model=model,
        parameters=parameters,
        other_parameters={
            p.name: _start(p, np.arange(math.prod(p.shape))).reshape(p.shape) for p in parameters if not p.sparse
        },
        topology=topology,
        values=backend.arrays.from_numpy(np.concatenate(values).astype(backend.dtype)),
        images=images,
        optimizer=RULE,
    )


def step_of(network: Learner, batch: int) -> Callable[[], None]:
    """A training step on so many images, others each time."""
    rng = np.random.default_rng(0)
    return lambda: network.train(batch_of(rng.choice(EXAMPLES, batch, replace=False)), 0.1)


def layout_of(parameters: tuple[Parameter, ...]) -> Layout:
    """The sparse tensors."""
    return Layout.of({parameter.name: parameter.shape for parameter in parameters if parameter.sparse})


def topology_of(layout: Layout, sparsity: float, arrays: Arrays) -> Topology:
    """As a run begins."""
    return Engine(layout, [Static()], arrays=arrays).start(sparsity).topology


def noise(shape: tuple[int, int, int], examples: int = EXAMPLES) -> Images:
    """Ten classes that have nothing to do with the images."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (examples, *shape), np.uint8), rng.integers(0, 10, examples))
    return Images(split, split, 10)


def batch_of(rows: Any) -> Batch:
    """These images as they are."""
    return Batch(rows, np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.bool_), 0)


def _start(parameter: Parameter, positions: Any) -> Any:
    return parameter.initial(parameter.shape, positions, Randomness(0).child(parameter.name))
