"""Top-KAST computes with the largest weights and trains a larger set, as the paper defines both."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import sparsecore, train
from engine_examples import engine, topologies, values_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsecore.engine.forward_view import VisibleWeights
from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore.run.checkpoint import read_checkpoint
from sparsecore.run.silent_weights import ViewedLearner
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.topkast import TopKast
from sparsecore_torch import export, sparsify

LAYOUT = Layout.of({"matrix": (6, 7), "kernels": (3, 2, 2, 2), "vector": (5,)})


def run_of(latest, sparsity, strategy=TopKast(penalty=0.0)):
    algorithm = engine(LAYOUT, [strategy])
    bounds = dict(zip(LAYOUT.names, zip(LAYOUT.offsets, LAYOUT.offsets[1:], strict=False), strict=True))
    state = algorithm.start(sparsity, clock=Clock(total_steps=1000), values=lambda name: latest[slice(*bounds[name])])
    return algorithm, state, bounds


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.7, 0.9]), st.integers(1, 4))
@settings(max_examples=40)
def test_updates_select_the_largest_of_all_values_that_a_dense_network_would_keep(seed, sparsity, updates):
    random = np.random.default_rng(seed)
    latest = random.integers(-9, 10, LAYOUT.size) / 4  # with ties, and zeros
    algorithm, state, bounds = run_of(latest, sparsity)
    shares = {0.5: 2, 0.7: 10 / 3, 0.9: 10}
    forward = {
        name: max(1, int(size / shares[sparsity])) for name, size in zip(LAYOUT.names, LAYOUT.sizes, strict=True)
    }
    before = set()
    for _ in range(updates + 1):
        active, seen = (set(np.flatnonzero(flags)) for flags in flags_of(algorithm, state))
        for name, (first, last) in bounds.items():
            mine = {slot for slot in active if first <= slot < last}
            assert len(mine) == min(2 * forward[name], last - first)
            by_size = sorted((abs(latest[slot]) for slot in mine), reverse=True)
            # a tensor never loses all its weights at once
            if not before or len(mine & before) > 1:
                assert by_size == sorted(abs(latest[first:last]), reverse=True)[: len(mine)]
            assert sorted((abs(latest[slot]) for slot in mine & seen), reverse=True) == by_size[: forward[name]]
        before = active
        # the weights of B are trained, and all others keep their values
        latest[sorted(active)] += random.integers(-9, 10, len(active)) / 4
        state, reallocation = algorithm.update(state, latest[sorted(active)])
        np.testing.assert_array_equal(reallocation.values, latest[reallocation.after.host_positions])


def flags_of(algorithm, state):
    """Which positions are active, and which of them are visible."""
    active, seen = np.zeros((2, LAYOUT.size), bool)
    active[state.topology.host_positions] = True
    seen[state.topology.host_positions[algorithm.visible_weights(state).mask]] = True
    return active, seen


@given(topologies(LAYOUT), st.data())
@settings(max_examples=20)
def test_a_given_topology_keeps_its_size_and_a_tensor_with_few_weights_sees_all(before, data):
    algorithm = engine(LAYOUT, [TopKast()])
    values = data.draw(values_of(before))
    state = algorithm.start_at(before, sparsity=0.5, values=lambda name: np.zeros(LAYOUT.sizes[LAYOUT.index(name)]))
    after, _ = algorithm.update(state, values)
    assert after.topology.counts.tolist() == before.counts.tolist()
    visible = algorithm.visible_weights(after).mask
    for name, size, count in zip(LAYOUT.names, LAYOUT.sizes, before.counts, strict=True):
        assert np.count_nonzero(visible[after.topology.slots(name)]) == min(max(1, size // 2), count)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)).double()


def batches(count):
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        inputs = torch.randn(8, 12, dtype=torch.float64, generator=random)
        yield inputs, torch.randint(0, 4, (8,), generator=random)


def losses_by_definition(model, steps, sparsity=0.8):
    """The losses of dense parameters with a forward mask and a gradient mask, selected anew every third step."""
    theta, last = (layer.weight.detach().clone() for layer in (model[0], model[2]))
    size = theta.numel()
    count = int((1 - sparsity) * size + 1e-9)  # 38 of 192 at sparsity 0.8
    momenta, losses = [torch.zeros_like(theta), torch.zeros_like(last)], []

    def masks():
        order = theta.abs().flatten().argsort(descending=True, stable=True)
        chosen = torch.zeros(2, size, dtype=torch.bool)
        chosen[0, order[:count]] = chosen[1, order[: 2 * count]] = True
        return chosen.view(2, *theta.shape)

    forward, backward = masks()
    for step, (inputs, labels) in enumerate(batches(steps), start=1):
        weights = [(theta * forward).requires_grad_(), last.clone().requires_grad_()]
        loss = nn.functional.cross_entropy(torch.relu(inputs @ weights[0].T) @ weights[1].T, labels)
        loss.backward()
        losses.append(loss.item())
        gradients = [weights[0].grad * backward, weights[1].grad]
        momenta = [0.9 * old + new for old, new in zip(momenta, gradients, strict=True)]
        theta, last = theta - 0.1 * momenta[0], last - 0.1 * momenta[1]
        pull = 0.01 * forward.double() + 0.01 * size / count * (backward & ~forward).double()
        theta = theta * (1 - 0.1 * pull)
        if step % 3 == 0:
            forward, backward = masks()
            momenta[0] = momenta[0] * backward
    return losses


def trained(storage, steps, *, until=None, sparsity=0.8):
    """The losses of a sparsified network; until a step in one training, then in another that goes on from its state."""
    strategy = TopKast(penalty=0.01, schedule=Every(steps=3))

    def start():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        given = {"strategy": strategy, "sparsity": sparsity, "total_steps": 100, "storage": storage}
        return model, optimizer, sparsify(model, optimizer, exclude=["2.*"], **given)

    model, optimizer, training = start()
    losses = []
    for step, (inputs, labels) in enumerate(batches(steps)):
        if step == until:
            saved = [copy.deepcopy(one.state_dict()) for one in (model, optimizer, training)]
            model, optimizer, training = start()
            for one, state in zip((training, model, optimizer), (saved[2], *saved[:2]), strict=True):
                one.load_state_dict(state)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model, training


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_sparsified_network_trains_as_the_definition_says(storage):
    losses, model, training = trained(storage, 12)
    np.testing.assert_allclose(losses, losses_by_definition(network(), 12), rtol=1e-12)
    assert torch.count_nonzero(training.values()) == training.topology.size == 76
    # of 192 positions the network computes with 38 and trains 76; the other tensor is dense
    counted, others = training.flops(torch.zeros(1, 12, dtype=torch.float64)), 2 * 16 * 4
    assert counted.inference == 2 * 38 + others
    assert counted.training == 12 * (2 * (38 + 38 + 76) + 3 * others)
    metrics, summary = training.metrics(), str(training.summary())
    assert (metrics["sparsity"], metrics["silent"]) == (training.sparsity, 38.0) == (1 - 76 / 192, 38.0)
    assert metrics["used_sparsity"] == 1 - 38 / 192
    for words in (
        "sparsity 0.6042",
        "0 of 76 active weights are exactly zero",
        "38 of 76 active weights are silent",
        "0.8021",
    ):
        assert words in summary
    training.squash()
    assert torch.count_nonzero(model[0].weight) == 38


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_where_all_weights_are_trained_the_network_still_computes_with_the_largest_of_them(storage):
    losses, model, training = trained(storage, 12, sparsity=0.5)
    np.testing.assert_allclose(losses, losses_by_definition(network(), 12, sparsity=0.5), rtol=1e-12)
    assert (training.topology.size, training.updates, int(torch.count_nonzero(model[0].weight))) == (192, 4, 96)


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_a_state_dict_has_the_silent_weights_and_training_goes_on_bit_for_bit(storage):
    through, *_ = trained(storage, 9)
    resumed, _, training = trained(storage, 9, until=4)
    assert resumed == through
    saved = training.state_dict()
    with pytest.raises(InputError, match="has no values of silent weights; expected 'silent', 76 numbers"):
        training.load_state_dict({name: entry for name, entry in saved.items() if name != "silent"})
    with pytest.raises(InputError, match="a silent weight that is not finite"):
        training.load_state_dict({**saved, "silent": saved["silent"] * float("nan")})


def test_silent_weights_stay_silent_in_the_closure_of_a_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = sparsify(model, optimizer, strategy="topkast", sparsity=0.8, exclude=["2.*"], total_steps=100)
    inputs, labels = next(batches(1))
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append(int(torch.count_nonzero(model[0].weight)))
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    before = training.values().clone()
    optimizer.step(closure)
    assert seen == [38]
    assert torch.count_nonzero(model[0].weight) == 38
    assert torch.count_nonzero(training.values() != before) == 76


@pytest.mark.parametrize("storage", ["masked", "compact"])
def test_exported_matrices_have_the_weights_that_the_model_computes_with(storage):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = sparsify(model, optimizer, strategy="topkast", sparsity=0.8, exclude=["2.*"], storage=storage)
    matrix = export.to_csr(training)["0.weight"]
    assert torch.equal(matrix.to_dense(), model[0].weight)
    assert len(matrix.values()) == torch.count_nonzero(training.values()) == 76
    assert torch.count_nonzero(training.values(silent=False)) == 38


@pytest.mark.parametrize("backend", ["numpy", "torch", "cpu", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_run_evaluates_with_the_visible_weights_and_its_checkpoint_has_the_others_apart(tmp_path, backend):
    if backend == "cpu":
        pytest.importorskip("sparsecore_cpu._kernels")
    options = ["--strategy", "topkast", "--model", "lenet-8-6", "--sparsity", "0.9", "--epochs", "2"]
    options += ["--backend", backend, "--set", "data.limit=200", "--set", "strategy.schedule.steps=1"]
    result = train(*options, "--out", str(tmp_path / "run"))
    arrays = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors").arrays
    values, silent = arrays["learner/values"], arrays["learner/silent"]
    assert not np.any((values != 0) & (silent != 0))
    forward = sum(max(1, size // 10) for size in (8 * 64, 6 * 8, 10 * 6))
    assert np.count_nonzero(values) == forward
    assert len(values) == 2 * forward
    assert result["flops"]["inference"] == 2 * forward
    # forward, the gradients of inputs, and those of all that is trained
    assert result["flops"]["training"] == result["steps"] * 100 * 2 * (forward + forward + 2 * forward)
    if backend == "numpy":
        source = ["--set", f"start.run={tmp_path / 'run'}", "--set", "start.values=trained"]
        begun = sparsecore("train", "--strategy", "static", *options[2:-2], *source, "--out", str(tmp_path / "next"))
        assert f"computed without {np.count_nonzero(silent)} of the weights that this run" in begun.stderr


class Offering:
    """A learner of two weights with all that learners may offer beyond what each must."""

    values = np.array([1.0, 2.0])

    def set_values(self, values):
        self.values = values

    def momentum(self, name):
        return f"momentum of {name}"

    def measure_inputs(self):
        return "norms"

    def backward_at(self, batch, candidates):
        return batch, candidates, self.values.tolist()


def test_strategies_get_all_that_the_learner_behind_the_view_offers_and_the_network_hides_silent_weights():
    visible = VisibleWeights(np.array([True, False]), np.array([1]))
    view = ViewedLearner(Offering(), NumpyArrays(), lambda: visible)
    assert view.momentum("w") == "momentum of w"
    assert view.measure_inputs() == "norms"
    assert view.backward_at("batch", "candidates") == ("batch", "candidates", [1.0, 0.0])
    assert view.values.tolist() == [1.0, 2.0]
    plain = ViewedLearner(SimpleNamespace(set_values=None), NumpyArrays(), lambda: visible)
    assert (plain.momentum, plain.measure_inputs, plain.backward_at) == (None, None, None)


def test_a_saved_weight_has_either_a_silent_value_or_one_that_the_network_computes_with():
    visible = VisibleWeights(np.array([True, False]), np.array([1]))
    inner = SimpleNamespace(values=np.array([1.0, 0.0]), load_state=lambda *_: None)
    inner.set_values = lambda values: setattr(inner, "values", values)
    view = ViewedLearner(inner, NumpyArrays(), lambda: visible)
    with pytest.raises(InputError, match="a value in silent and another one"):
        view.load_state(SimpleNamespace(size=2), {"silent": np.array([3.0, 2.0])})
    view.load_state(SimpleNamespace(size=2), {"silent": np.array([0.0, 2.0])})
    assert view.values.tolist() == [1.0, 2.0]
