"""``sparsecore_jax.sparsify`` where something could go wrong silently: uncounted steps, foreign trees and states."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
from jax_examples import after_a_step, assert_inactive_are_zero, gradients_like, mlp_params

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_jax import sparsify
from sparsecore_jax.sparse_training.parameters import leaves_of
from sparsecore_jax.sparse_training.state_entries import state_entries
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution

EVERY_2 = Every(steps=2)
SET, RIGL = SparseEvolution(schedule=EVERY_2), RigL(schedule=EVERY_2, drop_fraction=0.3)


def small():
    return {"one": {"w": mlp_params()["second"]["w"]}, "two": {"w": mlp_params(seed=3)["second"]["w"]}}


def trained(plain, strategy, gradients, *, traced=False):
    params, optimizer, training = sparsify(small(), plain, strategy=strategy, sparsity=0.6, include="*", total_steps=30)
    state = optimizer.init(params)

    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return training.traced_update(params, state, gradients) if traced else (params, state)

    step = jax.jit(step)
    for one in gradients:
        params, state = step(params, state, one)
        if not traced:
            params, state = training.update(params, state, one)
    if traced:
        training.synchronize(state)
    training.check(params, state)
    return training, state


def test_traced_updates_are_made_once_while_gradients_are_accumulated():
    gradients = [gradients_like(small(), seed) for seed in range(7)]
    inside, _ = trained(optax.MultiSteps(optax.sgd(0.1), 2), SET, gradients, traced=True)
    outside, _ = trained(optax.MultiSteps(optax.sgd(0.1), 2), SET, gradients)
    assert inside.topology.sha256() == outside.topology.sha256()
    assert (inside.step, inside.updates) == (outside.step, outside.updates) == (3, 1)


def test_rejected_gradients_are_no_step_also_where_an_update_replaces_it():
    gradients = [gradients_like(small(), seed) for seed in range(3)]
    gradients.insert(1, jax.tree.map(lambda one: one * jnp.nan, gradients[0]))
    training, state = trained(optax.apply_if_finite(optax.sgd(0.1), 9), RIGL, gradients)
    other, _ = trained(optax.sgd(0.1), RIGL, [gradients[0], *gradients[2:]])
    assert int(state.count) == training.step == other.step == 3
    assert training.topology.sha256() == other.topology.sha256()


@pytest.mark.slow
def test_gradients_that_multi_steps_skips_are_not_in_the_mean_that_growth_sees():
    gradients = [gradients_like(small(), seed) for seed in range(4)]
    bad = jax.tree.map(lambda one: one * jnp.nan, gradients[0])
    skipping = optax.MultiSteps(optax.sgd(0.1), 2, should_skip_update_fn=optax.skip_not_finite)
    training, _ = trained(skipping, RIGL, [*gradients[:3], bad, gradients[3]])
    other, _ = trained(optax.MultiSteps(optax.sgd(0.1), 2), RIGL, gradients)
    assert training.updates == other.updates == 1
    assert training.topology.sha256() == other.topology.sha256()


@pytest.mark.parametrize("inner", [optax.apply_if_finite(optax.sgd(0.1), 3), optax.MultiSteps(optax.sgd(0.1), 2)])
def test_what_accumulates_or_rejects_gradients_within_a_chain_is_refused(inner):
    inner = optax.GradientTransformation(inner.init, inner.update)
    with pytest.raises(InputError, match="be the outermost"):
        sparsify(mlp_params(), optax.chain(optax.clip(1.0), inner), strategy="static")


def momentum_in_a_list():
    """Momentum that has no names of parameters in its paths."""

    def init(params):
        return [jnp.zeros_like(one) for one in jax.tree.leaves(params)]

    def update(gradients, state, params=None):
        del params
        state = [0.9 * one + own for one, own in zip(state, jax.tree.leaves(gradients), strict=True)]
        return jax.tree.structure(gradients).unflatten([-0.1 * one for one in state]), state

    return optax.GradientTransformation(init, update)


def test_state_without_names_is_that_of_the_weights_whose_gradients_it_follows():
    params, optimizer, training = sparsify(small(), momentum_in_a_list(), strategy=SET, sparsity=0.6, include="*")
    state = optimizer.init(params)
    for seed in range(2):
        gradients = gradients_like(params, seed)
        params, state = after_a_step(optimizer, training, params, state, gradients)
        for array, mask in zip(state.inner_state, training.masks().values(), strict=True):
            assert np.asarray(array)[mask].any()
            assert not np.asarray(array)[~mask].any()


def test_momentum_that_its_matrix_scales_is_that_of_single_weights():
    leaves = leaves_of(mlp_params())
    sparse = [one for one in leaves if len(one.shape) == 2]
    assert len(state_entries(optax.sm3(0.1), mlp_params(), leaves, sparse).owners) == len(sparse)


def test_state_of_a_dense_parameter_whose_name_ends_as_that_of_a_sparse_one_is_its_own():
    params = {"a": {"w": jnp.ones((8, 8))}, "b": {"a": {"w": jnp.ones((8, 8))}}}
    leaves = leaves_of(params)
    found = state_entries(optax.trace(0.9), params, leaves, leaves[:1])
    assert list(found.owners.values()) == [0]
    assert found.whole == ()


def test_trees_of_another_structure_are_refused():
    params, optimizer, training = sparsify(small(), optax.sgd(0.1), strategy=RIGL, sparsity=0.6, include="*")
    state = optimizer.init(params)
    with pytest.raises(InputError, match="nothing at the place of two/w"):
        optimizer.update({"one": params["one"]}, state, params)
    for _ in range(2):
        updates, state = optimizer.update(params, state, params)
        params, state = (
            optax.apply_updates(params, updates),
            state if training.step else training.update(params, state)[1],
        )
    with pytest.raises(InputError, match="gradients has 'three/w' at the place of 'one/w'"):
        training.update(params, state, {"three": params["one"], "two": params["two"]})
    with pytest.raises(InputError, match="parameters has nothing at the place of two/w"):
        training.update({"one": params["one"]}, state, params)


def test_a_state_may_be_made_inside_jit_and_vmap():
    params, optimizer, training = sparsify(mlp_params(), optax.adam(0.1), strategy="static")
    assert_inactive_are_zero(training, params, jax.jit(optimizer.init)(params))
    several = jax.vmap(optimizer.init)(jax.tree.map(lambda one: jnp.stack([one, one]), params))
    assert {one.shape[0] for one in several.masks} == {2}


@pytest.mark.slow
def test_double_precision_of_a_context_outlives_it():
    with jax.enable_x64(True):
        params, optimizer, training = sparsify(mlp_params(jnp.float64), optax.adam(0.1), strategy=SET)
        state = optimizer.init(params)
        for seed in range(2):
            params, state = training.update(params, state) if seed else (params, state)
            updates, state = optimizer.update(gradients_like(params, seed), state, params)
            params = optax.apply_updates(params, updates)
    params, state = training.update(params, state)
    assert training.updates == 1
    assert {str(one.dtype) for one in jax.tree.leaves(params)} == {"float64"}
    assert_inactive_are_zero(training, params, state)


def test_a_state_is_placed_as_the_parameters_are_from_the_first_step_on_and_stays_so():
    mesh = jax.make_mesh((1,), ("devices",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    given = jax.device_put(small(), sharding)
    params, optimizer, training = sparsify(given, optax.adam(0.1), strategy=SET, sparsity=0.6, include="*")
    state = optimizer.init(params)
    assert all(leaf.committed for leaf in jax.tree.leaves(state))
    step = jax.jit(lambda params, state: optimizer.update(params, state, params)[1])
    for _ in range(2):
        state = step(params, state)
        placed = [leaf.sharding for leaf in jax.tree.leaves((params, state))]
        params, state = training.update(params, state)
        assert [leaf.sharding for leaf in jax.tree.leaves((params, state))] == placed
    assert training.updates == 1
