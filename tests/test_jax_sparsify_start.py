"""Starts, groups and checkpoints of ``sparsecore_jax.sparsify``, and its agreement with that of torch."""

import json

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
from jax_examples import after_a_step, gradients_like, mlp_params

from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_jax import sparsify
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.gmp import GradualPruning
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.snfs import SparseMomentum

EVERY_2 = Every(steps=2)
STRATEGIES = {
    "dpr": DynamicReallocation(target="20%", initial_threshold=0.05, schedule=EVERY_2),
    "set": SparseEvolution(schedule=EVERY_2),
    "rigl": RigL(schedule=EVERY_2),
    "gmp": GradualPruning(schedule=EVERY_2),
    "snfs": SparseMomentum(schedule=EVERY_2),
    "static": "static",
}
SGD = optax.sgd(0.25, momentum=0.5)


@pytest.mark.parametrize("name", STRATEGIES)
def test_topologies_are_those_of_torch_position_for_position(name):
    torch = pytest.importorskip("torch")
    from sparsecore_torch import sparsify as sparsify_torch

    random = np.random.default_rng(0)
    shapes = {"0.weight": (9, 6), "1.weight": (7, 9), "2.weight": (4, 7)}
    weights = {one: random.normal(size=shape).astype(np.float32) for one, shape in shapes.items()}
    model = torch.nn.Sequential(*(torch.nn.Linear(shape[1], shape[0], bias=False) for shape in shapes.values()))
    with torch.no_grad():
        for one, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights[one]))
    sgd = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    options = {"strategy": STRATEGIES[name], "sparsity": 0.6, "include": "*", "total_steps": 10, "seed": 3}
    expected = sparsify_torch(model, sgd, **options)
    params, optimizer, training = sparsify({one: jnp.asarray(array) for one, array in weights.items()}, SGD, **options)
    opt_state, step = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(8):
        np.testing.assert_array_equal(training.topology.host_positions, expected.topology.host_positions)
        gradients = {one: random.integers(-8, 9, shape).astype(np.float32) / 8 for one, shape in shapes.items()}
        sgd.zero_grad()
        sum(
            (parameter * torch.from_numpy(gradients[one])).sum() for one, parameter in model.named_parameters()
        ).backward()
        sgd.step()
        updates, opt_state = step(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        params, opt_state = training.update(params, opt_state, gradients)
        for one, parameter in model.named_parameters():
            np.testing.assert_allclose(params[one], parameter.detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(training.topology.host_positions, expected.topology.host_positions)
    assert training.updates == expected.updates
    assert name == "static" or training.updates > 1


def advanced(sparsified, opt_state, seeds):
    params, optimizer, training = sparsified
    for seed in seeds:
        gradients = gradients_like(params, seed)
        params, opt_state = after_a_step(optimizer, training, params, opt_state, gradients)
    return params, opt_state


@pytest.mark.parametrize("name", ["dpr", pytest.param("snfs", marks=pytest.mark.slow)])
def test_a_saved_training_goes_on_bit_for_bit(name, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    options = {"strategy": STRATEGIES[name], "sparsity": 0.6, "include": "*/w", "total_steps": 12}
    first = sparsify(mlp_params(), SGD, **options)
    params, opt_state = advanced(first, first.optimizer.init(first.params), range(3))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "at", {"p": params, "s": opt_state, "t": first.training.arrays()})
        checkpointer.wait_until_finished()
        later = sparsify(mlp_params(), SGD, **options)
        like = {"p": later.params, "s": later.optimizer.init(later.params), "t": first.training.arrays()}
        restored = checkpointer.restore(tmp_path / "at", like)
    later.training.load_state_dict(restored["t"])
    expected = advanced(first._replace(params=params), opt_state, range(3, 9))
    found = advanced(later._replace(params=restored["p"]), restored["s"], range(3, 9))
    for there, here in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_array_equal(there, here)
    assert later.training.topology.sha256() == first.training.topology.sha256()
    assert later.training.updates == first.training.updates > 2
    plain = {key: one for key, one in first.training.state_dict().items() if key in {"tensors", "clock", "seed"}}
    assert json.loads(json.dumps(plain)) == plain


def test_state_dicts_and_states_that_do_not_fit_are_refused():
    first = sparsify(mlp_params(), SGD, strategy="dpr", sparsity=0.6)
    other = sparsify(mlp_params(), SGD, strategy="dpr", sparsity=0.7)
    with pytest.raises(InputError, match="sparsity"):
        other.training.load_state_dict(first.training.state_dict())
    with pytest.raises(InputError, match="damaged"):
        first.training.load_state_dict({"sparse_training": np.zeros(9, np.uint8)})
    of_torch = first.training.state_dict()
    first.training.load_state_dict({**of_torch, "young": {"choices": {}}})
    with pytest.raises(InputError, match=r"young weights get .*own-steps.*, and in JAX"):
        first.training.load_state_dict({**of_torch, "young": {"choices": {"first/w": "own-steps"}}})
    again = sparsify(mlp_params(), SGD, strategy="dpr", start=first.training.arrays())
    assert again.training.topology.sha256() == first.training.topology.sha256()
    third = sparsify(mlp_params(), SGD, strategy="dpr", sparsity=0.6)
    opt_state = third.optimizer.init(third.params)
    moved = sparsify(mlp_params(), SGD, strategy=DynamicReallocation(target=9, schedule=Every(steps=1)), sparsity=0.6)
    advanced(moved, moved.optimizer.init(moved.params), range(2))
    third.training._state = moved.training._state  # as if another state had been loaded
    with pytest.raises(InputError, match="another mask"):
        third.training.update(third.params, opt_state)


def test_training_starts_from_weights_and_masks():
    dense = mlp_params()
    options = {"strategy": "static", "include": "*/w"}
    largest = sparsify(dense, SGD, sparsity=0.75, start="magnitude", **options)
    for name, mask in largest.training.masks().items():
        magnitudes = np.abs(np.asarray(dense[name.split("/")[0]]["w"]))
        assert magnitudes[mask].min() > magnitudes[~mask].max()
    again = sparsify(largest.params, SGD, start="nonzero", **options)
    masks = again.training.masks()
    for start in (
        masks,
        {name.split("/")[0]: {"w": mask} for name, mask in masks.items()},
        {name: np.flatnonzero(mask) for name, mask in masks.items()},
        largest.training.topology,
        largest.training.state_dict(),
    ):
        found = sparsify(dense, SGD, start=start, **options)
        assert found.training.topology.sha256() == largest.training.topology.sha256()
        for there, here in zip(*map(jax.tree.leaves, (found.params, largest.params)), strict=True):
            np.testing.assert_array_equal(there, here)
    with pytest.raises(InputError, match="no mask and no positions for second/w"):
        sparsify(dense, SGD, start={"first/w": masks["first/w"]}, **options)
    with pytest.raises(InputError, match="distinct and from 0 to 191"):
        sparsify(dense, SGD, start={**masks, "first/w": np.array([0, 192])}, **options)


def test_groups_have_a_sparsity_and_a_strategy_each():
    training = sparsify(
        mlp_params(),
        SGD,
        sparsity={"*": 0.5, "second/*": 0.9},
        strategy={"*": "static", "first/w": "set"},
        include="*/w",
    ).training
    density = {name: mask.mean() for name, mask in training.masks().items()}
    assert density["second/w"] == pytest.approx(0.1, abs=0.01)
    assert density["third/w"] == pytest.approx(0.5, abs=0.01)
    assert "strategies:" in str(training.summary())
    exact = sparsify(mlp_params(), SGD, strategy="static", budget=100, include="*/w").training
    assert exact.topology.size == 100
    with pytest.raises(InputError, match=r"sparsity= has no effect"):
        sparsify(mlp_params(), SGD, sparsity={"first/w": 0.5, "*": 0.9}, include="*/w")
