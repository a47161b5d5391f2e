"""The networks of Mostafa & Wang have their parameters and initial values; torch computes the same first losses."""

from typing import Any

import numpy as np
import pytest
from test_experiment import experiment

from sparsecore.data.batches import batches
from sparsecore.engine.randomness import Randomness
from sparsecore.learning.parameters import FanInUniform, HeNormal, Parameter
from sparsecore.run.setup import Setup, set_up
from sparsecore_models.hashed import HashedLeNet
from sparsecore_models.lenet import LeNet
from sparsecore_models.thin import ThinLeNet
from sparsecore_models.wrn import WideResNet

BACKENDS = ["cpu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("numpy", "torch", "jax"))]


def named(model: Any, image: tuple[int, int, int] = (28, 28, 1)) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in model.parameters(image, 10)}


def drawn(parameter: Parameter) -> np.ndarray[Any, Any]:
    return parameter.initial(parameter.shape, np.arange(np.prod(parameter.shape)), Randomness(3).child(parameter.name))


def first_loss(name: str, backend: str, *settings: str) -> tuple[Setup, float]:
    """A run on 100 of the digits, and its loss of a batch of them all before any step."""
    pytest.importorskip(f"sparsecore_{backend}")
    chosen = ("data.limit=100", "training.batch_size=100", *settings)
    setup = set_up(experiment(*chosen, stack=("static",), model__name=name, backend__name=backend, sparsity="0"))
    learner = setup.learner()
    learner.train(next(iter(batches(setup.engine.random, 0, 100, 100, setup.augmentation))), 0.0)
    return setup, learner.totals().loss / 100


def test_the_classifier_of_a_wide_resnet_starts_as_a_linear_layer_of_torch_with_a_zero_bias() -> None:
    parameters = named(WideResNet(), (32, 32, 3))
    weight = parameters["classifier.weight"]
    assert (weight.shape, weight.initial, weight.sparse) == ((10, 128), FanInUniform(), False)
    assert drawn(weight).std() == pytest.approx(1 / (3 * 128) ** 0.5, rel=0.05)
    assert not drawn(parameters["classifier.bias"]).any()
    convolutions = [one for one in parameters.values() if len(one.shape) == 4]
    assert len(convolutions) == 1 + 24 + 3
    assert all(one.initial == HeNormal("out") for one in convolutions)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_loss_of_wrn_28_2_on_ten_classes_is_a_little_above_that_of_chance(backend: str) -> None:
    assert 2.3 < first_loss("wrn-28-2", backend)[1] < 2.45


@pytest.mark.parametrize("model", [LeNet(), HashedLeNet(sparsity=0.9), ThinLeNet(sparsity=0.0)])
def test_a_lenet_has_no_bias_and_a_batch_norm_after_every_layer_and_uniform_weights(model: Any) -> None:
    parameters = named(model)
    layers = {"layer1": (300, 784), "layer2": (100, 300), "classifier": (10, 100)}
    norm = [f"norm.{part}" for part in ("scale", "shift", "mean", "variance")]
    assert list(parameters) == [f"{layer}.{part}" for layer in layers for part in ["weight", *norm]]
    for layer, (outputs, inputs) in layers.items():
        assert parameters[f"{layer}.norm.scale"].shape == (outputs,)
        values = drawn(parameters[f"{layer}.weight"])
        assert 0.95 < abs(values).max() * inputs**0.5 <= 1
        assert values.std() * (3 * inputs) ** 0.5 == pytest.approx(1, rel=0.15)


def test_a_lenet_computes_what_linear_layers_and_batch_norms_of_torch_compute() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    setup, loss = first_loss("lenet-30-20", "numpy", "backend.dtype=float64")
    layers = [nn.Linear(64, 30, bias=False), nn.Linear(30, 20, bias=False), nn.Linear(20, 10, bias=False)]
    values = dict(zip(("layer1.weight", "layer2.weight", "classifier.weight"), layers, strict=True))
    for name, layer in values.items():
        own = setup.values[setup.start.topology.slots(name)].reshape(layer.weight.shape)
        layer.weight.data = torch.from_numpy(own)
    norms = [nn.BatchNorm1d(layer.out_features) for layer in layers]
    network = nn.Sequential(layers[0], norms[0], nn.ReLU(), layers[1], norms[1], nn.ReLU(), layers[2], norms[2])
    images, labels = standardized(setup)
    expected = nn.functional.cross_entropy(network.double()(torch.from_numpy(images)), torch.from_numpy(labels))
    assert loss == pytest.approx(expected.item(), rel=1e-9)


def standardized(setup: Setup) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    train: Any = setup.images.train
    images = train.images.reshape(len(train), -1).astype(float)
    return (images - setup.images.mean) / setup.images.std, np.asarray(train.labels, np.int64)
