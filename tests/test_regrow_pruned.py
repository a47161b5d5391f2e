"""Weights that are pruned and grow again in one update, with ``regrow_pruned="keep"`` and without."""

import math

import numpy as np
import pytest
from dense_oracles import drawn, floored, gathered
from engine_examples import ARRAYS, active, engine, plugin, topologies, topology, values_of
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.engine.units import Kernels
from sparsecore.errors import InputError, NoRoomError
from sparsecore.experiment.assembly import assemble
from sparsecore.experiment.experiment import Experiment
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.granet import GradualRegeneration
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.snfs import SparseMomentum
from sparsecore_strategies.srigl import StructuredRigL


class Official:
    """Dense weights, masks and momentum of several tensors, as the authors' codes of RigL and GraNet treat them.

    Written after reading google-research/rigl and VITA-Group/GraNet. Inactive weights and their momentum are zeroed
    after each step and update, so that what is dropped and grown again within one keeps both.
    """

    def __init__(self, masks, weights):
        self.masks = {name: mask.copy() for name, mask in masks.items()}
        self.weights = {name: np.where(mask, weights[name], 0.0) for name, mask in masks.items()}
        self.momentum = {name: np.zeros(mask.size) for name, mask in masks.items()}

    def zero_inactive(self):
        for name, mask in self.masks.items():
            self.weights[name] = np.where(mask, self.weights[name], 0.0)
            self.momentum[name] = np.where(mask, self.momentum[name], 0.0)

    def step(self, gradient, rate=0.1, decay=0.9):
        for name in self.masks:
            self.momentum[name] = decay * self.momentum[name] + gradient[name]
            self.weights[name] = self.weights[name] - rate * self.momentum[name]
        self.zero_inactive()

    def prune_network(self, count):
        """GraNet's pruning; the authors' comparison with the last weight that stays leaves one fewer."""
        magnitudes = np.concatenate([np.abs(weights) for weights in self.weights.values()])
        last = np.sort(magnitudes)[::-1][count - 1]
        self.masks = {name: np.abs(weights) >= last for name, weights in self.weights.items()}
        self.zero_inactive()

    def drop_and_grow(self, dropped, gradient):
        for name, mask in self.masks.items():
            count = dropped(mask.sum())
            threshold = np.sort(np.abs(self.weights[name]))[(~mask).sum() + count - 1] if count else -1.0
            kept = (np.abs(self.weights[name]) > threshold) & mask
            candidates = np.abs(gradient[name]) * ~kept
            grown = np.argsort(candidates)[::-1][: mask.sum() - kept.sum()]
            self.masks[name] = kept.copy()
            self.masks[name][grown] = True
        self.zero_inactive()


def compared(strategy, layout, updates, *, sparsity, clock, every, official_update):
    """Train by momentum SGD beside the official code, compare all after each update, and return what was pruned."""
    algorithm = engine(layout, {"it": strategy}, seed=3)
    state = algorithm.start(sparsity, clock=clock)
    first = drawn(layout, 0, np.float64)
    masks = {name: state.topology.mask(name).ravel() for name in layout.names}
    official, values, momentum = Official(masks, first), gathered(state.topology, first), np.zeros(state.topology.size)
    pruned, done, step = 0, 0, clock.step
    while done < updates:
        step += 1
        gradient = drawn(layout, 1000 + step, np.float64)
        replaces = algorithm.plan(state).replaces_step
        if not replaces:
            official.step(gradient)
            momentum = 0.9 * momentum + gathered(state.topology, gradient)
            values = values - 0.1 * momentum
        advance = algorithm.advance(state, values, 0.1, gradient.__getitem__)
        state, values, moved = advance.state, advance.values, advance.reallocation
        assert (moved is not None) == (step % every == 0)
        if moved is None:
            continue
        momentum = moved.carry(momentum)
        official_update(official, step, gradient)
        pruned, done = pruned + moved.pruned_count, done + 1
        for name, mask in official.masks.items():
            assert state.topology.mask(name).ravel().tolist() == mask.tolist(), (done, name)
            assert values[state.topology.slots(name)].tobytes() == official.weights[name][mask].tobytes()
            assert momentum[state.topology.slots(name)].tobytes() == official.momentum[name][mask].tobytes()
    return pruned


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_eleven_updates_of_granet_are_those_of_the_authors_code(initial):
    layout = Layout.of({"kernels": (10, 8, 5, 5), "matrix": (40, 30), "small": (20, 10)})
    strategy = GradualRegeneration(initial_sparsity=initial, start="uniform", schedule=Every(steps=5))
    total, end, final = 400, 275, 0.1  # the pruning ends at 110 of 160 epochs

    def update(official, step, gradient):
        density = final + (1 - initial - final) * (1 - step / end) ** 3
        official.prune_network(math.floor(layout.size * density + 1e-9))
        rate = 0.005 + (0.5 - 0.005) * (1 + math.cos(math.pi * step / total)) / 2
        official.drop_and_grow(lambda count: math.ceil(rate * count), gradient)

    compared(strategy, layout, 11, sparsity=0.9, clock=Clock(total_steps=total), every=5, official_update=update)


def test_updates_of_rigl_are_those_of_the_authors_code():
    layout = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "nearly full": (4, 3)})
    dropped = []

    def update(official, step, gradient):
        fraction = 0.3 / 2 * (1 + math.cos(math.pi * step / 750))
        counts = [floored(fraction, mask.sum()) for mask in official.masks.values()]
        official.drop_and_grow(lambda count: floored(fraction, count), gradient)
        dropped.append(sum(counts))

    moved = compared(
        RigL(schedule=Every(steps=10, until=0.75)),
        layout,
        11,
        sparsity=0.5,
        clock=Clock(total_steps=1000),
        every=10,
        official_update=update,
    )
    assert 0 < moved < sum(dropped)  # some grew again


@st.composite
def updates_by_chance(draw):
    """A topology, its values, and a strategy that prunes and grows at random, with little room."""
    before = draw(topologies())
    assume(before.size > 1)
    target = draw(st.integers(1, before.size - 1))
    return before, draw(values_of(before)), DynamicReallocation(target=target, initial_threshold=0.5)


def updated(moment, regrow_pruned, *above):
    before, values, strategy = moment
    stack = {"dpr": strategy, **{f"above{number}": one for number, one in enumerate(above)}}
    algorithm = engine(before.layout, stack, seed=5, regrow_pruned=regrow_pruned)
    try:
        return algorithm.update(algorithm.start_at(before), values)[1]
    except NoRoomError:
        assume(False)


@given(updates_by_chance(), st.sampled_from([np.float32, np.int8]))
def test_kept_weights_differ_from_regrown_ones_in_value_and_optimizer_state_alone_and_count_as_never_moved(
    moment, dtype
):
    asked = []
    started = plugin(
        initial_values=lambda grown, values: (
            asked.append(grown.positions.tolist()) or np.full(grown.size, 7, values.dtype)
        )
    )
    anew, kept = updated(moment, True), updated(moment, "keep", started)
    before, values = kept.before, moment[1]
    assert kept.after.positions.tolist() == anew.after.positions.tolist()
    back = set(anew.pruned_positions.tolist()) & set(anew.grown_positions.tolist())
    assert set(kept.pruned_positions.tolist()) == set(anew.pruned_positions.tolist()) - back
    assert set(kept.grown_positions.tolist()) == set(anew.grown_positions.tolist()) - back
    assert not set(kept.grown_positions.tolist()) & active(before)
    assert asked == [kept.grown_positions.tolist()] == [kept.grown_weights.positions.tolist()]
    assert kept.pruned.sum() == len(kept.pruned_positions)
    assert kept.grown.tolist() == kept.grown_weights.counts.tolist()
    state = np.arange(1, before.size + 1).astype(dtype)
    was = {p: (v.tobytes(), s) for p, v, s in zip(before.positions.tolist(), values, state, strict=True)}
    new = (np.full(1, 7, values.dtype)[0].tobytes(), dtype(0))
    for position, value, entry in zip(kept.after.positions.tolist(), kept.values, kept.carry(state), strict=True):
        assert (value.tobytes(), entry) == was.get(position, new)


def test_strategies_choose_which_weights_keep_their_value():
    before = topology(Layout.of({"w": (6,)}), [0, 1, 2, 3])
    values = np.array([0.1, 0.2, 5.0, 6.0])
    some = plugin(keep_regrown=lambda topology: topology.all_but(np.array([1])))
    everywhere = plugin(grow=lambda occupied: np.array([0, 1], occupied.positions.dtype))
    algorithm = engine(before.layout, {"rigl": RigL(drop_fraction=0.5), "some": some, "grow": everywhere})
    _, got = algorithm.update(algorithm.start_at(before), values, drawn(before.layout).__getitem__)
    assert got.after.positions.tolist() == [0, 1, 2, 3]
    assert got.values.tolist() == [0.1, 0.0, 5.0, 6.0]
    assert (got.pruned_positions.tolist(), got.grown_positions.tolist()) == ([1], [1])


@pytest.mark.parametrize("kind", [RigL, SparseMomentum, GradualRegeneration, StructuredRigL])
def test_the_strategies_whose_authors_keep_values_do_so_by_default_and_a_setting_overrides_them(kind):
    layout = Layout.of({"w": (8, 4)})
    assert engine(layout, [kind()]).regrow_pruned == "keep"
    assert engine(layout, [SparseEvolution(), kind()]).regrow_pruned == "keep"
    for given_setting in (False, True, "keep"):
        assert engine(layout, [kind()], regrow_pruned=given_setting).regrow_pruned == given_setting
    assert engine(layout, [SparseEvolution()]).regrow_pruned is False
    assert engine(layout, [SparseEvolution()], regrow_pruned="keep").regrow_pruned == "keep"


@pytest.mark.parametrize("wrong", ["kept", 1, "True"])
def test_other_settings_are_refused_in_a_sentence(wrong):
    with pytest.raises(InputError, match="regrow_pruned is False, True or 'keep'; given"):
        engine(Layout.of({"w": (8, 4)}), [RigL()], regrow_pruned=wrong)


def test_units_of_several_weights_are_kept_as_a_whole():
    layout = Layout.of({"w": (6, 6, 3, 3)})
    algorithm = engine(layout, [RigL(drop_fraction=0.5)], units=Kernels())
    state = algorithm.start(0.5)
    values = np.random.default_rng(0).standard_normal(state.topology.size)
    gradient = {"w": np.where(state.topology.mask("w").ravel(), 9.0, 1.0)}
    _, got = algorithm.update(state, values, gradient.__getitem__)
    # the gradient is largest where units were dropped
    assert got.pruned_count == 0
    assert got.values.tolist() == values.tolist()
    gradient = drawn(layout, 1)
    _, got = algorithm.update(state, values, gradient.__getitem__)
    assert 0 < got.pruned_count < 9 * 9
    assert got.pruned_count % 9 == 0
    was = dict(zip(state.topology.positions.tolist(), values.tolist(), strict=True))
    assert [was.get(position, 0.0) for position in got.after.positions.tolist()] == got.values.tolist()


TABLES = {"model": {"name": "lenet-32-16"}, "data": {"name": "digits"}, "backend": {"name": "numpy"}}


@pytest.mark.parametrize(
    ("strategy", "given_setting", "expected"),
    [
        ("rigl", {}, "keep"),
        ("set", {}, False),
        ("rigl", {"regrow_pruned": False}, False),
        ("set", {"regrow_pruned": "keep"}, "keep"),
        ("rigl", {"regrow_pruned": True}, True),
    ],
)
def test_an_experiment_says_what_applies_and_an_older_one_stays_what_it_was(strategy, given_setting, expected):
    tables = {**TABLES, "strategy": [{"name": strategy}], "reallocation": given_setting}
    experiment = Experiment.of(tables)
    assert experiment.reallocation.regrow_pruned == expected
    assert experiment.tables()["reallocation"]["regrow_pruned"] is expected
    assert Experiment.of(experiment.tables()).reallocation == experiment.reallocation
    assert experiment.engine(Layout.of({"w": (8, 4)}), ARRAYS).regrow_pruned == expected
    with pytest.raises(InputError, match=r"reallocation.regrow_pruned: true, false or 'keep' was expected, given 1"):
        Experiment.of({**tables, "reallocation": {"regrow_pruned": 1}})


def test_the_setting_of_the_command_line_is_the_experiments():
    settings = ["reallocation.regrow_pruned=keep", "model.name=lenet-32-16"]
    assert Experiment.of(assemble(None, {}, ["set"], settings)).reallocation.regrow_pruned == "keep"
    assert Experiment.of(assemble(None, {}, ["granet"], settings[1:])).reallocation.regrow_pruned == "keep"
    settings[0] = "reallocation.regrow_pruned=false"
    assert Experiment.of(assemble(None, {}, ["granet"], settings)).reallocation.regrow_pruned is False
