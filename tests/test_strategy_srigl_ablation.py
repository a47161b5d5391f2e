"""SRigL ablates the neurons that the authors' code ablates, and the others share the weights."""

import math

import attrs
import numpy as np
import pytest
from dense_oracles import drawn, floored, gathered, masks_of
from engine_examples import ARRAYS, engine, topology
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore_strategies.srigl import StructuredRigL

LAYOUT = Layout.of({"kernels": (8, 3, 2, 2), "matrix": (12, 20), "row": (1, 12)})
EVERY_STEP = StructuredRigL(schedule=Every(steps=1))


def all_arrays():
    torch = pytest.importorskip("torch")
    from sparsecore_torch.arrays import TorchArrays

    return {"numpy": ARRAYS, "torch": TorchArrays(torch.device("cpu"))}


def ablated_neurons(mask, weights, gradient, fraction, gamma):
    """Which neurons the authors' code ablates; written after reading calgaryml/condensed-sparsity.

    All arrays have a row a neuron. The saliency of a position is decided over the whole tensor; the number that is
    asked of a neuron is a share of the fan-in without ablation, and is lowered until as many neurons are left as can
    hold all weights.
    """
    active = int(mask.sum())
    dropped = floored(fraction, active)
    salient = np.zeros(mask.size, bool)
    salient[np.argsort(-np.abs(np.where(mask, weights, 0)).ravel(), kind="stable")[: active - dropped]] = True
    salient[np.argsort(-np.abs(gradient).ravel(), kind="stable")[:dropped]] = True
    counts = salient.reshape(mask.shape).sum(axis=1)
    asked = max(1, int(round(gamma * (active // len(mask)), 9)))
    fewest = active // mask.shape[1]
    asked = min(asked, sorted(counts, reverse=True)[fewest])
    return counts < asked


def updated(mask, weights, gradient, shape, fraction, gamma, *, regrow):
    """An update spelled out neuron by neuron, all weights kept in number."""
    neurons, size = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
    rows = [one.reshape(neurons, size) for one in (mask, weights, gradient)]
    mask, weights, gradient = rows
    total = int(mask.sum())
    gone = ablated_neurons(*rows, fraction, gamma) if total < mask.size else np.zeros(neurons, bool)
    left = np.flatnonzero(~gone)
    fan_ins = np.zeros(neurons, int)
    for number in range(total):
        fan_ins[left[number % len(left)]] += 1
    kept, dropped = mask.copy(), floored(fraction, total)
    kept[gone] = False
    rest = dropped - int(mask[gone].sum())
    lost = np.zeros(neurons, int)
    for place in sorted(zip(*np.nonzero(kept), strict=True), key=lambda place: abs(weights[place])):
        if rest > 0 and (regrow == "keep" or lost[place[0]] < size - fan_ins[place[0]]):
            kept[place], rest = False, rest - 1
            lost[place[0]] += 1
    for neuron in left:
        own = sorted(np.flatnonzero(mask[neuron]), key=lambda place: abs(weights[neuron, place]))
        kept[neuron, own[: max(0, mask[neuron].sum() - fan_ins[neuron])]] = False
    taken = kept | mask if regrow is False else kept
    after = kept.copy()
    for neuron in left:
        free = sorted(np.flatnonzero(~taken[neuron]), key=lambda place: -abs(gradient[neuron, place]))
        after[neuron, free[: fan_ins[neuron] - kept[neuron].sum()]] = True
    return after.ravel(), gone


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 0.97]),
    fraction=st.sampled_from([0.0, 0.3, 0.8]),
    gamma=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    regrow=st.sampled_from([False, True, "keep"]),
)
def test_neurons_are_ablated_as_in_the_authors_code_and_the_others_share_their_weights(
    seed, sparsity, fraction, gamma, regrow
):
    strategy = attrs.evolve(EVERY_STEP, drop_fraction=fraction, ablate=gamma)
    for arrays in all_arrays().values():
        algorithm = Engine(LAYOUT, {"srigl": strategy}, arrays=arrays, seed=seed, regrow_pruned=regrow)
        state = algorithm.start(sparsity)
        for update in range(4):
            weights, gradient = (drawn(LAYOUT, [seed, update, which]) for which in (0, 1))
            for row in range(update % 3, 8, 3):  # neurons that lose, others in each update
                weights["kernels"][row * 12 : row * 12 + 12] *= 1e-3
                gradient["kernels"][row * 12 : row * 12 + 12] *= 1e-3
            there = {name: arrays.from_numpy(dense) for name, dense in gradient.items()}
            before = state.topology
            state, _ = algorithm.update(state, arrays.from_numpy(gathered(before, weights)), there.__getitem__)
            masks, now = masks_of(before), masks_of(state.topology)
            for name, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True):
                expected, gone = updated(
                    masks[name], weights[name], gradient[name], shape, fraction, gamma, regrow=regrow
                )
                assert now[name].sum() == masks[name].sum()
                if expected.sum() < masks[name].sum():
                    continue  # nothing survived, and the engine has kept the largest weight
                assert now[name].tolist() == expected.tolist(), (name, update)
                counts = now[name].reshape(len(gone), -1).sum(axis=1)
                assert not counts[gone].any()
                assert np.ptp(counts[~gone]) <= 1


def test_an_ablated_neuron_comes_back_when_its_gradients_are_large():
    layout = Layout.of({"w": (4, 8)})
    algorithm = engine(layout, [attrs.evolve(EVERY_STEP, drop_fraction=0.5, ablate=1.0)])
    state = algorithm.start_at(topology(layout, [0, 1, 8, 9, 16, 17, 24, 25]))
    values = np.array([0.1, 0.2, 5.0, 6.0, 7.0, 8.0, 0.3, 0.4])
    gradient = np.linspace(0.1, 1, 32) * (np.arange(32) // 8 % 3 != 0)
    state, got = algorithm.update(state, values, lambda _: gradient)
    assert state.topology.mask("w").sum(axis=1).tolist() == [0, 4, 4, 0]
    gradient = np.where(np.arange(32) < 8, 9.0, 0.0)
    state, _ = algorithm.update(state, np.array(got.values) + 1.0, lambda _: gradient)
    assert state.topology.mask("w").sum(axis=1)[0] > 0


def test_tensors_that_are_named_keep_all_neurons():
    layout = Layout.of({"body": (4, 8), "fc.weight": (4, 8)})
    weights = drawn(layout)
    for name in layout.names:
        weights[name][:8] *= 1e-6
    gradient = {name: np.where(np.arange(32) < 8, 1e-9, dense) for name, dense in drawn(layout, 1).items()}
    strategy = attrs.evolve(EVERY_STEP, start="uniform", drop_fraction=0.3, ablate=1.0, intact="fc.*")
    algorithm = engine(layout, [strategy])
    state = algorithm.start(0.5)
    after, _ = algorithm.update(state, gathered(state.topology, weights), gradient.__getitem__)
    assert after.topology.mask("body").sum(axis=1)[0] == 0
    assert after.topology.mask("fc.weight").sum(axis=1).tolist() == [4, 4, 4, 4]


def test_ablation_is_of_whole_neurons():
    with pytest.raises(InputError, match="group = 4"):
        StructuredRigL(group=4, ablate=0.3)
