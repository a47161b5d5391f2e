"""``initial_topology`` may ask for the initial values; a strategy that does not ask has none computed."""

import numpy as np
import pytest
from command_line import small_images
from engine_examples import ARRAYS, TWO_TENSORS, engine, plugin
from safetensors.numpy import load_file
from start_oracles import carry_out

from sparsecore.errors import InputError
from sparsecore.strategy import largest_of_all, largest_of_each, uniform

LARGEST = '''"""Starts with the largest weights of each tensor."""

import attrs

from sparsecore.strategy import Declares, hookimpl, largest_of_each, uniform


@attrs.frozen(eq=False)
class Largest:
    """Start with the largest weights."""

    declares = Declares(start="fixed")

    @hookimpl
    def initial_topology(self, layout, sparsity, arrays, values):
        return largest_of_each(layout, uniform(layout, sparsity), values, arrays)

    @hookimpl
    def update_due(self):
        return False
'''


def dense(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).standard_normal(100)


def largest(layout, sparsity, arrays, values):
    return largest_of_each(layout, uniform(layout, sparsity), values, arrays)


def test_a_strategy_chooses_the_active_weights_by_the_initial_values() -> None:
    state = engine(TWO_TENSORS, [plugin(initial_topology=largest)]).start(0.8, values=dense)
    expected = [
        offset + position
        for name, offset in (("first", 0), ("second", 100))
        for position in sorted(sorted(range(100), key=lambda i: -abs(dense(name)[i]))[:20])
    ]
    assert state.topology.positions.tolist() == expected


def test_values_are_those_of_units_where_these_are_larger() -> None:
    seen = {}

    def start(layout, sparsity, arrays, values):
        seen.update({name: values(name) for name in layout.names})
        return largest(layout, sparsity, arrays, values)

    engine(TWO_TENSORS, [plugin(initial_topology=start)], units=_blocks()).start(0.8, values=dense)
    expected = np.abs(dense("second")).reshape(10, 2, 1, 5).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(seen["second"], expected)


def _blocks():
    from sparsecore.engine.units import as_units

    return as_units("2x5")


def test_values_are_not_computed_for_a_strategy_that_does_not_ask() -> None:
    def values(name: str) -> np.ndarray:
        raise AssertionError(name)

    engine(TWO_TENSORS, [plugin(prune=lambda topology: topology.all())]).start(0.8, values=values)


def test_a_strategy_that_asks_is_named_where_there_are_no_values() -> None:
    with pytest.raises(InputError, match="'Plugin' asks for the initial values"):
        engine(TWO_TENSORS, [plugin(initial_topology=largest)]).start(0.8)


def test_the_largest_of_a_network_keep_one_weight_in_each_tensor() -> None:
    values = {"first": dense("first"), "second": dense("second") / 1000}
    found = largest_of_all(TWO_TENSORS, 20, values.__getitem__, ARRAYS)
    assert found.counts.tolist() == [19, 1]
    assert found.local("second").tolist() == [int(np.argmax(np.abs(values["second"])))]
    with pytest.raises(InputError, match="2 tensors need at least one weight each"):
        largest_of_all(TWO_TENSORS, 1, values.__getitem__, ARRAYS)


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("backend", ["numpy", "torch", "cpu", pytest.param("jax", marks=pytest.mark.slow)])
def test_runs_give_the_drawn_values_and_sparsify_those_of_the_model(backend: str, tmp_path) -> None:
    pytest.importorskip(f"sparsecore_{backend}")
    images = small_images(tmp_path / "small.npz")
    (tmp_path / "largest.py").write_text(LARGEST)
    common = ("--model", "lenet-12-8", "--data", "npz", "--data-dir", images, "--epochs", "1", "--backend", backend)
    still = ("--set", "training.learning_rate=0", "--sparsity")
    carry_out(
        "train", *common, "--strategy", f"{tmp_path}/largest.py:Largest", *still, "0.7", "--out", tmp_path / "one"
    )
    carry_out("train", *common, "--strategy", "static", *still, "0", "--out", tmp_path / "all")
    run, every = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "all"))
    first = np.abs(every["learner/values"][:192])
    expected = np.sort(np.argsort(-first, kind="stable")[: int(192 * 0.3)])
    assert run["positions"][run["positions"] < 192].tolist() == expected.tolist()


def test_sparsify_gives_the_weights_of_the_model() -> None:
    torch = pytest.importorskip("torch")
    from sparsecore_torch import sparsify

    model = torch.nn.Sequential(torch.nn.Linear(8, 16))
    weight = model[0].weight.detach().clone().abs().flatten()
    strategy = plugin(initial_topology=largest, update_due=lambda: False)
    training = sparsify(
        model, torch.optim.SGD(model.parameters(), 0.1), strategy=strategy, sparsity=0.75, include="*weight"
    )
    assert training.topology.host_positions.tolist() == sorted(weight.topk(32).indices.tolist())
