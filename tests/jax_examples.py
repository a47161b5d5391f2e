"""Parameters, losses and loops of JAX that several tests use."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

SHAPES = {"first": (12, 16), "second": (16, 16), "third": (16, 4)}


def mlp_params(dtype=jnp.float32, seed=0):
    """A network in a dict of dicts, as haiku has them."""
    random = np.random.default_rng(seed)
    return {
        name: {
            "w": jnp.asarray(random.normal(0, shape[0] ** -0.5, shape), dtype),
            "b": jnp.zeros(shape[1], dtype),
        }
        for name, shape in SHAPES.items()
    }


def mlp(params, inputs):
    for name in SHAPES:
        inputs = inputs @ params[name]["w"] + params[name]["b"]
        inputs = jax.nn.relu(inputs) if name != "third" else inputs
    return inputs


def loss(params, inputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, inputs), labels).mean()


def batches(count, seed=1):
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield jnp.asarray(random.normal(size=(8, 12)), jnp.float32), jnp.asarray(random.integers(0, 4, 8))


def step_of(optimizer, function=loss):
    """A jitted step of a user's own loop; its attribute ``traces`` counts how often it was traced."""

    def step(params, opt_state, *batch):
        step_of.traces += 1
        gradients = jax.grad(function)(params, *batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, gradients

    step_of.traces = 0
    return jax.jit(step)


def after_a_step(optimizer, training, params, opt_state, gradients):
    """Parameters and state after a step of the optimizer and the training's update behind it."""
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return training.update(optax.apply_updates(params, updates), opt_state, gradients)


def gradients_like(params, seed):
    """Dense gradients, drawn."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda one: jnp.asarray(random.normal(size=one.shape), one.dtype), params)


def assert_inactive_are_zero(training, params, opt_state):
    """Weights and their moments are exactly zero where the training has no weights, and its masks are the state's."""
    training.check(params)
    masks = training.masks()
    arrays = named_arrays(params)
    for name, mask in masks.items():
        assert not arrays[name][~mask].any()
    for path, array in named_arrays(opt_state).items():
        owner = next((name for name in masks if path.endswith(f"/{name}") and array.shape == masks[name].shape), None)
        if owner is not None:
            assert not array[~masks[owner]].any(), path


def named_arrays(tree):
    """The arrays of a tree by their paths."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }
