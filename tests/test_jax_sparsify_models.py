"""Parameters of flax, equinox and haiku: their names, and which become sparse by default."""

import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
import numpy as np
from jax_examples import after_a_step, assert_inactive_are_zero, gradients_like

from sparsecore.engine.distributions import distribution
from sparsecore.engine.topology import Layout
from sparsecore.strategy import Every
from sparsecore_jax import sparsify
from sparsecore_jax.sparse_training.orientation import orientation_of
from sparsecore_jax.sparse_training.parameters import leaves_of
from sparsecore_jax.sparse_training.selection import select
from sparsecore_strategies.rigl import RigL


def shapes(**by_name):
    """A nested tree of arrays from names with double underscores for slashes."""
    tree = {}
    for name, shape in by_name.items():
        *around, last = name.split("__")
        inner = tree
        for part in around:
            inner = inner.setdefault(part, {})
        inner[last] = jnp.ones(shape)
    return tree


DEFAULT = {
    "params__Conv_0__kernel": ((3, 3, 3, 8), "first convolution"),
    "params__Conv_1__kernel": ((3, 3, 8, 8), None),
    "params__Conv_2__kernel": ((3, 3, 1, 8), "one input channel"),
    "params__BatchNorm_0__scale": ((8,), "norm"),
    "params__Dense_0__kernel": ((8, 8), None),
    "params__Dense_1__kernel": ((8, 8), None),
    "params__Dense_1__bias": ((8,), "bias"),
    "params__Dense_10__kernel": ((8, 4), "last linear layer"),
    "params__Embed_0__embedding": ((20, 8), None),
    "params__position_embedding__embedding": ((20, 8), "positions"),
    "params__token_type__embedding": ((2, 8), "types"),
    "params__cls": ((1, 1, 8), "a vector"),
    "params__encoder__query__kernel": ((8, 2, 4), None),
    "params__encoder__router__kernel": ((8, 4), "router"),
    "params__encoder__lora_a__kernel": ((8, 4), "adapter"),
    "params__encoder__mixing": ((8, 4), "no weight matrix"),
    "params__inner__counter__w": ((0, 4), "empty"),
}


def test_weight_matrices_become_sparse_by_default_and_others_say_why_not():
    leaves = leaves_of(shapes(**{name: shape for name, (shape, _) in DEFAULT.items()}))
    selection = select(leaves, None, None, ())
    assert {one.name for one in selection.sparse} == {
        name.replace("__", "/") for name, (_, reason) in DEFAULT.items() if reason is None
    }
    for name, (_, reason) in DEFAULT.items():
        assert reason is None or reason in selection.left_out[name.replace("__", "/")]


def test_kernels_have_the_order_of_torch_for_strategies():
    tree = shapes(conv__kernel=(3, 2, 5, 7), query__kernel=(8, 2, 4), out__kernel=(2, 4, 8), eqx__weight=(7, 5, 3))
    turned = {one.name: orientation_of(one) for one in leaves_of(tree)}
    assert {name: one.engine_shape for name, one in turned.items()} == {
        "conv/kernel": (7, 5, 3, 2),
        "query/kernel": (8, 8),
        "out/kernel": (8, 8),
        "eqx/weight": (7, 5, 3),
    }
    random = np.random.default_rng(0)
    for one in turned.values():
        array = random.normal(size=one.shape)
        flat = one.flat(array)
        np.testing.assert_array_equal(one.dense(np.arange(flat.size), flat), array)
        chosen = random.permutation(flat.size)[:9]
        np.testing.assert_array_equal(np.sort(array[one.mask(chosen)]), np.sort(flat[chosen]))
    conv = random.normal(size=(3, 2, 5, 7))
    np.testing.assert_array_equal(turned["conv/kernel"].flat(conv), conv.transpose(3, 2, 0, 1).reshape(-1))
    layout = Layout.of({name: one.engine_shape for name, one in turned.items()})
    training = sparsify(tree, optax.sgd(0.1), strategy="static", include="*", sparsity=0.6, distribution="er").training
    np.testing.assert_array_equal(
        [int(training.masks()[name].sum()) for name in sorted(turned)],
        distribution("er")(Layout.of({name: turned[name].engine_shape for name in sorted(turned)}), 0.6),
    )
    assert layout.size == training.topology.layout.size


def trees():
    """Parameters of small networks of each library."""
    linen = pytest.importorskip("flax.linen")
    from flax import nnx
    from flax.core import freeze

    equinox = pytest.importorskip("equinox")
    haiku = pytest.importorskip("haiku")

    class Two(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(6, 8, rngs=rngs)
            self.head = nnx.Linear(8, 2, rngs=rngs)

    linen_params = linen.Sequential([linen.Dense(8), linen.Dense(8), linen.Dense(2)]).init(
        jax.random.key(0), jnp.ones((1, 6))
    )
    yield "linen", linen_params, {"params/layers_0/kernel", "params/layers_1/kernel"}
    yield "frozen", freeze(linen_params), {"params/layers_0/kernel", "params/layers_1/kernel"}
    yield "nnx", nnx.state(Two(nnx.Rngs(0)), nnx.Param), {"inner/kernel"}
    mlp = equinox.nn.MLP(6, 2, 8, depth=2, key=jax.random.key(0))
    yield "equinox", equinox.filter(mlp, equinox.is_inexact_array), {"layers/0/weight", "layers/1/weight"}
    network = haiku.transform(lambda x: haiku.nets.MLP([8, 8, 2])(x))  # noqa: PLW0108 - modules are made within
    yield "haiku", network.init(jax.random.key(0), jnp.ones((1, 6))), {"mlp/~/linear_0/w", "mlp/~/linear_1/w"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trees_of_all_libraries_are_trained_sparsely():
    for library, tree, sparse in trees():
        strategy = RigL(drop_fraction=0.3, schedule=Every(steps=1))
        params, optimizer, training = sparsify(tree, optax.sgd(0.1, momentum=0.9), strategy=strategy, sparsity=0.5)
        assert set(training.masks()) == sparse, library
        assert jax.tree.structure(params) == jax.tree.structure(tree)
        opt_state = optimizer.init(params)
        for number in range(2):
            gradients = gradients_like(params, number)
            params, opt_state = after_a_step(optimizer, training, params, opt_state, gradients)
            assert_inactive_are_zero(training, params, opt_state)
        assert training.updates == 2
        assert jax.tree.structure(params) == jax.tree.structure(tree)
