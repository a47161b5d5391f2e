"""The states of optimizers under ``sparsecore_jax.sparsify``: what belongs to single weights is found by trial."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
from jax_examples import assert_inactive_are_zero, batches, gradients_like, mlp_params, named_arrays, step_of

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_jax import sparsify
from sparsecore_jax.sparse_training.parameters import leaves_of
from sparsecore_jax.sparse_training.state_entries import state_entries
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution

EVERY_2 = Every(steps=2)


def labels(params):
    return {name: "adam" if name == "first" else "sgd" for name in params}


OPTIMIZERS = {
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "clipped adagrad": optax.chain(optax.clip_by_global_norm(1.0), optax.adagrad(0.1)),
    "lion": optax.lion(0.01),
    "adafactor": optax.adafactor(0.01, min_dim_size_to_factor=8),
    "muon": optax.contrib.muon(0.01),
    "schedule-free": optax.contrib.schedule_free_sgd(0.1),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    "several": optax.multi_transform({"adam": optax.adam(0.01), "sgd": optax.sgd(0.1, momentum=0.9)}, labels),
    "masked": optax.masked(optax.adam(0.01), lambda params: jax.tree.map(lambda one: one.ndim > 1, params)),
    "noise": optax.chain(optax.add_noise(0.01, 0.5, jax.random.key(0)), optax.trace(0.9), optax.scale(-0.1)),
    "lbfgs": optax.lbfgs(0.1, linesearch=None),
    "not finite": optax.apply_if_finite(optax.adam(0.01), 3),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "clipped adagrad" else pytest.mark.slow) for name in OPTIMIZERS],
)
def test_moments_of_inactive_weights_are_zero_and_those_of_grown_weights_fresh(name):
    plain = OPTIMIZERS[name]
    strategy = SparseEvolution(schedule=EVERY_2)
    params, optimizer, training = sparsify(mlp_params(), plain, strategy=strategy, sparsity=0.6, include="*/w")
    opt_state, step = optimizer.init(params), step_of(optimizer)
    for batch in batches(4):
        before = training.masks()
        params, opt_state, gradients = step(params, opt_state, *batch)
        assert_inactive_are_zero(training, params, opt_state)
        params, opt_state = training.update(params, opt_state, gradients)
        assert_inactive_are_zero(training, params, opt_state)
    assert training.updates == 2
    assert step._cache_size() <= 2  # some optimizers begin with weakly typed state
    fresh, now = named_arrays(plain.init(params)), named_arrays(opt_state.inner_state)
    found = 0
    for name_of_weight, mask in training.masks().items():
        grown = mask & ~before[name_of_weight]
        for path, array in now.items():
            if path.endswith(name_of_weight) and array.shape == mask.shape:
                np.testing.assert_array_equal(array[grown], fresh[path][grown])
                found += 1
    assert found or name == "adafactor"


def whitening():
    """An optimizer with a matrix for each square weight, of its shape, and momentum of its entries."""

    def init(params):
        return {"moment": jax.tree.map(jnp.zeros_like, params), "outer": jax.tree.map(jnp.zeros_like, params)}

    def update(gradients, state, params=None):
        del params
        outer = jax.tree.map(lambda one, g: one + g @ g.T if g.ndim == 2 else one, state["outer"], gradients)
        moment = jax.tree.map(lambda one, g: 0.9 * one + g, state["moment"], gradients)
        return jax.tree.map(lambda one: -0.1 * one, moment), {"moment": moment, "outer": outer}

    return optax.GradientTransformation(init, update)


def test_state_of_a_tensor_as_a_whole_is_left_alone_though_it_has_the_weights_shape():
    params = {"square": {"w": jnp.ones((6, 6))}}
    sparse = leaves_of(params)
    found = state_entries(whitening(), params, sparse, sparse)
    names = list(named_arrays(whitening().init(params)))
    assert [names[index] for index in found.owners] == ["moment/square/w"]
    assert found.whole == ("outer/square/w",)
    masked, optimizer, training = sparsify(params, whitening(), strategy="static", sparsity=0.5, include="*")
    _, opt_state = optimizer.update(gradients_like(params, 0), optimizer.init(masked), masked)
    assert not np.asarray(opt_state.inner_state["moment"]["square"]["w"])[~training.masks()["square/w"]].any()
    assert "outer/square/w" in str(training.summary())


def test_an_optimizer_that_cannot_be_tried_can_be_described():
    def update(gradients, state, params=None, *, batch):  # noqa: ARG001
        return gradients, state

    asking = optax.GradientTransformationExtraArgs(lambda params: {"mu": params}, update)
    with pytest.raises(InputError, match=r"moments=, by globs"):
        sparsify(mlp_params(), asking, strategy="static")
    params, optimizer, training = sparsify(mlp_params(), asking, strategy="static", moments="mu/*")
    _, opt_state = optimizer.update(mlp_params(), optimizer.init(params), params, batch=3)
    assert_inactive_are_zero(training, params, opt_state)


def test_all_parameters_in_one_vector_are_refused():
    with pytest.raises(InputError, match=r"optax\.flatten"):
        sparsify(mlp_params(), optax.flatten(optax.adam(0.1)), strategy="static")


@pytest.mark.slow
def test_accumulated_gradients_count_as_one_step_and_growth_sees_their_mean():
    strategy = RigL(drop_fraction=0.3, schedule=EVERY_2)
    options = {"strategy": strategy, "sparsity": 0.6, "include": "*/w"}
    params, optimizer, training = sparsify(mlp_params(), optax.MultiSteps(optax.sgd(0.5), 2), **options)
    other, whole, expected = sparsify(mlp_params(), optax.sgd(0.5), **options)
    state, whole_state = optimizer.init(params), whole.init(other)
    apply = jax.jit(optimizer.update)
    for number in range(5):
        halves = [gradients_like(params, 2 * number + half) for half in (0, 1)]
        for one in halves:
            updates, state = apply(one, state, params)
            params = optax.apply_updates(params, updates)
            params, state = training.update(params, state)  # needs no gradients: it has accumulated them
        mean = jax.tree.map(lambda one, two: one + (two - one) / 2, *halves)
        updates, whole_state = whole.update(mean, whole_state, other)
        other = optax.apply_updates(other, updates)
        other, whole_state = expected.update(other, whole_state, mean)
        assert training.topology.sha256() == expected.topology.sha256()
    assert training.step == expected.step == 5
    assert training.updates == expected.updates == 2
    assert apply._cache_size() == 1
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_accumulation_around_counts_its_steps_and_is_refused_where_growth_needs_its_gradients():
    params, optimizer, training = sparsify(
        mlp_params(), optax.sgd(0.5), strategy=SparseEvolution(schedule=EVERY_2), sparsity=0.6, include="*/w"
    )
    around = optax.MultiSteps(optimizer, 2)
    state = around.init(params)
    for number in range(9):
        updates, state = around.update(gradients_like(params, number), state, params)
        params = optax.apply_updates(params, updates)
        params, state = training.update(params, state)
    assert training.updates == 2
    params, optimizer, training = sparsify(
        mlp_params(), optax.sgd(0.5), strategy=RigL(drop_fraction=0.3, schedule=EVERY_2)
    )
    with pytest.raises(InputError, match="accumulate inside"):
        training.update(params, optax.MultiSteps(optimizer, 2).init(params))


@pytest.mark.slow
def test_rejected_gradients_are_no_steps():
    params, optimizer, training = sparsify(
        mlp_params(), optax.apply_if_finite(optax.sgd(0.5), 9), strategy=SparseEvolution(schedule=EVERY_2)
    )
    state = optimizer.init(params)
    for number in range(4):
        gradients = gradients_like(params, number)
        bad = jax.tree.map(lambda one: one * jnp.nan, gradients) if number == 1 else gradients
        updates, state = optimizer.update(bad, state, params)
        params = optax.apply_updates(params, updates)
        params, state = training.update(params, state)
    assert int(state.count) == 3
    assert training.updates == 1


@pytest.mark.slow
def test_the_sparse_optimizer_works_within_a_chain():
    params, optimizer, training = sparsify(mlp_params(), optax.adam(0.1), strategy=SparseEvolution(schedule=EVERY_2))
    chained = optax.chain(optax.clip(1.0), optimizer)
    state, step = chained.init(params), step_of(chained)
    for batch in batches(4):
        params, state, gradients = step(params, state, *batch)
        params, state = training.update(params, state, gradients)
    assert training.updates == 2
    assert step._cache_size() == 1
    assert_inactive_are_zero(training, params, state)
    averaged = training.masked(jax.tree.map(jnp.ones_like, params))
    assert (
        int(sum((averaged[name.split("/")[0]]["w"] != 0).sum() for name in training.masks())) == training.topology.size
    )
