"""From one seed, the runs of NumPy and of the CPU backend are one experiment.

In single precision two runs agree for a few steps only, whatever computes them (see test_torch_agreement.py, which has
the reasons); so each step starts from the state that NumPy's run has reached. Then losses and values are equal within
rounding, and so are the decisions of the updates, but for weights so near to the threshold.
"""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sparsecore_cpu._kernels")

from side_by_side import Running, assert_close_to_the_threshold, assert_equal_decisions, plan

from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.setup import Setup, set_up
from sparsecore_cpu.runtime import KERNELS, kernel_names

pytestmark = pytest.mark.usefixtures("quick_runs")

ROUNDING = 1e-5
"""Of a loss: sums over a network of ten layers, in float32 (6e-8)."""

VALUES = 1e-3
"""Of a value: the learning rate times gradients some of whose relus differ."""

SMALLER = ("model.name=wrn-10-1", "training.epochs=2")


def demo(backend: dict[str, Any], strategy: str = "dpr", *settings: str) -> Setup:
    """A smaller demo."""
    tables = assemble(None, {"backend.name": backend["name"]}, (strategy,), (*SMALLER, *settings))
    return set_up(Experiment.of({**tables, "backend": backend}))


def two(strategy: str = "dpr", *settings: str) -> tuple[Running, Running]:
    """On NumPy in single precision, and on the CPU backend."""
    return Running.of(demo({"name": "numpy"}, strategy, *settings)), Running.of(
        demo({"name": "cpu"}, strategy, *settings)
    )


def test_both_backends_start_with_equal_values() -> None:
    on_numpy, on_cpu = two()
    assert on_cpu.state.topology.sha256() == on_numpy.state.topology.sha256()
    state, expected = on_cpu.learner.state(), on_numpy.learner.state()
    assert state.keys() == expected.keys()
    for name, buffer in expected.items():
        assert state[name].dtype == buffer.dtype
        np.testing.assert_array_equal(state[name], buffer, err_msg=name)


@pytest.mark.parametrize("kernels", kernel_names())
def test_from_equal_states_losses_agree_within_rounding_and_updates_differ_only_at_the_threshold(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KERNELS, kernels)
    on_numpy, on_cpu = two("dpr", "strategy.dpr.schedule.steps=5")
    updates = 0
    for batch, learning_rate in list(plan(on_numpy.setup))[:11]:
        on_cpu.take_up(on_numpy, on_numpy.learner.state())
        threshold = on_numpy.state.strategy_states["dpr"].threshold
        on_numpy.train(batch, learning_rate), on_cpu.train(batch, learning_rate)
        assert on_cpu.loss == pytest.approx(on_numpy.loss, rel=ROUNDING)
        values = [on_numpy.learner.values.copy(), on_cpu.learner.values.copy()]
        np.testing.assert_allclose(values[1], values[0], rtol=0, atol=VALUES)
        from_equal_values = on_cpu.decided(values[0], learning_rate)
        advance, advance_there = on_numpy.advance(learning_rate), on_cpu.advance(learning_rate)
        assert_equal_decisions(advance, from_equal_values)
        if advance.reallocation is not None:
            updates += 1
            assert advance.reallocation.pruned_count > 50
            assert_close_to_the_threshold(advance, advance_there, threshold, values)
    assert updates == 2
    test = on_numpy.setup.images.test
    on_cpu.take_up(on_numpy, on_numpy.learner.state())
    there, here = on_cpu.learner.evaluate(test), on_numpy.learner.evaluate(test)
    assert there.loss == pytest.approx(here.loss, rel=ROUNDING)
    assert abs(there.correct - here.correct) <= 1  # an image may lie within rounding of the border between two classes


def test_dense_gradients_equal_numpy_s_and_do_not_change_the_step() -> None:
    on_numpy, on_cpu = two()
    (batch, learning_rate), *_ = plan(on_numpy.setup)
    expected, gradient = (run.learner.backward(batch, dense=True) for run in (on_numpy, on_cpu))
    assert expected is not None
    assert gradient is not None
    for name in on_numpy.state.topology.layout.names:
        wanted = expected(name)
        np.testing.assert_allclose(gradient(name), wanted, atol=1e-3 * abs(wanted).max(), err_msg=name)
    plain = Running.of(on_cpu.setup)
    on_cpu.learner.optimizer_step(learning_rate)
    plain.learner.train(batch, learning_rate)
    np.testing.assert_allclose(on_cpu.learner.values, plain.learner.values, atol=1e-6)
