"""``sparsecore_jax.sparsify``: masks in the optimizer's state, and updates between jitted steps."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_examples import (
    after_a_step,
    assert_inactive_are_zero,
    batches,
    gradients_like,
    mlp_params,
    step_of,
)

from sparsecore.errors import InputError, LostWeightsWarning
from sparsecore.strategy import Every
from sparsecore_jax import sparsify
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution

EVERY_3 = Every(steps=3)
MOVING = {
    "dpr": DynamicReallocation(target="20%", initial_threshold=0.05, schedule=EVERY_3),
    "set": SparseEvolution(schedule=EVERY_3),
    "rigl": RigL(drop_fraction=0.3, schedule=EVERY_3),
}


def trained(strategy, optimizer, steps, *, params=None, **options):
    params, optimizer, training = sparsify(
        mlp_params() if params is None else params, optimizer, strategy=strategy, include="*/w", **options
    )
    opt_state, step = optimizer.init(params), step_of(optimizer)
    for batch in batches(steps):
        params, opt_state, gradients = step(params, opt_state, *batch)
        params, opt_state = training.update(params, opt_state, gradients)
        assert_inactive_are_zero(training, params, opt_state)
    return params, opt_state, training, step


def test_a_static_training_is_a_hand_written_masked_loop():
    dense = mlp_params()
    params, optimizer, training = sparsify(dense, optax.adam(0.01), strategy="static", sparsity=0.7, include="*/w")
    masks = {name.split("/")[0]: mask for name, mask in training.masks().items()}

    def masked(tree):
        return {name: {**own, "w": own["w"] * masks[name]} for name, own in tree.items()}

    plain = optax.adam(0.01)
    by_hand, plain_state = masked(dense), plain.init(masked(dense))
    step_by_hand = step_of(optimizer_with_masks(plain, masked))
    opt_state, step = optimizer.init(params), step_of(optimizer)
    for batch in batches(5):
        by_hand, plain_state, _ = step_by_hand(by_hand, plain_state, *batch)
        params, opt_state, gradients = step(params, opt_state, *batch)
        params, opt_state = training.update(params, opt_state, gradients)
    for there, here in zip(jax.tree.leaves(by_hand), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-7)


def optimizer_with_masks(plain, masked):
    def update(gradients, state, params):
        updates, state = plain.update(masked(gradients), state, params)
        return masked(updates), state

    return optax.GradientTransformation(plain.init, update)


@pytest.mark.parametrize("name", MOVING)
def test_updates_move_weights_without_another_compilation(name):
    optimizer = optax.adam(0.01)
    before = sparsify(mlp_params(), optimizer, strategy=MOVING[name], include="*/w", sparsity=0.7).training
    _, opt_state, training, step = trained(MOVING[name], optimizer, 61, sparsity=0.7)
    assert training.updates == 20
    assert int(opt_state.updates[0]) == 20
    assert step_of.traces == 1
    assert step._cache_size() == 1
    assert training.topology.size == before.topology.size
    assert training.topology.sha256() != before.topology.sha256()
    assert 0 < training.metrics()["grown"] <= training.topology.size


def test_updates_that_replace_a_step_leave_parameters_and_state_to_the_strategy():
    params, optimizer, training = sparsify(
        mlp_params(), optax.adam(0.01), strategy=MOVING["rigl"], sparsity=0.5, include="*/w"
    )
    opt_state, step = optimizer.init(params), step_of(optimizer)
    for number, batch in enumerate(batches(7), start=1):
        after, opt_state, gradients = step(params, opt_state, *batch)
        is_same = all(bool((one == two).all()) for one, two in zip(*map(jax.tree.leaves, (params, after)), strict=True))
        assert is_same == (number % 3 == 0)
        params, opt_state = training.update(after, opt_state, gradients)
    assert int(opt_state.inner_state[0].count) == 5  # of 7 steps, two were replaced
    assert training.step == 7


def test_grown_weights_start_with_the_strategys_value_and_fresh_state():
    optimizer = optax.adagrad(0.1, initial_accumulator_value=0.3)
    params, sparse, training = sparsify(mlp_params(), optimizer, strategy=MOVING["set"], sparsity=0.7, include="*/w")
    opt_state, step = sparse.init(params), step_of(sparse)
    for batch in batches(3):
        before = training.masks()
        params, opt_state, gradients = step(params, opt_state, *batch)
        params, opt_state = training.update(params, opt_state, gradients)
    for name, mask in training.masks().items():
        layer = name.split("/")[0]
        sums, grown = np.asarray(opt_state.inner_state[0].sum_of_squares[layer]["w"]), mask & ~before[name]
        assert grown.any()
        np.testing.assert_array_equal(sums[grown], np.float32(0.3))
        assert not np.asarray(params[layer]["w"])[grown].any()
        assert (sums[mask & before[name]] >= np.float32(0.3)).all()


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from(sorted(MOVING)),
    st.floats(0.3, 0.95),
    st.integers(0, 2**31),
    st.sampled_from([jnp.float32, jnp.bfloat16]),
    st.sampled_from([(5, 7), (3, 3, 2, 5), (40, 1, 2)]),
)
def test_every_update_keeps_the_number_of_weights_and_zeros_elsewhere(name, sparsity, seed, dtype, shape):
    random = np.random.default_rng(seed)
    params = {"one": {"kernel": jnp.asarray(random.normal(size=shape), dtype)}, "two": {"w": jnp.ones((6, 5), dtype)}}
    params, optimizer, training = sparsify(
        params, optax.sgd(0.25, momentum=0.5), strategy=MOVING[name], sparsity=sparsity, include="*", seed=seed % 100
    )
    size, opt_state = training.topology.size, optimizer.init(params)
    for number in range(7):
        gradients = gradients_like(params, seed + number)
        params, opt_state = after_a_step(optimizer, training, params, opt_state, gradients)
        assert_inactive_are_zero(training, params, opt_state)
        assert training.topology.size == size == sum(int(mask.sum()) for mask in opt_state.masks)
        assert all(one.dtype == dtype for one in jax.tree.leaves(params))
    assert training.updates == 2


@pytest.mark.slow
def test_nan_and_infinity_at_inactive_positions_do_no_harm():
    params, optimizer, training = sparsify(mlp_params(), optax.adam(0.1), strategy="static", sparsity=0.5)
    masks, opt_state = training.masks(), optimizer.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    gradients["first"]["w"] = jnp.where(masks["first/w"], 1.0, jnp.nan)
    gradients["second"]["w"] = jnp.where(masks["second/w"], 1.0, jnp.inf)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    params = optax.apply_updates(params, updates)
    assert all(bool(jnp.isfinite(one).all()) for one in jax.tree.leaves(params))
    assert_inactive_are_zero(training, params, opt_state)


@pytest.mark.slow
def test_strategies_with_learning_rate_or_momentum_get_them():
    for optimizer, options in [
        (optax.adam(0.01), {"learning_rate": optax.linear_schedule(0.01, 0.001, 10)}),
        (optax.inject_hyperparams(optax.sgd)(learning_rate=0.01), {}),
    ]:
        *_, training, _ = trained("deepr", optimizer, 2, sparsity=0.7, **options)
        assert training.updates == 2
    with pytest.raises(InputError, match="learning rate"):
        sparsify(mlp_params(), optax.adam(0.01), strategy="deepr")
    *_, training, _ = trained("snfs", optax.sgd(0.1, momentum=0.9), 3, sparsity=0.7, total_steps=10)
    assert training.step == 3


@pytest.mark.slow
def test_gmp_starts_dense_and_ends_at_the_requested_sparsity():
    *_, training, _ = trained("gmp", optax.adam(0.01), 20, sparsity=0.8, total_steps=21)
    assert training.sparsity == pytest.approx(0.8, abs=0.01)
    assert "gmp" not in repr(training)
    assert "second/w" in str(training.summary())


def test_parameters_states_and_gradients_that_do_not_belong_are_refused():
    dense = mlp_params()
    params, optimizer, training = sparsify(dense, optax.adam(0.01), strategy=MOVING["rigl"], sparsity=0.7)
    with pytest.raises(InputError, match="nonzero that are not active"):
        optimizer.init(dense)
    with pytest.raises(InputError, match="0 states of a sparse optimizer"):
        training.update(params, optax.adam(0.01).init(params))
    opt_state = optimizer.init(params)
    replicated = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, opt_state))
    with pytest.raises(InputError, match=r"2 masks of first/w, .* jax.pmap; give .* of one replica"):
        training.update(*replicated)
    gradients = jax.tree.map(jnp.ones_like, params)
    for _ in range(2):
        _, opt_state = optimizer.update(gradients, opt_state, params)
        params, opt_state = training.update(params, opt_state)
    _, opt_state = optimizer.update(gradients, opt_state, params)
    with pytest.raises(InputError, match="needs the gradients of the step"):
        training.update(params, opt_state)
    with pytest.raises(InputError, match=r"at the place of second/w"):
        training.update(params, opt_state, {**gradients, "second": {"b": jnp.ones(3), "w": jnp.ones(3)}})
    _, late = optimizer.update(gradients, opt_state, params)
    with pytest.raises(InputError, match="has finished 4 steps, and the training knows of 3"):
        training.update(params, late, gradients)
    one, other = (sparsify(dense, optax.sgd(0.01), strategy="static", sparsity=0.7, seed=seed) for seed in (3, 4))
    with pytest.raises(InputError, match="another mask of first/w"):
        one.training.check(one.params, other.optimizer.init(other.params))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strategy": "topkast"}, "by which weights the network computes"),
        ({"strategy": "wanda-drop"}, "norms of layers' inputs"),
        ({"strategy": "smet", "total_steps": 10}, "own steps of Adam"),
        ({"strategy": "gradient-deepr", "steps_per_epoch": 5, "total_steps": 9}, "changes gradients before"),
        ({"strategy": "rigel"}, "no strategy named 'rigel'"),
        ({"sparsity": 1.5}, r"\[0, 1\)"),
        ({"include": "encoder/*"}, "matches no parameter"),
        ({"include": "*/b"}, r"include='\*/b' names no parameter that can be sparse: first/b \(bias\)"),
        ({"exclude": "*"}, "no parameter can become sparse"),
        ({"distribution": "flops"}, "'uniform', 'er' and 'erk'"),
        ({"start": "best"}, "no start named 'best'"),
        ({"learning_rate": "fast"}, "finite number or a schedule"),
        ({"moments": "*/momentum"}, "matches nothing in the optimizer's state"),
    ],
)
def test_what_cannot_work_is_refused_by_a_sentence(options, sentence):
    with pytest.raises((InputError, ValueError), match=sentence):
        sparsify(mlp_params(), optax.adam(0.01), **{"strategy": "set", **options})


def test_other_arguments_than_parameters_and_optimizers_are_refused():
    with pytest.raises(InputError, match="expected a transformation of optax"):
        sparsify(mlp_params(), 0.1)
    with pytest.raises(InputError, match="no arrays"):
        sparsify({}, optax.adam(0.1))
    with pytest.raises(InputError, match=r"equinox\.filter"):
        sparsify({"w": jnp.ones((3, 3)), "activation": jax.nn.relu}, optax.adam(0.1))


def test_weights_that_look_trained_are_not_lost_silently():
    params = mlp_params()
    pruned = jax.tree.map(lambda one: jnp.where(abs(one) > 0.2, one, 0.0), params)
    with pytest.warns(LostWeightsWarning, match="start='nonzero'"):
        sparsify(pruned, optax.adam(0.1), strategy="static", sparsity=0.5)
