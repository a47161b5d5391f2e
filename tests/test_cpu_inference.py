"""Predictions of trained networks on the CPU: those of NumPy in double precision, from any batch, run or file."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES
from inference_examples import close, images_for, logits_of, network_of
from test_numpy_learner import Residual

from sparsecore.learning.parameters import HeNormal, Parameter, batch_norm, bias
from sparsecore.learning.protocols import Operations, Tensor
from sparsecore_cpu.inference import Predictor
from sparsecore_cpu.inference.execution import Blocks, Single
from sparsecore_models.hashed import HashedLeNet, HashedWideResNet
from sparsecore_models.lenet import LeNet
from sparsecore_models.wrn import WideResNet


@attrs.frozen(eq=False)
class Odd:
    """What no network of ours does: norms before anything else and twice, relus of sums, what is added to itself."""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        channels = image_shape[2]
        return (
            *batch_norm("images", channels),
            Parameter("valid", (5, channels, 3, 2), HeNormal(), sparse=True),
            *batch_norm("twice", 5),
            Parameter("wide", (5, 5, 5, 5), HeNormal(), sparse=True),
            Parameter("hidden", (7, 5), HeNormal(), sparse=True),
            bias("hidden bias", 7),
            Parameter("classifier", (classes, 7), HeNormal()),
        )

    def forward(self, ops: Operations, p: Mapping[str, Tensor], images: Tensor) -> Tensor:
        def norm(x: Tensor, name: str) -> Tensor:
            return ops.batch_norm(x, *(p[f"{name}.{part}"] for part in ("scale", "shift", "mean", "variance")))

        x = ops.conv2d(norm(images, "images"), p["valid"])
        x = norm(norm(x, "twice"), "twice")
        x = ops.relu(ops.add(ops.conv2d(x, p["wide"], padding=2), ops.relu(ops.relu(x))))
        x = ops.add(x, norm(ops.add(x, x), "twice"))
        x = ops.linear(ops.global_average_pool(x), p["hidden"], p["hidden bias"])
        return ops.linear(ops.add(ops.relu(x), x), p["classifier"])


@attrs.frozen(eq=False)
class OneConvolution:
    """A convolution of any kind between another one and the classifier."""

    kernel: tuple[int, int]
    stride: int
    padding: int

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        return (
            Parameter("first", (3, image_shape[2], 3, 3), HeNormal()),
            Parameter("any", (4, 3, *self.kernel), HeNormal(), sparse=True),
            Parameter("shortcut", (4, 3, *self.kernel), HeNormal(), sparse=True),
            Parameter("classifier", (classes, 4), HeNormal()),
        )

    def forward(self, ops: Operations, p: Mapping[str, Tensor], images: Tensor) -> Tensor:
        x = ops.relu(ops.conv2d(images, p["first"], padding=1))
        both = (ops.conv2d(x, p[name], stride=self.stride, padding=self.padding) for name in ("any", "shortcut"))
        return ops.linear(ops.global_average_pool(ops.relu(ops.add(*both))), p["classifier"])


NETWORKS: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "wrn": (WideResNet(10, 1), (8, 8, 1)),
    "wrn, large images": (WideResNet(10, 1), (32, 24, 3)),
    "wrn, odd images": (WideResNet(16, 1), (7, 9, 2)),
    "lenet": (LeNet((40, 30)), (5, 4, 3)),
    "hashed wrn": (HashedWideResNet(10, 1), (8, 8, 1)),
    "hashed lenet": (HashedLeNet((40, 30)), (5, 5, 1)),
    "residual": (Residual(), (6, 5, 2)),
    "odd": (Odd(), (9, 8, 2)),
}
on_machines = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)


@on_machines
@pytest.mark.parametrize("name", NETWORKS)
def test_both_prediction_paths_equal_the_definition(name: str, machine: Any) -> None:
    network = network_of(*NETWORKS[name])
    images = images_for(network, 3)
    expected = logits_of(network, images)
    for way in (Single.of(network, machine), Blocks.of(network, machine)):
        logits = np.full(expected.shape, np.nan, np.float32)
        way.predict(images, logits)
        assert close(logits, expected)


@settings(max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    density=st.floats(0.01, 1),
    machine=st.sampled_from(MACHINES),
)
def test_predicted_convolutions_equal_their_definition(
    kernel: tuple[int, int], stride: int, padding: int, sides: tuple[int, int], density: float, machine: Any
) -> None:
    assume(all(side + 2 * padding >= length for side, length in zip(sides, kernel, strict=True)))
    network = network_of(OneConvolution(kernel, stride, padding), (*sides, 2), density)
    images = images_for(network, 2)
    expected = logits_of(network, images)
    logits = np.empty(expected.shape, np.float32)
    Single.of(network, machine).predict(images, logits)
    assert close(logits, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_prediction_of_an_image_does_not_depend_on_its_batch(name: str) -> None:
    network = network_of(*NETWORKS[name])
    predictor = Predictor.of(network, threads=1)
    images = images_for(network, 37)
    expected = logits_of(network, images)
    for count in (0, 1, 2, 8, 9, 16, 17, 37):
        logits = predictor.predict(images[:count])
        assert logits.shape == (count, 10)
        assert logits.dtype == np.float32
        assert close(logits, expected[:count])


def test_predictions_do_not_depend_on_threads_or_on_what_was_predicted_before() -> None:
    network = network_of(*NETWORKS["wrn, large images"])
    images = images_for(network, 4)
    first = Predictor.of(network, threads=1).predict(images)
    for threads in (1, 2, 3):
        predictor = Predictor.of(network, threads)
        predictor.predict(np.full((1, *network.pictures.shape), np.nan))
        for _ in range(2):
            np.testing.assert_array_equal(predictor.predict(images), first)


def test_returned_logits_are_not_overwritten_by_later_calls() -> None:
    network = network_of(*NETWORKS["lenet"])
    predictor, images = Predictor.of(network, threads=1), images_for(network, 40)
    given = predictor.predict(images[:1]), predictor.predict(images)
    kept = [logits.copy() for logits in given]
    predictor.predict(images[::-1])
    predictor.predict(images[1:2])
    for logits, same in zip(given, kept, strict=True):
        np.testing.assert_array_equal(logits, same)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_images_may_be_floats_in_the_units_of_pixels(dtype: str) -> None:
    for name in ("wrn", "lenet"):
        network = network_of(*NETWORKS[name])
        predictor, images = Predictor.of(network, threads=1), images_for(network, 20)
        for count in (1, 20):
            np.testing.assert_array_equal(
                predictor.predict(images[:count].astype(dtype)), predictor.predict(images[:count])
            )


def test_a_nan_value_appears_in_the_logits() -> None:
    network = network_of(*NETWORKS["wrn"])
    network.values[:] = np.nan
    assert np.isnan(Predictor.of(network, threads=1).predict(images_for(network, 1))).all()


def test_a_network_without_sparse_weights_predicts_from_its_dense_parameters() -> None:
    network = network_of(*NETWORKS["lenet"])
    empty = attrs.evolve(network, positions=network.positions[:0], values=network.values[:0])
    images = images_for(empty, 3)
    assert close(Predictor.of(empty, threads=1).predict(images), logits_of(empty, images))
