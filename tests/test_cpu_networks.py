"""Whole networks on the CPU backend: their gradients are NumPy's in double precision, whatever the kernels."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, ORACLE, in_double, in_single, weight_of

from sparsecore.host.weights import WeightView
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Model
from sparsecore_cpu.operations import CpuComputation
from sparsecore_models.lenet import LeNet
from sparsecore_models.wrn import WideResNet
from sparsecore_numpy.operations import NumpyComputation, NumpyOperations

CLEAR = 1e-5
"""What a relu is of must be farther from zero, so that no rounding decides what its gradient is."""

NETWORKS: dict[str, Model] = {
    "wrn-10-1": WideResNet(10, 1),
    "wrn-16-1": WideResNet(16, 1),
    "lenet-40-30": LeNet((40, 30)),
}
on_machines = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kernels.name)


def drawn(model: Model, images: NDArray[np.float32], seed: int) -> dict[str, Any]:
    """All parameters, in single precision; a fifth of the weights of sparse tensors."""
    draws = np.random.default_rng(seed)

    def of(parameter: Parameter) -> Any:
        fan = np.prod(parameter.shape[1:]) if len(parameter.shape) > 1 else 25
        values = (draws.standard_normal(parameter.shape) * np.sqrt(2 / fan)).astype(np.float32)
        if not parameter.trained:
            return abs(values) + np.float32(0.5)
        if len(parameter.shape) == 1:
            return weight_of(values + np.float32(parameter.name.endswith("scale")))
        some = draws.random(values.size) < (0.2 if parameter.sparse else 1)
        return weight_of(values * np.float32(some.mean() ** -0.5), np.flatnonzero(some))

    return {parameter.name: of(parameter) for parameter in model.parameters(images.shape[1:], 10)}


class Watching:
    """NumPy's operations, and how near to zero anything is that a relu is of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nearest = np.inf
        relu = NumpyOperations.relu

        def watched(ops: NumpyOperations, x: Any) -> Any:
            self.nearest = min(self.nearest, float(abs(x.data).min()))
            return relu(ops, x)

        monkeypatch.setattr(NumpyOperations, "relu", watched)


def copied(parameters: dict[str, Any], copies: Any) -> dict[str, Any]:
    return dict(zip(parameters, copies(list(parameters.values())), strict=True))


@on_machines
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [3, 17])
def test_gradients_of_a_whole_network_equal_numpy_s(
    machine: Any, name: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, watching = NETWORKS[name], Watching(monkeypatch)
    for seed in range(100):
        draws = np.random.default_rng(seed)
        images = draws.standard_normal((batch, 5, 6, 3)).astype(np.float32)
        labels = draws.integers(0, 10, batch)
        parameters = drawn(model, images, seed)
        expected, watching.nearest = copied(parameters, in_double), np.inf
        wanted = NumpyComputation(ORACLE).forward_backward(model, expected, images.astype(float), labels)
        if watching.nearest > CLEAR:
            break
    assert watching.nearest > CLEAR
    made = copied(parameters, in_single)
    totals = CpuComputation(machine).forward_backward(model, made, images, labels)
    assert totals.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert (totals.correct, totals.examples) == (wanted.correct, batch)
    # about so many of a layer's roundings come together
    for parameter, one in made.items():
        is_weight = isinstance(one, WeightView)
        given, exact = (one.gradient, expected[parameter].gradient) if is_weight else (one, expected[parameter])
        np.testing.assert_allclose(given, exact, rtol=0, atol=2e-4 * abs(exact).max(), err_msg=parameter)


@on_machines
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_from_running_statistics_equal_numpy_s(machine: Any, name: str) -> None:
    model, images = NETWORKS[name], np.random.default_rng(1).standard_normal((21, 6, 5, 3)).astype(np.float32)
    parameters = drawn(model, images, 1)
    wanted = NumpyComputation(ORACLE).logits(model, copied(parameters, in_double), images.astype(float))
    made = CpuComputation(machine).logits(model, copied(parameters, in_single), images)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5 * abs(wanted).max())
