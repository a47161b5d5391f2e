"""Updates inside ``jax.jit``: the same decisions as between jitted steps, position for position."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
from jax_examples import after_a_step, gradients_like, mlp_params

from sparsecore.errors import InputError
from sparsecore.strategy import Every, hookimpl
from sparsecore_jax import sparsify
from sparsecore_strategies.gradient_growth import GradientGrowth
from sparsecore_strategies.magnitude_drop import MagnitudeDrop
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution

EVERY_2 = Every(steps=2)
STEPS = 7


class Scheduled:
    """Updates every two steps."""

    @hookimpl
    def update_due(self, clock):
        return EVERY_2(clock)


TRACEABLE = {
    "set": SparseEvolution(schedule=EVERY_2),
    "a number of weights": SparseEvolution(schedule=EVERY_2, ranking="magnitude", drop_fraction=20, start="uniform"),
    "rigl": RigL(schedule=EVERY_2),
    "gradient growth": [SparseEvolution(schedule=EVERY_2), GradientGrowth()],
    "survivors' shares": [Scheduled(), MagnitudeDrop()],
    "groups": {"kernel": SparseEvolution(schedule=EVERY_2), "other": RigL(schedule=Every(steps=3))},
    "static": "static",
}


def tied_params(dtype):
    """Parameters with many equal magnitudes, and numbers that are too small for XLA; zeros come when weights grow."""
    random = np.random.default_rng(2)
    steps = random.integers(1, 4, (2, 3, 5, 6)) * random.choice([-0.25, 0.25], (2, 3, 5, 6))
    small = np.where(random.random((9, 7)) < 0.5, np.float32(1e-39), 1.0) * random.normal(size=(9, 7))
    return {"kernel": jnp.asarray(steps, dtype), "other": jnp.asarray(small, dtype)}


CASES = [
    (name, dtype, regrow) for name in TRACEABLE for dtype in ("float32", "bfloat16") for regrow in (None, True, "keep")
]
QUICK = {("set", "float32", None), ("rigl", "float32", None)}


@pytest.mark.parametrize(
    ("name", "dtype", "regrow"), [pytest.param(*one, marks=[] if one in QUICK else pytest.mark.slow) for one in CASES]
)
def test_traced_updates_decide_as_those_between_steps(name, dtype, regrow):
    options = {
        "strategy": TRACEABLE[name],
        "sparsity": 0.6,
        "include": "*",
        "total_steps": STEPS + 1,
        "regrow_pruned": regrow,
    }
    host_params, optimizer, outside = sparsify(tied_params(dtype), optax.sgd(0.25, momentum=0.5), **options)
    params, same, inside = sparsify(tied_params(dtype), optax.sgd(0.25, momentum=0.5), **options)

    def step(params, opt_state, gradients):
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    @jax.jit
    def traced(params, opt_state, gradients):
        return inside.traced_update(*step(params, opt_state, gradients), gradients)

    host_step, host_state, opt_state = jax.jit(step), optimizer.init(host_params), same.init(params)
    for number in range(STEPS):
        gradients = gradients_like(params, number)
        host_params, host_state = host_step(host_params, host_state, gradients)
        host_params, host_state = outside.update(host_params, host_state, gradients)
        params, opt_state = traced(params, opt_state, gradients)
        for there, here in zip(*map(jax.tree.leaves, ((host_params, host_state), (params, opt_state))), strict=True):
            np.testing.assert_array_equal(there, here)
    assert traced._cache_size() == 1
    assert name == "static" or outside.updates > 1
    inside.synchronize(opt_state)
    inside.check(params, opt_state)
    assert inside.topology.sha256() == outside.topology.sha256()
    assert (inside.step, inside.updates) == (outside.step, outside.updates)


@pytest.mark.slow
def test_a_whole_loop_runs_in_one_scan_and_goes_on_outside():
    strategy = RigL(schedule=EVERY_2)
    params, optimizer, training = sparsify(mlp_params(), optax.adam(0.01), strategy=strategy, total_steps=20)
    start = training.topology.sha256()

    def step(carry, seed):
        params, opt_state = carry
        gradients = jax.tree.map(lambda one: jax.random.normal(jax.random.key(seed), one.shape), params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        return training.traced_update(params, opt_state, gradients), None

    loop = jax.jit(lambda params, opt_state: jax.lax.scan(step, (params, opt_state), jnp.arange(6))[0])
    params, opt_state = loop(params, optimizer.init(params))
    with pytest.raises(InputError, match="synchronize"):
        training.check(params, opt_state)
    training.synchronize(opt_state)
    training.check(params, opt_state)
    assert (training.step, training.updates) == (6, 3)
    assert training.topology.sha256() != start
    gradients = gradients_like(params, 0)
    for _ in range(2):
        params, opt_state = after_a_step(optimizer, training, params, opt_state, gradients)
    assert training.updates == 4


@pytest.mark.parametrize(
    ("strategy", "options", "sentence"),
    [
        ("dpr", {}, "has a state that its updates change"),
        ("gmp", {}, "has a state|acts by its hook"),
        ([MagnitudeDrop(scope="network")], {}, "decides by the values how many"),
        ("chts", {}, "cannot be traced"),
        ("set", {"units": "2x2"}, "units of several weights"),
        ("set", {"total_steps": None}, "give total_steps="),
    ],
)
def test_decisions_that_cannot_be_traced_are_refused_by_a_sentence(strategy, options, sentence):
    options = {"strategy": strategy, "include": "*/w", "total_steps": 20, **options}
    params, optimizer, training = sparsify(mlp_params(), optax.sgd(0.1), **options)
    with pytest.raises(InputError, match=sentence):
        training.traced_update(params, optimizer.init(params), params)


def test_traced_growth_by_gradients_needs_them():
    params, optimizer, training = sparsify(mlp_params(), optax.sgd(0.1), strategy="rigl", total_steps=300)
    with pytest.raises(InputError, match="needs the gradients"):
        training.traced_update(params, optimizer.init(params))
