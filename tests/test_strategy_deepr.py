"""DeepR follows the paper: a random walk with fixed signs, in the weights and not in the gradients.

The statistical tests run on fixed seeds, so that they either always pass or never; the threshold p > 1e-3 was chosen
before the seeds.
"""

import math

import attrs
import numpy as np
import pytest
from engine_examples import TWO_TENSORS, engine, normal_values, plugin, topologies, topology, values_of
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, NoRoomError
from sparsecore_strategies.deepr import DeepRewiring, Signs
from sparsecore_strategies.soft_deepr import SoftDeepRewiring

NEVER = Every(steps=10**9)
WIDE = Layout.of({"a": (200, 200), "b": (100, 50)})


def started(strategy, layout=WIDE, sparsity=0.5, dtype=np.float64, clock=Clock(), **options):
    algorithm = engine(layout, {"deepr": strategy}, **options)
    state = algorithm.start(sparsity, clock=clock)
    return algorithm, state, algorithm.start_values(state, normal_values(state.topology, dtype=dtype))


def signs_by_position(state):
    signs = state.strategy_states["deepr"].signs
    return dict(zip(state.topology.positions.tolist(), signs.tolist(), strict=True))


def test_start_values_have_the_signs_of_their_connections_and_the_models_magnitudes():
    algorithm, state, values = started(DeepRewiring())
    model = normal_values(state.topology, dtype=np.float64)
    np.testing.assert_array_equal(np.sign(values), state.strategy_states["deepr"].signs)
    np.testing.assert_array_equal(abs(values), abs(model))
    assert algorithm.start_values(state, model.astype(np.float32)).dtype == np.float32


def test_both_signs_are_equally_likely():
    _, state, _ = started(DeepRewiring())
    signs = state.strategy_states["deepr"].signs
    assert signs.dtype == np.int8
    assert stats.binomtest(int((signs > 0).sum()), signs.size).pvalue > 1e-3


@given(st.integers(0, 30))
def test_a_position_has_the_same_sign_whenever_it_is_active(seed):
    algorithm, state, values = started(DeepRewiring(temperature=0.05), TWO_TENSORS, seed=seed)
    seen = {}
    woken = set()
    for step in range(15):
        for position, sign in signs_by_position(state).items():
            assert seen.setdefault(position, sign) == sign
        advance = algorithm.advance(state, values + normal_values(state.topology, step) / 3, 0.1)
        woken |= set(advance.reallocation.grown_positions.tolist())
        state, values = advance.state, advance.values
        assert set(state.strategy_states["deepr"].signs.tolist()) <= {-1, 1}
    assert woken & set(seen)
    assert len(seen) > 100


def test_signs_depend_on_the_seed():
    one, other = (signs_by_position(started(DeepRewiring(), TWO_TENSORS, 0.0, seed=seed)[1]) for seed in (0, 1))
    assert one.keys() == other.keys()
    assert one != other


# noise and pull


def change(strategy, values_dtype=np.float64, learning_rate=0.1, clock=Clock(), seed=0):
    algorithm, state, values = started(
        attrs.evolve(strategy, schedule=NEVER), dtype=values_dtype, clock=clock, seed=seed
    )
    advance = algorithm.advance(state, values, learning_rate)
    assert advance.reallocation is None
    return advance.values - values, state.strategy_states["deepr"].signs


@pytest.mark.parametrize(("rate", "l1", "temperature"), [(0.1, 0.5, 1e-2), (0.01, 1e-5, 1e-5), (1.0, 0.0, 2.0)])
def test_a_step_shrinks_by_rate_times_l1_and_adds_noise_of_variance_two_rate_temperature(rate, l1, temperature):
    moved, signs = change(DeepRewiring(l1=l1, temperature=temperature), learning_rate=rate)
    outward = moved * signs
    spread = math.sqrt(2 * rate * temperature)
    assert abs(outward.mean() + rate * l1) < 4 * spread / math.sqrt(outward.size)
    assert outward.std() == pytest.approx(spread, rel=4 / math.sqrt(2 * outward.size))
    assert stats.kstest(outward, "norm", (-rate * l1, spread)).pvalue > 1e-3


def test_without_temperature_a_step_is_exactly_the_l1_shrinkage():
    moved, signs = change(DeepRewiring(l1=0.5, temperature=0.0), learning_rate=0.1)
    np.testing.assert_allclose(moved, -0.05 * signs, rtol=0, atol=1e-15)


def test_the_step_size_replaces_the_learning_rate():
    strategy = DeepRewiring(l1=0.5, temperature=1e-2)
    own = attrs.evolve(strategy, step_size=0.01)
    np.testing.assert_allclose(change(own, learning_rate=7.0)[0], change(strategy, learning_rate=0.01)[0], atol=1e-15)
    assert abs(change(own, learning_rate=0.0)[0]).max() > 0


def test_noise_is_added_to_the_weights_and_does_not_depend_on_them():
    algorithm, state, values = started(DeepRewiring(temperature=1e-2, schedule=NEVER))
    moves = [algorithm.advance(state, each, 0.1).values - each for each in (values, 3 * values, -values)]
    for moved in moves[1:]:
        np.testing.assert_allclose(moved, moves[0], atol=1e-14)


def test_noise_is_fresh_in_every_step_and_for_every_seed():
    strategy = DeepRewiring(temperature=1e-2)
    draws = [
        change(strategy, clock=Clock(step=0))[0],
        change(strategy, clock=Clock(step=1))[0],
        change(strategy, seed=1)[0],
    ]
    for other in draws[1:]:
        assert stats.pearsonr(draws[0], other).pvalue > 1e-3


def test_values_stay_in_their_dtype():
    assert change(DeepRewiring(temperature=1e-2), np.float32)[0].dtype == np.float32


def test_the_temperature_follows_its_schedule():
    strategy = DeepRewiring(l1=0.0, temperature={0: 1e-2, 25: 1e-6}, step_size=0.5)
    spreads = [change(strategy, clock=Clock(step=epoch * 10, steps_per_epoch=10))[0].std() for epoch in (0, 24, 25, 90)]
    assert spreads == pytest.approx([0.1, 0.1, 1e-3, 1e-3], rel=0.05)


def test_the_default_noise_and_pull_of_a_step_are_those_of_the_authors_script():
    moved, signs = change(DeepRewiring(), learning_rate=0.5)
    outward = moved * signs
    assert outward.std() == pytest.approx(0.5 * 1e-5, rel=0.03)
    assert outward.mean() == pytest.approx(-0.5 * 1e-5, abs=4 * 5e-6 / math.sqrt(outward.size))
    soft = SoftDeepRewiring()
    spread = math.sqrt(2 * soft.step_size * soft.temperature(Clock()))
    assert spread == pytest.approx(0.05 * 1e-5)
    assert (soft.lowest / spread) ** 2 == pytest.approx(2500)  # steps of a walk from there to zero


# sleeping and waking


@given(topologies(), st.data())
def test_a_connection_becomes_dormant_when_its_sign_changes_and_not_at_zero(before, data):
    values = data.draw(values_of(before))
    signs = np.array(data.draw(st.lists(st.sampled_from([-1, 1]), min_size=before.size, max_size=before.size)), np.int8)
    awake = DeepRewiring().prune(values, Signs(signs))
    assert awake.tolist() == [value * sign >= 0 for value, sign in zip(values.tolist(), signs.tolist(), strict=True)]


@pytest.mark.parametrize("strategy", [DeepRewiring(temperature=0.0), SoftDeepRewiring(temperature=0.0)])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_connection_at_zero_without_gradient_becomes_dormant_in_the_next_step(strategy, zero):
    algorithm = engine(TWO_TENSORS, {"deepr": strategy})
    state = algorithm.start(0.8)
    values = np.full(state.topology.size, zero, np.float32)
    values[::3] = 2 * state.strategy_states["deepr"].signs[::3]
    advance = algorithm.advance(state, values, learning_rate=0.1)
    assert advance.reallocation.survives.tolist() == (values != 0).tolist()


@pytest.mark.parametrize("scope", ["network", "tensor"])
@given(topologies(), st.data(), st.integers(0, 20))
def test_as_many_connections_are_activated_as_became_dormant(scope, before, data, seed):
    values = data.draw(values_of(before))
    algorithm = engine(before.layout, {"deepr": DeepRewiring(scope=scope)}, seed=seed)
    state = algorithm.start_at(before)
    asleep = int((values * state.strategy_states["deepr"].signs < 0).sum())
    try:
        after, got = algorithm.update(state, values)
    except NoRoomError:
        assert asleep > before.room.sum()
        assume(False)
    assert got.after.size == before.size
    assert got.grown.sum() == got.pruned.sum() <= asleep
    assert (got.grown <= before.room).all()
    if scope == "tensor" and (got.pruned <= before.room).all():
        assert got.grown.tolist() == got.pruned.tolist()
    assert len(after.strategy_states["deepr"].signs) == before.size


def test_activated_connections_start_at_zero_without_momentum():
    algorithm, state, values = started(DeepRewiring(), TWO_TENSORS, 0.8)
    _, got = algorithm.update(state, -values)
    assert got.pruned_count > 30
    momentum = got.carry(np.full(40, 5.0))
    assert (got.values[got.grown_slots] == 0).all()
    assert (momentum[got.grown_slots] == 0).all()
    assert momentum.sum() == 5 * (40 - got.pruned_count)


def woken_by_tensor(layout, active, scope="network", seeds=400):
    """Three connections of the first tensor fall asleep, once a seed."""
    counts = np.zeros(len(layout), np.int64)
    for seed in range(seeds):
        algorithm = engine(layout, {"deepr": DeepRewiring(scope=scope)}, seed=seed)
        state = algorithm.start_at(topology(layout, active))
        signs = state.strategy_states["deepr"].signs
        asleep = np.isin(np.arange(len(active)), [1, 2, 3])
        _, got = algorithm.update(state, np.where(asleep, -signs, signs).astype(np.float32))
        assert got.pruned_positions.tolist() == [active[slot] for slot in (1, 2, 3)]
        counts += got.grown
    return counts


def test_dormant_connections_are_activated_uniformly_over_the_whole_network():
    layout = Layout.of({"z": (1000,), "a": (20, 100), "m": (30, 100)})
    active = [*range(500), 1000, 3000]
    room = np.array([500, 1999, 2999])
    woken = woken_by_tensor(layout, active)
    assert woken.sum() == 3 * 400
    assert stats.chisquare(woken, woken.sum() * room / room.sum()).pvalue > 1e-3


def test_dormant_connections_are_activated_in_the_same_tensor_by_option():
    layout = Layout.of({"z": (1000,), "a": (20, 100), "m": (30, 100)})
    woken = woken_by_tensor(layout, [*range(500), 1000, 3000], scope="tensor", seeds=20)
    assert woken.tolist() == [60, 0, 0]


@pytest.mark.parametrize("scope", ["network", "tensor"])
def test_above_a_pruning_strategy_the_declared_number_of_connections_is_activated(scope):
    below = plugin(target_size=lambda survivors: int(survivors.sum()) + 3)
    algorithm = engine(TWO_TENSORS, {"below": below, "deepr": DeepRewiring(scope=scope)})
    state = algorithm.start(0.5)
    values = algorithm.start_values(state, normal_values(state.topology))
    asleep = np.arange(len(values)) % 10 == 0
    after, moved = algorithm.update(state, np.where(asleep, -values, values))
    assert (moved.pruned_count, after.topology.size) == (asleep.sum(), len(values) - asleep.sum() + 3)


def test_updates_are_due_in_every_step():
    assert all(DeepRewiring().update_due(Clock(step=step)) for step in range(1, 50))


@pytest.mark.parametrize(
    "arguments",
    [
        {"l1": -1e-5},
        {"step_size": 0.0},
        {"step_size": -0.1},
        {"scope": "layer"},
    ],
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        DeepRewiring(**arguments)


@pytest.mark.parametrize("temperature", [-1e-9, {0: 1e-5, 25: -1.0}, {"start": 1.0, "end": -1.0}])
def test_a_negative_temperature_is_refused_with_a_sentence(temperature):
    with pytest.raises(InputError, match="a temperature is at least 0"):
        DeepRewiring(temperature=temperature)
