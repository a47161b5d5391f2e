"""SNFS follows the paper: the momentum of all positions decides which tensors grow and where."""

from fractions import Fraction

import attrs
import numpy as np
import pytest
from dense_oracles import ceiled, drawn, gathered, largest, masks_of, same, without_smallest
from engine_examples import engine, topology
from engine_oracles import whole_shares
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock, Cosine, Every
from sparsecore.engine.state import dump_strategy_state, load_strategy_state
from sparsecore.engine.topology import Layout
from sparsecore.errors import DivergedError
from sparsecore_strategies.snfs import SparseMomentum

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
CONSTANT = SparseMomentum(drop_fraction=0.5, schedule=Every(steps=4))
PAIR = Layout.of({"quiet": (100,), "busy": (100,)})


def trained(strategy, layout, state, values, gradients):
    algorithm = engine(layout, {"snfs": strategy}, regrow_pruned=False)
    state = state or algorithm.start(0.8)
    for gradient in gradients:
        advance = algorithm.advance(state, values(state.topology), 0.1, gradient.__getitem__)
        state = advance.state
    return state, advance.reallocation


@given(st.integers(0, 50), st.sampled_from([0.0, 0.5, 0.9]))
def test_freed_weights_follow_the_mean_momentum_of_tensors_and_grow_at_the_largest_momentum(seed, decay):
    weights, gradients = drawn(ROOMY, seed), [drawn(ROOMY, 100 * seed + step) for step in range(1, 5)]
    gradients = [{**gradient, "matrix": 3 * gradient["matrix"]} for gradient in gradients]
    algorithm = engine(ROOMY, {"snfs": attrs.evolve(CONSTANT, momentum=decay)}, seed=seed, regrow_pruned=False)
    start = algorithm.start(0.8)
    state = start
    for gradient in gradients:
        advance = algorithm.advance(state, gathered(state.topology, weights), 0.1, gradient.__getitem__)
        state = advance.state

    momentum = {name: np.zeros(size, np.float32) for name, size in zip(ROOMY.names, ROOMY.sizes, strict=True)}
    for gradient in gradients:
        momentum = {name: np.float32(decay) * momentum[name] + gradient[name] for name in momentum}
    masks = masks_of(start.topology)
    counts = {name: ceiled(0.5, mask.sum()) for name, mask in masks.items()}
    means = [Fraction(float(np.abs(momentum[name][mask].astype(np.float64)).mean())) for name, mask in masks.items()]
    scale = max(mean.denominator for mean in means)
    room = [int((~mask).sum()) for mask in masks.values()]
    grown = whole_shares(sum(counts.values()), [int(mean * scale) for mean in means], room)
    assert advance.reallocation.grown.tolist() == grown
    expected = {
        name: without_smallest(mask, weights[name], counts[name]) | largest(~mask, momentum[name], count)
        for (name, mask), count in zip(masks.items(), grown, strict=True)
    }
    assert same(state.topology, expected)


def of_pair(quiet, busy):
    return {"quiet": np.full(100, quiet, np.float32), "busy": np.full(100, busy, np.float32)}


def on_pair(active=10):
    algorithm = engine(PAIR, {"snfs": CONSTANT})
    return algorithm.start_at(topology(PAIR, [*range(active), *range(100, 100 + active)]), clock=Clock(total_steps=100))


def ones(before):
    return np.ones(before.size, np.float32)


def test_shares_follow_the_mean_momentum_of_active_weights_not_their_number_and_not_that_of_free_positions():
    gradient = of_pair(1.0, 4.0)
    gradient["quiet"][10:] = 1000.0
    _, got = trained(CONSTANT, PAIR, on_pair(), ones, [gradient] * 4)
    assert got.pruned.tolist() == [5, 5]
    assert got.grown.tolist() == [2, 8]


def test_weights_that_a_full_tensor_cannot_take_are_allocated_to_the_others():
    _, got = trained(CONSTANT, PAIR, on_pair(active=60), ones, [of_pair(1.0, 9.0)] * 4)
    assert got.pruned.tolist() == [30, 30]
    assert got.grown.tolist() == [21, 39]  # 0.99 of 40 free positions


def test_momentum_grows_at_positions_without_a_weight():
    # from masked gradients the momentum there would be zero, and growth as good as the order of the positions
    gradients = [of_pair(1.0, 1.0) for _ in range(4)]
    gradients[0]["quiet"][[50, 60, 70, 80, 90]] = 30.0
    gradients[1]["busy"][[55, 65, 75, 85, 95]] = -30.0
    _, got = trained(CONSTANT, PAIR, on_pair(), ones, gradients)
    assert got.grown_positions.tolist() == [50, 60, 70, 80, 90, 155, 165, 175, 185, 195]


def test_the_momentum_includes_the_gradient_of_every_step_with_decay():
    algorithm = engine(PAIR, {"snfs": attrs.evolve(CONSTANT, momentum=0.5)})
    state = algorithm.start_at(on_pair().topology)
    for step in (1.0, 2.0, 3.0):
        assert algorithm.plan(state).wants_gradient
        state = algorithm.advance(state, ones(state.topology), 0.1, of_pair(step, 0.0).__getitem__).state
    momentum = state.strategy_states["snfs"].momentum
    assert momentum.shape == (200,)
    assert momentum[:100].tolist() == [0.25 * 1 + 0.5 * 2 + 3] * 100
    assert not momentum[100:].any()


def test_the_momentum_stays_at_its_position_when_weights_move():
    algorithm = engine(PAIR, {"snfs": CONSTANT})
    state, gradient = on_pair(), drawn(PAIR)
    before = np.concatenate([gradient["quiet"], gradient["busy"]])
    updates = []
    for _ in range(4):
        advance = algorithm.advance(state, ones(state.topology), 0.1, gradient.__getitem__)
        state = advance.state
        updates.append(advance.reallocation)
    assert updates[-1].pruned_count == 10
    np.testing.assert_allclose(state.strategy_states["snfs"].momentum, before * (1 + 0.9 + 0.81 + 0.729), rtol=1e-5)


def test_the_momentum_is_saved_and_loaded():
    algorithm = engine(PAIR, {"snfs": CONSTANT})
    state = algorithm.advance(on_pair(), ones(on_pair().topology), 0.1, drawn(PAIR).__getitem__).state
    strategy_state = state.strategy_states["snfs"]
    again = load_strategy_state(
        on_pair().strategy_states["snfs"], *dump_strategy_state(strategy_state, algorithm.arrays), algorithm.arrays
    )
    np.testing.assert_array_equal(again.momentum, strategy_state.momentum)


def test_nonfinite_momentum_is_an_error_that_names_the_tensor():
    with pytest.raises(DivergedError, match="the momentum of 'busy' is not finite"):
        trained(CONSTANT, PAIR, on_pair(), ones, [of_pair(1.0, np.inf)] * 4)


def test_the_defaults_are_the_papers():
    default = SparseMomentum()
    assert (default.drop_fraction, default.momentum, default.schedule) == (Cosine(0.5, 0.005), 0.9, Every(epochs=1))


@pytest.mark.parametrize(
    "arguments", [{"drop_fraction": -0.1}, {"drop_fraction": 1.0}, {"momentum": 1.0}, {"momentum": -0.1}]
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        SparseMomentum(**arguments)
