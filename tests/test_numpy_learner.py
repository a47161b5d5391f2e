"""Training on NumPy: gradients of a whole network, the optimizer, and resuming bit for bit."""

import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.learning.parameters import HeNormal, Parameter, batch_norm, bias
from sparsecore.learning.protocols import Learner, Operations, Optimizer, Sgd, Task, Tensor
from sparsecore_numpy import NumpyBackend

PLAIN = Sgd(momentum=0.0, nesterov=False)


@attrs.frozen(eq=False)
class Residual:
    """Two residual blocks, one of which halves the image, with a weight that is used twice."""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        return (
            Parameter("first", (4, image_shape[2], 3, 3), HeNormal()),
            *batch_norm("norm", 4),
            Parameter("twice", (4, 4, 3, 3), HeNormal(), sparse=True),
            Parameter("down", (6, 4, 3, 2), HeNormal(), sparse=True),
            Parameter("shortcut", (6, 4, 1, 1), HeNormal(), sparse=True),
            Parameter("classifier", (classes, 6), HeNormal(), sparse=True),
            bias("bias", classes),
        )

    def forward(self, ops: Operations, p: Mapping[str, Tensor], images: Tensor) -> Tensor:
        x = ops.conv2d(images, p["first"], padding=1)
        active = ops.relu(ops.batch_norm(x, p["norm.scale"], p["norm.shift"], p["norm.mean"], p["norm.variance"]))
        inner = ops.conv2d(ops.conv2d(active, p["twice"], padding=1), p["twice"], padding=1)
        x = ops.add(ops.add(inner, x), active)
        x = ops.add(ops.conv2d(x, p["down"], stride=2, padding=1), ops.conv2d(x, p["shortcut"], stride=2))
        return ops.linear(ops.global_average_pool(x), p["classifier"], p["bias"])


@attrs.frozen(eq=False)
class Deep:
    """Many equal layers, none of which is more than a small part of the whole."""

    layers: int
    units: int

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        assert image_shape[0] * image_shape[1] * image_shape[2] == self.units
        hidden = (
            Parameter(f"{layer}", (self.units, self.units), HeNormal(), sparse=True) for layer in range(self.layers)
        )
        return (*hidden, Parameter("classifier", (classes, self.units), HeNormal()))

    def forward(self, ops: Operations, p: Mapping[str, Tensor], images: Tensor) -> Tensor:
        x = ops.flatten(images)
        for layer in range(self.layers):
            x = ops.relu(ops.linear(x, p[f"{layer}"]))
        return ops.linear(x, p["classifier"])


def images_of(side: int = 5, channels: int = 2, examples: int = 40, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (examples, side, side, channels), np.uint8)
    labels = rng.integers(0, 3, examples)
    return Images(Split(pictures, labels), Split(pictures[:17], labels[:17]), 3)


def task_of(
    dtype: str = "float64",
    optimizer: Optimizer = PLAIN,
    model: Any = None,
    images: Images | None = None,
    density: float = 0.5,
) -> Task:
    model, images = model or Residual(), images or images_of()
    parameters = model.parameters(images.shape, images.classes)
    sparse = [parameter for parameter in parameters if parameter.sparse]
    layout = Layout([parameter.name for parameter in sparse], [parameter.shape for parameter in sparse])
    rng = np.random.default_rng(1)
    positions = np.sort(rng.choice(layout.size, int(density * layout.size), replace=False))
    topology = Topology.of(layout, positions.astype(layout.position_dtype), NumpyBackend().arrays)
    random = Randomness(2)
    return Task(
        model=model,
        parameters=parameters,
        other_parameters={p.name: dense_start(p, random) for p in parameters if not p.sparse},
        topology=topology,
        values=(0.3 * rng.standard_normal(topology.size)).astype(dtype),
        images=images,
        optimizer=optimizer,
    )


def dense_start(parameter: Parameter, random: Randomness) -> NDArray[np.float64]:
    positions = np.arange(int(np.prod(parameter.shape)))
    return parameter.initial(parameter.shape, positions, random.child(parameter.name)).reshape(parameter.shape)


def learner_of(dtype: str = "float64", **options: Any) -> Learner:
    return NumpyBackend(dtype).learner(task_of(dtype, **options))


def batch_of(rows: Any) -> Batch:
    rows = np.asarray(rows)
    return Batch(rows, np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.bool_), 0)


def batches(count: int, size: int = 16) -> Iterator[Batch]:
    rng = np.random.default_rng(3)
    for _ in range(count):
        yield batch_of(rng.choice(40, size, replace=False))


def loss_of(learner: Learner, batch: Batch) -> float:
    """The batch's mean loss in training; without momentum a step of length zero leaves the weights alone."""
    learner.reset_totals()
    learner.train(batch, 0.0)
    return learner.totals().loss / len(batch)


def assert_equal_states(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_gradient_of_a_whole_residual_network_is_that_of_central_differences() -> None:
    learner, batch = learner_of(), batch_of(range(7))
    before = learner.values.copy()
    learner.train(batch, 1.0)
    gradient = before - learner.values
    learner = learner_of()
    expected = np.empty(len(before))
    for slot in range(len(before)):
        moved = np.repeat(before[None], 2, axis=0)
        moved[:, slot] += (1e-5, -1e-5)
        losses = []
        for values in moved:
            learner.set_values(values)
            losses.append(loss_of(learner, batch))
        expected[slot] = (losses[0] - losses[1]) / 2e-5
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)


def test_single_precision_follows_double_precision() -> None:
    single, double = learner_of("float32"), learner_of("float64")
    for batch in batches(4):
        single.train(batch, 0.05)
        double.train(batch, 0.05)
    assert single.values.dtype == np.float32
    np.testing.assert_allclose(single.values, double.values, atol=1e-4)
    assert single.totals().loss == pytest.approx(double.totals().loss, rel=1e-4)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_optimizer_moves_every_trained_parameter_by_its_definition(nesterov: bool) -> None:
    momentum, decay, rate = 0.8, 0.1, 0.05
    optimizer = Sgd(momentum=momentum, nesterov=nesterov, weight_decay=decay)
    learner, probe = learner_of(optimizer=optimizer), learner_of()
    velocity: dict[str, Any] = {"values": 0.0, "dense": 0.0}
    for batch in batches(3):
        before = learner.state()
        probe.load_state(task_of().topology, before)
        probe.train(batch, 1.0)  # plain descent of length one: the difference is the gradient
        after_probe = probe.state()
        learner.train(batch, rate)
        after = learner.state()
        for name, last in velocity.items():
            direction = before[name] - after_probe[name] + decay * before[name]
            velocity[name] = now = momentum * last + direction
            step = direction + momentum * now if nesterov else now
            np.testing.assert_allclose(after[name], before[name] - rate * step, rtol=1e-9, atol=1e-12)


def test_the_optimizer_leaves_running_statistics_alone() -> None:
    plain = learner_of()
    decayed = learner_of(optimizer=Sgd(weight_decay=0.5))
    for learner in plain, decayed:
        learner.train(batch_of(range(8)), 0.1)
    np.testing.assert_array_equal(plain.state()["running"], decayed.state()["running"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_learner_that_loads_a_state_resumes_bit_for_bit(dtype: str) -> None:
    learner = learner_of(dtype, optimizer=Sgd(weight_decay=0.01))
    for batch in batches(3):
        learner.train(batch, 0.1)
    other = learner_of(dtype, optimizer=Sgd(weight_decay=0.01))
    other.train(batch_of(range(30)), 0.5)
    other.load_state(task_of().topology, learner.state())
    assert_equal_states(other.state(), learner.state())
    for size in 16, 5:
        for batch in batches(2, size):
            learner.train(batch, 0.1)
            other.train(batch, 0.1)
    assert_equal_states(other.state(), learner.state())
    assert other.totals() == learner.totals()


def test_normalization_removes_brightness_and_contrast() -> None:
    images = images_of()
    dim = Split(images.train.images // 4, images.train.labels)
    bright = Split(dim.images * 3 + 40, dim.labels)
    losses = [loss_of(learner_of(images=Images(split, split, 3)), batch_of(range(9))) for split in (dim, bright)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def reallocation_of(task: Task, values: NDArray[Any]) -> Reallocation:
    """Every third weight goes, and as many come in the lowest free positions."""
    topology = task.topology
    survives = np.arange(topology.size) % 3 != 0
    free = np.setdiff1d(np.arange(topology.layout.size), topology.positions)[: np.count_nonzero(~survives)]
    positions = np.concatenate([topology.positions[survives], free]).astype(topology.positions.dtype)
    order = np.argsort(positions)
    sources = np.concatenate([np.flatnonzero(survives), np.full(len(free), topology.size)])[order]
    after = topology.at(positions[order])
    carried = np.append(values, np.zeros(1, values.dtype))[sources]
    pruned = topology.counts - topology.subset(survives).counts
    return Reallocation(topology, after, survives, sources, carried, pruned, after.counts - topology.counts + pruned)


def test_reallocation_moves_to_the_new_topology_and_carries_momentum() -> None:
    task, optimizer = task_of(), Sgd()
    learner = learner_of(optimizer=optimizer)
    for batch in batches(2):
        learner.train(batch, 0.1)
    before = learner.state()
    reallocation = reallocation_of(task, learner.values)
    learner.reallocate(reallocation)
    after = learner.state()
    np.testing.assert_array_equal(learner.values, reallocation.values)
    np.testing.assert_array_equal(after["momentum"], reallocation.carry(before["momentum"]))
    np.testing.assert_array_equal(after["dense_momentum"], before["dense_momentum"])
    assert np.count_nonzero(after["momentum"]) < np.count_nonzero(before["momentum"])

    moved = attrs.evolve(task, topology=reallocation.after, values=reallocation.values, optimizer=optimizer)
    fresh = NumpyBackend("float64").learner(moved)
    fresh.load_state(reallocation.after, after)
    for batch in batches(2):
        learner.train(batch, 0.1)
        fresh.train(batch, 0.1)
    assert_equal_states(learner.state(), fresh.state())


def test_buffers_that_do_not_fit_are_refused() -> None:
    learner = learner_of()
    with pytest.raises(InputError, match=r"values must have the shape \(\d+,\); given \(3,\)"):
        learner.set_values(np.zeros(3))
    with pytest.raises(InputError, match="momentum must have the shape"):
        learner.load_state(task_of().topology, learner.state() | {"momentum": np.zeros(3)})
    with pytest.raises(InputError, match="no buffer named 'values'; it has: momentum"):
        learner.load_state(task_of().topology, {"momentum": np.zeros(3)})


def test_returned_values_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        learner_of().values[0] = 1


def test_a_state_has_one_entry_per_active_weight() -> None:
    learner, task = learner_of(), task_of()
    sizes = {name: len(buffer) for name, buffer in learner.state().items()}
    dense = sum(
        start.size for name, start in task.other_parameters.items() if name not in {"norm.mean", "norm.variance"}
    )
    size = task.topology.size
    assert sizes == {
        "values": size,
        "momentum": size,
        "dense": dense,
        "dense_momentum": dense,
        "running": 8,
        "totals": 3,
        "steps": 1,
    }


def test_training_never_holds_more_than_a_fraction_of_the_dense_parameters() -> None:
    images = images_of(side=16, channels=1)
    options = {"model": Deep(layers=24, units=256), "images": images, "density": 0.01}
    task = task_of("float32", **options)
    dense_bytes = 4 * task.topology.layout.size
    learner_of("float32", **options).train(batch_of(range(4)), 0.1)  # imports and caches
    tracemalloc.start()
    learner = NumpyBackend().learner(task)
    for _ in range(2):
        learner.train(batch_of(range(4)), 0.1)
        learner.evaluate(images.test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < dense_bytes / 4
