"""From one seed, the runs of NumPy and torch are one experiment; here on the demo, WRN-28-2 on digits with DPR.

How long may two runs in single precision agree? A relu whose input is within a rounding of zero is open on one backend
and closed on the other, and of some millions of inputs a step a few always are. So the gradients of one step differ by
about 1e-4 of their size, although losses differ by 1e-7, and the next steps multiply it: after about five steps losses
differ in the second digit. That is no matter of backends: a NumPy run whose start values are moved by one rounding
each parts from the unmoved one as fast (test marked slow). Therefore

- in single precision, each of the first 20 steps starts from the state that NumPy's run has reached, and losses and
  values must be equal within rounding. How they round depends on the processor, and so does which weights have one
  value below an update's threshold and one above it: of some thousands that are pruned they are a few at most, and
  no others may be decided differently. Given NumPy's values, torch must decide everything as NumPy does;
- in double precision, where relus do not differ, both run by themselves, and all topologies are equal.
"""

from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from side_by_side import Running, assert_close_to_the_threshold, assert_equal_decisions, plan

from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.run.setup import Setup, set_up

ROUNDING = 1e-5
"""Of a loss: sums of 100 terms over a network of 28 layers, in float32 (6e-8); 2e-6 was seen."""

VALUES = 1e-3
"""Of a value: the learning rate times gradients some of whose relus differ; 1.4e-4 was seen."""

SMALLER = ("model.name=wrn-10-1",)


def demo(backend: str, *settings: str) -> Setup:
    """The demo, with another backend on the CPU."""
    device = ("backend.device=cpu",) if backend == "torch" else ()
    return set_up(Experiment.of(assemble(None, {"backend.name": backend}, (), (*device, *settings))))


def as_torch_names(setup: Setup, state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The buffers of a NumPy learner under SGD, as those of torch are called."""
    statistics = [parameter for parameter in setup.parameters if not parameter.trained]
    ends = np.cumsum([np.prod(parameter.shape) for parameter in statistics])[:-1]
    running = zip(statistics, np.split(state["running"], ends), strict=True)
    return {
        "values": state["values"],
        "dense": state["dense"],
        "values.momentum_buffer": state["momentum"],
        "dense.momentum_buffer": state["dense_momentum"],
        "totals": state["totals"],
        **{f"running.{parameter.name}": part for parameter, part in running},
    }


def test_both_backends_start_with_equal_values() -> None:
    on_numpy, on_torch = (Running.of(demo(backend)) for backend in ("numpy", "torch"))
    assert on_torch.state.topology.sha256() == on_numpy.state.topology.sha256()
    expected = as_torch_names(on_numpy.setup, on_numpy.learner.state())
    state = on_torch.learner.state()
    assert state.keys() == expected.keys()
    for name, buffer in expected.items():
        assert state[name].dtype == buffer.dtype
        np.testing.assert_array_equal(state[name], buffer, err_msg=name)


def test_both_backends_train_on_the_same_batches() -> None:
    plans = [list(plan(demo(backend, "training.epochs=2", *SMALLER))) for backend in ("numpy", "torch")]
    assert len(plans[0]) == len(plans[1]) == 30
    for (batch, rate), (other, other_rate) in zip(*plans, strict=True):
        assert rate == other_rate
        for field in ("rows", "shifts", "flips"):
            np.testing.assert_array_equal(getattr(batch, field), getattr(other, field))


def test_from_equal_states_twenty_losses_agree_within_rounding_and_updates_differ_only_at_the_threshold() -> None:
    often = "strategy.dpr.schedule.steps=5"
    on_numpy, on_torch = (Running.of(demo(backend, often)) for backend in ("numpy", "torch"))
    updates = 0
    for batch, learning_rate in list(plan(on_numpy.setup))[:20]:
        on_torch.take_up(on_numpy, as_torch_names(on_numpy.setup, on_numpy.learner.state()))
        threshold = on_numpy.state.strategy_states["dpr"].threshold
        on_numpy.train(batch, learning_rate), on_torch.train(batch, learning_rate)
        assert on_torch.loss == pytest.approx(on_numpy.loss, rel=ROUNDING)
        values = [on_numpy.learner.values.copy(), on_torch.learner.values.numpy().copy()]
        np.testing.assert_allclose(values[1], values[0], rtol=0, atol=VALUES)
        from_equal_values = on_torch.decided(values[0], learning_rate)
        advance, advance_there = on_numpy.advance(learning_rate), on_torch.advance(learning_rate)
        assert_equal_decisions(advance, from_equal_values)
        if advance.reallocation is not None:
            updates += 1
            assert advance.reallocation.pruned_count > 1000
            assert_close_to_the_threshold(advance, advance_there, threshold, values)
    assert updates == 4


def check_equal_runs(steps: int, updates: int, *settings: str) -> None:
    """Both by themselves in double precision: losses within rounding, all topologies equal."""
    settings = ("backend.dtype=float64", "training.epochs=3", *settings)
    on_numpy, on_torch = (Running.of(demo(backend, *settings)) for backend in ("numpy", "torch"))
    whole, seen = list(plan(on_numpy.setup)), 0
    assert len(whole) == steps
    for batch, learning_rate in whole:
        expected, advance = on_numpy.step(batch, learning_rate)
        loss, advance_there = on_torch.step(batch, learning_rate)
        assert loss == pytest.approx(expected, rel=1e-10)
        assert advance_there.state.topology.sha256() == advance.state.topology.sha256()
        seen += advance.reallocation is not None
    assert seen == updates
    assert on_torch.state.strategy_states == on_numpy.state.strategy_states
    test = on_numpy.setup.images.test
    assert on_torch.learner.evaluate(test).loss == pytest.approx(on_numpy.learner.evaluate(test).loss, rel=1e-9)
    assert on_torch.learner.evaluate(test).correct == on_numpy.learner.evaluate(test).correct


@pytest.mark.slow
def test_runs_of_a_smaller_network_in_double_precision_have_identical_topologies() -> None:
    check_equal_runs(45, 22, *SMALLER, "strategy.dpr.schedule.steps=2", "strategy.dpr.schedule.until=1.0")


@pytest.mark.parametrize("strategy", ["set", "deepr"])
def test_runs_of_other_strategies_in_double_precision_have_identical_topologies(strategy: str) -> None:
    settings = ("training.epochs=1", f"strategy.{strategy}.schedule={{steps=5}}", *SMALLER)
    tables = assemble(None, {"backend.name": "numpy"}, (strategy,), settings)
    runs = []
    for backend in ({"name": "numpy", "dtype": "float64"}, {"name": "torch", "dtype": "float64", "device": "cpu"}):
        running = Running.of(set_up(Experiment.of({**tables, "backend": backend})))
        runs.append([])
        for batch, learning_rate in plan(running.setup):
            loss, advance = running.step(batch, learning_rate)
            if advance.reallocation is None:  # DeepR's noise
                running.learner.set_values(advance.values)
            runs[-1].append((loss, advance.state.topology.sha256()))
    assert len({topology for _, topology in runs[0]}) == 3  # the start, and an update after step 5 and step 10
    for (loss, topology), (expected, topology_there) in zip(*runs, strict=True):
        assert loss == pytest.approx(expected, rel=1e-10)
        assert topology == topology_there


@pytest.mark.slow
def test_whole_runs_in_double_precision_have_identical_topologies() -> None:
    check_equal_runs(45, 3)


@pytest.mark.slow
def test_in_single_precision_torch_diverges_from_numpy_no_faster_than_a_rounding_error_does() -> None:
    setup = demo("numpy")
    draws = np.random.default_rng(0)
    moved = [
        np.nextafter(setup.values, draws.choice(np.float32([-9, 9]), len(setup.values))).astype(np.float32)
        for _ in range(3)
    ]
    runs = [setup, demo("torch"), *(attrs.evolve(setup, values=values) for values in moved)]
    losses = np.array([_losses(Running.of(run), 50) for run in runs])
    differences = np.abs(losses[1:] / losses[0] - 1)
    np.testing.assert_allclose(differences[:, 0], 0, atol=ROUNDING)
    of_torch, of_moved = differences[0].mean(), differences[1:].mean()
    assert of_moved > 1e-3
    assert of_torch < 4 * of_moved


def _losses(running: Running, steps: int) -> list[float]:
    return [running.step(batch, rate)[0] for batch, rate in list(plan(running.setup))[:steps]]
