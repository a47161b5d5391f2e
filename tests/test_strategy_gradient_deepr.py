"""DeepR by the optimizer: noise and L1 term pass through learning rate and momentum, and weights that change sign move.

The statistical tests run on fixed seeds, so that they either always pass or never.
"""

import math

import attrs
import numpy as np
import pytest
from command_line import small_images
from engine_examples import TWO_TENSORS, engine, normal_values
from start_oracles import carry_out, result

from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.engine.units import as_units
from sparsecore.errors import InputError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore.host.learner import HostLearner
from sparsecore.learning.ranks import SingleProcess
from sparsecore.run.participants import reading_participant
from sparsecore.run.setup import set_up
from sparsecore_strategies.gradient_deepr import GradientDeepRewiring

WIDE = Layout.of({"a": (200, 200)})
RATE, MOMENTUM, STEPS = 0.1, 0.9, 200


def walked(strategy, layout=WIDE, dtype=np.float64):
    """Train all weights from one value by SGD with Nesterov momentum, where the loss has no slope."""
    algorithm = engine(layout, {"gradient-deepr": strategy})
    state = algorithm.start(0.5, clock=Clock(steps_per_epoch=10**6))
    values = np.full(state.topology.size, 0.5, dtype)
    velocity = np.zeros_like(values)
    for _ in range(STEPS):
        gradient = algorithm.perturbed_gradient(state, values, np.zeros_like(values))
        velocity = MOMENTUM * velocity + gradient
        advance = algorithm.advance(state, values - RATE * (gradient + MOMENTUM * velocity), RATE)
        state, values = advance.state, advance.values
    return values


def effect(step):
    """How far a gradient of 1 in this step has moved a weight after all of them: the learning rate times 10 - 8.1·0.9ᵏ.

    In its own step it counts 1 + 0.9, in the j-th step after it 0.9 · 0.9ʲ.
    """
    later = STEPS - 1 - step
    return RATE * (1 + MOMENTUM + MOMENTUM * sum(MOMENTUM**j for j in range(1, later + 1)))


DRIFT = 1e-5 * sum(effect(step) for step in range(STEPS))
SPREAD = math.sqrt(2 * 0.01 * 1e-5 * sum(effect(step) ** 2 for step in range(STEPS)))


def test_in_200_steps_of_the_comparison_weights_drift_by_1_92e_3_and_spread_by_6_1e_3():
    assert pytest.approx(1.919e-3, rel=1e-3) == DRIFT
    assert pytest.approx(6.12e-3, rel=1e-3) == SPREAD
    without_noise = walked(GradientDeepRewiring(temperature=0.0), TWO_TENSORS)
    np.testing.assert_allclose(0.5 - without_noise, DRIFT, rtol=1e-9)
    inward = 0.5 - walked(GradientDeepRewiring(), dtype=np.float32)
    assert abs(inward.mean() - DRIFT) < 4 * SPREAD / math.sqrt(inward.size)
    assert inward.std() == pytest.approx(SPREAD, rel=4 / math.sqrt(2 * inward.size))


def test_the_pull_is_towards_zero_and_absent_at_zero():
    algorithm = engine(TWO_TENSORS, [GradientDeepRewiring(l1=0.25, temperature=0.0)])
    state = algorithm.start(0.5)
    values = np.resize(np.array([2.0, -3.0, 0.0, -0.0], np.float32), state.topology.size)
    gradient = normal_values(state.topology)
    pulled = algorithm.perturbed_gradient(state, values, gradient)
    np.testing.assert_allclose(pulled - gradient, np.resize([0.25, -0.25, 0, 0], state.topology.size), atol=1e-6)
    assert pulled.dtype == np.float32


def test_noise_and_rewiring_end_with_the_schedule_and_the_pull_stays():
    strategy = GradientDeepRewiring(l1=0.25, schedule=attrs.evolve(GradientDeepRewiring().schedule, until_epoch=2))
    algorithm = engine(TWO_TENSORS, [strategy])
    start = algorithm.start(0.5, clock=Clock(steps_per_epoch=10, total_steps=100))
    values, zeros = np.ones(start.topology.size), np.zeros(start.topology.size)
    for step, is_noisy in ((0, True), (18, True), (19, False), (50, False)):
        state = attrs.evolve(start, clock=attrs.evolve(start.clock, step=step))
        pulled = algorithm.perturbed_gradient(state, values, zeros)
        assert (len(set(pulled.tolist())) > 1) == is_noisy
        assert pulled.mean() == pytest.approx(0.25, abs=1e-3)
        assert algorithm.plan(state).update_due == is_noisy


def test_a_weight_moves_within_its_tensor_when_its_sign_is_the_opposite_of_that_after_the_step_before():
    algorithm = engine(TWO_TENSORS, {"gradient-deepr": GradientDeepRewiring()})
    state, signs = algorithm.start(0.5, clock=Clock(steps_per_epoch=100)), {}
    for step in range(12):
        values = normal_values(state.topology, step)
        values[::7] = 0.0
        advance = algorithm.advance(state, values, RATE)
        positions = state.topology.positions.tolist()
        now = dict(zip(positions, np.sign(values).tolist(), strict=True))
        crossed = [position for position in positions if signs.get(position, 0) * now[position] < 0]
        moved = advance.reallocation
        assert moved.pruned_positions.tolist() == crossed
        assert moved.pruned.tolist() == moved.grown.tolist()
        assert not crossed if step == 0 else crossed
        grown = moved.grown_positions.tolist()
        after = dict(zip(advance.state.topology.positions.tolist(), advance.values.tolist(), strict=True))
        assert all(after[position] == 0 for position in grown)
        signs = {position: sign for position, sign in now.items() if position in after} | dict.fromkeys(grown, 0)
        state = advance.state


def test_the_initial_values_are_the_models():
    algorithm = engine(TWO_TENSORS, [GradientDeepRewiring()])
    state = algorithm.start(0.5)
    values = normal_values(state.topology)
    assert algorithm.start_values(state, values) is values


def test_a_temperature_below_zero_and_larger_units_are_refused():
    with pytest.raises(InputError, match="temperature"):
        GradientDeepRewiring(temperature=-1.0)
    with pytest.raises(InputError, match="perturb_gradient"):
        engine(Layout.of({"a": (4, 4, 3, 3)}), [GradientDeepRewiring()], units=as_units("kernels"))


@pytest.mark.usefixtures("quick_runs")
def test_runs_on_numpy_and_torch_move_the_same_weights_and_an_l1_term_alone_changes_them(tmp_path):
    pytest.importorskip("torch")
    data = ("--data", "npz", "--data-dir", small_images(tmp_path / "small.npz"), "--batch-size", "16", "--epochs", "2")
    settings = ("--set", "backend.dtype=float64", "--set", "strategy.schedule={steps=1}", "--sparsity", "0.6")

    def moved(name, backend, **options):
        given = [part for key, value in options.items() for part in ("--set", f"strategy.{key}={value}")]
        network = ("--model", "lenet-12-8", "--strategy", "gradient-deepr", "--backend", backend)
        carry_out("train", *network, *data, *settings, *given, "--out", tmp_path / name)
        return result(tmp_path / name)["topology_sha256"]

    noisy = {"temperature": 1e-2, "l1": 1e-3}
    assert moved("numpy", "numpy", **noisy) == moved("torch", "torch", **noisy)
    quiet = {moved(f"l1 {l1}", "numpy", temperature=0, l1=l1) for l1 in (0, 0.1)}
    assert len(quiet) == 2


def test_a_backend_that_cannot_change_gradients_is_refused_with_the_strategys_name(tmp_path, monkeypatch):
    monkeypatch.delattr(HostLearner, "set_weight_gradient")
    data = (f"data.file={small_images(tmp_path / 'small.npz')}", "data.name=npz", "model.name=lenet-12-8")
    setup = set_up(Experiment.of(assemble(None, {"backend.name": "numpy"}, ("gradient-deepr",), data)))
    with pytest.raises(InputError, match=r"'gradient-deepr' changes the gradient .* backend 'numpy'"):
        reading_participant(setup, None, SingleProcess())
