"""Runs of strategies that see dense gradients, replace steps and change the number of weights, on every backend."""

import math

import numpy as np
import pytest
from command_line import small_images, train

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.topology import Layout, Topology
from sparsecore.learning.optimizers import Adam, Sgd
from sparsecore.learning.protocols import Task
from sparsecore.plugins.discovery import load
from sparsecore_models.lenet import LeNet

pytestmark = pytest.mark.usefixtures("quick_runs")

BACKENDS = ["numpy", "torch"]


def backend(name):
    if name == "torch":
        pytest.importorskip("torch")
    return load("backend", name)(dtype="float64")


def images(side=5, count=40):
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (count, side, side, 1), np.uint8), rng.integers(0, 3, count))
    return Images(split, split, 3)


def learner(name, optimizer, density=0.2):
    """A LeNet in training on the backend, its arrays, and what it began with."""
    plugin = backend(name)
    parameters = LeNet().parameters((5, 5, 1), 3)
    sparse = {p.name: p for p in parameters if p.sparse}
    layout = Layout.of({name: p.shape for name, p in sparse.items()})
    rng = np.random.default_rng(1)
    positions = np.sort(rng.choice(layout.size, int(density * layout.size), replace=False))
    topology = Topology.of(layout, plugin.arrays.from_numpy(positions.astype(layout.position_dtype)), plugin.arrays)
    values = rng.normal(0, 0.1, len(positions))
    task = Task(
        model=LeNet(),
        parameters=parameters,
        other_parameters={p.name: _start(p) for p in parameters if not p.sparse},
        topology=topology,
        values=plugin.arrays.from_numpy(values),
        images=images(),
        optimizer=optimizer,
    )
    return plugin.learner(task), plugin.arrays, topology


def _start(parameter):
    places = np.arange(math.prod(parameter.shape))
    return parameter.initial(parameter.shape, places, Randomness(0).child(parameter.name)).reshape(parameter.shape)


def batch(count=12):
    return Batch(np.arange(count), np.zeros((count, 2), np.int64), np.zeros(count, np.bool_), 0)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("optimizer", [Sgd(weight_decay=1e-3), Adam()])
def test_a_step_with_dense_gradients_is_the_step_without_them(name, optimizer):
    plain, arrays, _ = learner(name, optimizer)
    densely, _, _ = learner(name, optimizer)
    for _ in range(3):
        plain.train(batch(), 0.05)
        densely.backward(batch(), dense=True)
        densely.optimizer_step(0.05)
    np.testing.assert_allclose(arrays.to_numpy(densely.values), arrays.to_numpy(plain.values), rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(densely.state().values(), plain.state().values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def test_dense_gradients_are_those_of_a_full_network_with_zeros():
    gradients = {}
    for name in BACKENDS:
        network, arrays, topology = learner(name, Sgd())
        gradient = network.backward(batch(), dense=True)
        gradients[name] = {tensor: arrays.to_numpy(gradient(tensor)) for tensor in topology.layout.names}
    for tensor, dense in gradients["numpy"].items():
        assert np.count_nonzero(dense) > 2 * 0.2 * len(dense)  # many more than there are weights
        np.testing.assert_allclose(gradients["torch"][tensor], dense, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", BACKENDS)
def test_dense_gradients_at_inactive_positions_are_central_differences_of_the_loss(name):
    network, _, topology = learner(name, Sgd())
    gradient = network.backward(batch(), dense=True)
    tensor = topology.layout.names[0]
    free = np.setdiff1d(np.arange(topology.layout.sizes[0]), topology.local(tensor))[[0, 7, 20]]
    for place in free:
        losses = [_loss_with(name, place, step) for step in (1e-5, -1e-5)]
        assert float(gradient(tensor)[int(place)]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-8)


def _loss_with(name, place, value):
    """The mean loss with another weight at this place of the first tensor."""
    network, arrays, topology = learner(name, Sgd())
    positions, values = arrays.to_numpy(topology.positions), arrays.to_numpy(network.values)
    slot = np.searchsorted(positions, place)
    more = topology.at(arrays.from_numpy(np.insert(positions, slot, place).astype(positions.dtype)))
    state = {**network.state()}
    for key, buffer in state.items():
        if buffer.shape == values.shape:
            state[key] = np.insert(buffer, slot, value if key == "values" else 0.0)
    network.load_state(more, state)
    network.backward(batch())
    totals = network.totals()
    return totals.loss / totals.examples


@pytest.mark.parametrize("name", BACKENDS)
def test_a_replaced_step_leaves_values_and_optimizer_unchanged(name):
    network, _, _ = learner(name, Sgd())
    network.train(batch(), 0.1)
    before = network.state()
    network.backward(batch(), dense=True)
    after = network.state()
    same = [key for key in before if not (key.startswith("running") or key == "totals")]
    assert len(same) >= 4
    for key in same:
        np.testing.assert_array_equal(before[key], after[key])


SMALL = ("--model", "lenet-300-100", "--data", "npz", "--batch-size", "8", "--set", "backend.dtype=float64")


# not granet: two classes make two rows of the classifier mirror images, whose magnitudes differ only by rounding
@pytest.mark.parametrize("strategy", ["rigl", "snfs", "gmp", "gse", "mest"])
def test_runs_with_dense_gradients_and_gradual_pruning_agree_on_all_backends(strategy, tmp_path):
    pytest.importorskip("torch")
    data = small_images(tmp_path / "small.npz")
    schedule = ("--set", "strategy.schedule={steps = 2, until = 0.9}")
    results = [
        train(*SMALL, "--data-dir", data, "--backend", name, "--strategy", strategy, *schedule, "--epochs", "3",
              "--out", name, cwd=tmp_path)
        for name in BACKENDS
    ]  # fmt: skip
    assert results[0]["reallocations"] > 2
    assert results[0]["sparsity"] == pytest.approx(0.9, abs=0.03)
    assert results[0]["topology_sha256"] == results[1]["topology_sha256"]
    assert results[0]["train_loss"] == pytest.approx(results[1]["train_loss"], rel=1e-6)
