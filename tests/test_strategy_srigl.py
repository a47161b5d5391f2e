"""SRigL follows the paper: the same number of weights in each group, dropped over the tensor, grown in groups."""

import itertools
import math

import attrs
import numpy as np
import pytest
from command_line import said, sparsecore, train
from dense_oracles import drawn, floored, gathered, masks_of, same
from engine_examples import ARRAYS, engine, topology
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecore import hookimpl
from sparsecore.engine.arrays import Arrays
from sparsecore.engine.declarations import Declares
from sparsecore.engine.distributions import erdos_renyi_kernel
from sparsecore.engine.engine import Engine
from sparsecore.engine.growth import random_topology
from sparsecore.engine.schedules import Clock, Cosine, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore.run.folder import RunFolder
from sparsecore.run.replay import replay
from sparsecore.testing import StrategyTests, hyperparameters
from sparsecore.testing.search import Status, check_promise
from sparsecore.testing.strategy_promises import STRATEGY_PROMISES
from sparsecore.testing.subjects import StrategySubject
from sparsecore_strategies.magnitude_drop import MagnitudeDrop
from sparsecore_strategies.srigl import StructuredRigL

pytestmark = pytest.mark.usefixtures("quick_runs")

EVERY_STEP = StructuredRigL(schedule=Every(steps=1))
LAYOUT = Layout.of({"kernels": (4, 3, 2, 2), "matrix": (5, 12), "vector": (24,), "row": (1, 12), "full": (2, 12)})
DIVISORS = (None, 1, 2, 3, 4, 6, 12)
"""What divides every fan-in of the layout."""


def backends() -> dict[str, Arrays]:
    torch = pytest.importorskip("torch")
    from sparsecore_torch.arrays import TorchArrays

    return {"numpy": ARRAYS, "torch": TorchArrays(torch.device("cpu"))}


def cut(dense, shape, group):
    """The entries of each group, output by output."""
    fan = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
    outputs = [dense[first : first + fan] for first in range(0, len(dense), fan)]
    size = group or fan
    return [output[first : first + size] for output in outputs for first in range(0, fan, size)]


def held(topology, group):
    """How many weights each group of each tensor has."""
    masks, shapes = masks_of(topology), dict(zip(topology.layout.names, topology.layout.shapes, strict=True))
    return {name: [int(part.sum()) for part in cut(mask, shapes[name], group)] for name, mask in masks.items()}


def assert_even(topology, group):
    for name, numbers in held(topology, group).items():
        assert len(set(numbers)) == 1, (name, numbers)


def structured_update(mask, weights, gradient, shape, group, fraction, *, regrow):
    """An update spelled out: dropped one after another by |w|, grown group after group."""
    places = cut(np.arange(len(mask)), shape, group)
    group_of = {place: number for number, part in enumerate(places) for place in part.tolist()}
    room = [len(part) if regrow == "keep" else int((~mask[part]).sum()) for part in places]
    lost, kept = [0] * len(places), mask.copy()
    for place in sorted(np.flatnonzero(mask).tolist(), key=lambda place: abs(weights[place])):
        number = group_of[place]
        if sum(lost) < floored(fraction, mask.sum()) and lost[number] < room[number]:
            lost[number] += 1
            kept[place] = False
    after, taken = kept.copy(), kept if regrow else mask
    for part, missing in zip(places, lost, strict=True):
        free = [place for place in part.tolist() if not taken[place]]
        after[sorted(free, key=lambda place: -abs(gradient[place]))[:missing]] = True
    return after


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    group=st.sampled_from(DIVISORS),
    start=st.sampled_from(["erk", "er", "uniform"]),
    sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9, 0.99]),
    fraction=st.sampled_from([0.0, 0.3, 0.5, 0.95]),
    regrow=st.sampled_from([False, True, "keep"]),
    tied=st.booleans(),
)
def test_every_group_keeps_its_number_of_weights_and_all_backends_agree_with_the_oracle(
    seed, group, start, sparsity, fraction, regrow, tied
):
    strategy = attrs.evolve(EVERY_STEP, group=group, start=start, drop_fraction=fraction)
    for arrays in backends().values():
        algorithm = Engine(LAYOUT, {"srigl": strategy}, arrays=arrays, seed=seed, regrow_pruned=regrow)
        state = algorithm.start(sparsity)
        first = held(state.topology, group)
        assert_even(state.topology, group)
        for update in range(3):
            weights, gradient = (drawn(LAYOUT, [seed, update, which]) for which in (0, 1))
            if tied:
                weights, gradient = ({n: np.round(v) for n, v in each.items()} for each in (weights, gradient))
            there = {name: arrays.from_numpy(dense) for name, dense in gradient.items()}
            values = arrays.from_numpy(gathered(state.topology, weights))
            after, _ = algorithm.update(state, values, there.__getitem__)
            for name, mask in masks_of(state.topology).items():
                shape = LAYOUT.shapes[LAYOUT.index(name)]
                expected = structured_update(mask, weights[name], gradient[name], shape, group, fraction, regrow=regrow)
                assert same(after.topology, {name: expected}), name
            assert held(after.topology, group) == first
            # as a checkpoint has it
            saved = arrays.from_numpy(arrays.to_numpy(after.topology.positions).copy())
            state = algorithm.start_at(after.topology.at(saved), clock=after.clock)


def test_n_is_the_start_count_of_a_tensor_divided_among_its_groups_and_at_least_one():
    layout = Layout.of({"wide": (10, 64), "kernels": (8, 16, 3, 3)})
    for strategy, expected in [
        (StructuredRigL(group=4, start="uniform"), [1, 1]),  # ⌊0.25·4⌋
        (StructuredRigL(group=16, start="uniform"), [4, 4]),
        (StructuredRigL(start="uniform"), [16, 36]),
    ]:
        numbers = held(engine(layout, [strategy]).start(0.75).topology, strategy.group)
        assert [set(of_each) for of_each in numbers.values()] == [{each} for each in expected]
    numbers = held(engine(layout, [StructuredRigL(group=16, start="uniform")]).start(0.99).topology, 16)
    assert {number for of_each in numbers.values() for number in of_each} == {1}
    wide, kernels = erdos_renyi_kernel(layout, 0.75).tolist()
    numbers = held(engine(layout, [StructuredRigL()]).start(0.75).topology, None)
    assert numbers == {"wide": [wide // 10] * 10, "kernels": [kernels // 8] * 8}


def test_every_subset_of_a_group_is_equally_likely_and_tensors_draw_by_name():
    layout, strategy = Layout.of({"a": (300, 4), "b": (300, 4)}), StructuredRigL(start="uniform")
    masks = masks_of(engine(layout, [strategy], seed=1).start(0.5).topology)
    subsets = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for mask in masks.values():
        for part in cut(mask, (300, 4), None):
            subsets[tuple(np.flatnonzero(part).tolist())] += 1
    # 600 draws of six: 100 of each within more than four deviations of 9.1
    assert all(60 < number < 140 for number in subsets.values()), subsets
    assert masks["a"].tolist() != masks["b"].tolist()
    turned = masks_of(engine(Layout.of({"b": (300, 4), "a": (300, 4)}), [strategy], seed=1).start(0.5).topology)
    assert all(turned[name].tolist() == mask.tolist() for name, mask in masks.items())
    assert masks_of(engine(layout, [strategy], seed=2).start(0.5).topology)["a"].tolist() != masks["a"].tolist()


def moved(shape, active, weights, gradient, **options):
    """Where the weights are after an update that drops half of them."""
    layout = Layout.of({"w": shape})
    regrow, group = options.pop("regrow", False), options.pop("group", None)
    strategy = attrs.evolve(EVERY_STEP, drop_fraction=0.5, group=group)
    algorithm = engine(layout, [strategy], regrow_pruned=regrow)
    dense = np.zeros(layout.size)
    dense[list(gradient)] = list(gradient.values())
    after, _ = algorithm.update(algorithm.start_at(topology(layout, active)), np.array(weights), lambda _: dense)
    return after.topology.positions.tolist()


def test_growth_fills_each_group_however_much_larger_the_gradient_is_elsewhere():
    # RigL would grow both at 6 and 7, in the second output, and the fan-ins drift apart
    assert moved((2, 4), [0, 1, 4, 5], [0.1, 5.0, 0.2, 5.0], {2: 1.0, 3: 2.0, 6: 90.0, 7: 80.0}) == [1, 3, 5, 6]


def test_the_smallest_weights_of_the_tensor_are_dropped_regardless_of_group():
    assert moved((2, 4), [0, 1, 4, 5], [0.1, 0.2, 3.0, 5.0], {2: 1.0, 3: 2.0, 6: 90.0}) == [2, 3, 4, 5]


def test_groups_contain_the_weights_into_an_output_and_not_those_from_an_input():
    # 3 outputs with 2 inputs each; by columns, position 4 would be one of what replaces 0
    assert moved((3, 2), [0, 2, 4], [0.1, 3.0, 5.0], {1: 1.0, 3: 90.0, 5: 80.0}) == [1, 2, 4]


def test_no_group_reaches_from_one_output_into_the_next():
    layout = Layout.of({"fine": (2, 8), "odd": (4, 6), "kernels": (4, 2, 3, 3)})
    with pytest.raises(InputError, match=r"groups of 4 do not divide the fan-in of 'odd', 6; .* every sparse .*: 1, 2"):
        engine(layout, [StructuredRigL(group=4)]).start(0.5)  # 4·6 positions are whole groups of 4, a row is not
    assert_even(engine(layout, [StructuredRigL(group=2)]).start(0.5).topology, 2)


@pytest.mark.parametrize(("regrow", "expected"), [(False, [1, 3, 5, 7]), (True, [0, 1, 4, 5]), ("keep", [0, 1, 4, 5])])
def test_dropped_positions_regrow_at_once_only_with_regrow_pruned(regrow, expected):
    gradient = {0: 9.0, 3: 2.0, 4: 9.0, 7: 2.0}
    assert moved((2, 4), [0, 1, 4, 5], [0.1, 5.0, 0.2, 5.0], gradient, regrow=regrow) == expected


def test_a_group_drops_at_most_what_it_can_regrow_and_other_groups_drop_the_rest():
    # groups of 4 with 3 weights: three of six are to go, there is room for one in each
    gradient = {3: 1.0, 7: 2.0}
    assert moved((2, 4), [0, 1, 2, 4, 5, 6], [0.1, 0.2, 0.3, 7.0, 8.0, 9.0], gradient) == [1, 2, 3, 5, 6, 7]
    # where groups differ, as a given topology has them: one place in the first, three in the second
    active, weights = [0, 1, 2, 4], [0.1, 0.2, 0.3, 9.0]
    assert moved((2, 4), active, weights, {3: 1.0, 6: 5.0, 7: 2.0}) == [1, 2, 3, 6]


def test_group_sizes_hold_when_a_strategy_above_drops_regardless_of_groups():
    layout = Layout.of({"w": (2, 4)})
    algorithm = engine(layout, {"srigl": EVERY_STEP, "drop": MagnitudeDrop(drop_fraction=0.5)}, regrow_pruned=False)
    state = algorithm.start_at(topology(layout, [0, 1, 2, 4]))
    dense = np.array([0, 0, 0, 1.0, 0, 3.0, 5.0, 4.0])
    after, got = algorithm.update(state, np.array([0.1, 0.2, 3.0, 4.0]), lambda _: dense)
    # two were lost where there is room for one; the other comes at the largest gradient of the tensor
    assert (got.pruned_count, after.topology.positions.tolist()) == (2, [2, 3, 4, 6])


def test_an_update_replaces_its_step_and_only_then_requests_dense_gradients():
    algorithm = engine(LAYOUT, {"srigl": StructuredRigL(schedule=Every(steps=10, until=0.75))})
    state, seen = algorithm.start(0.5, clock=Clock(total_steps=40)), []
    values = gathered(state.topology, drawn(LAYOUT))
    for step in range(1, 41):
        plan = algorithm.plan(state)
        asked = (plan.replaces_step, plan.wants_gradient)
        advance = algorithm.advance(state, values, 0.1, drawn(LAYOUT, step).__getitem__)
        state, values = advance.state, advance.values
        seen += [(step, *asked)] if any(asked) or advance.reallocation else []
    assert seen == [(10, True, True), (20, True, True)]


def test_the_fraction_falls_along_half_a_cosine():
    layout = Layout.of({"w": (40, 100)})
    for step in (100, 400, 700):
        algorithm = engine(layout, [StructuredRigL()], regrow_pruned=False)
        state = algorithm.start(0.8, clock=Clock(step=step, total_steps=1000))
        _, got = algorithm.update(state, gathered(state.topology, drawn(layout)), drawn(layout, 1).__getitem__)
        assert got.pruned_count == math.floor(0.3 / 2 * (1 + math.cos(math.pi * step / 750)) * 800)


def test_the_defaults_are_the_papers():
    default = StructuredRigL()
    assert (default.group, default.start) == (None, "erk")
    assert (default.drop_fraction, default.schedule) == (Cosine(0.3, 0.0, until=0.75), Every(steps=100, until=0.75))


@pytest.mark.parametrize(
    "arguments", [{"group": 0}, {"group": -4}, {"drop_fraction": 1.0}, {"drop_fraction": -0.1}, {"start": "dense"}]
)
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|no start distribution named 'dense'"):
        StructuredRigL(**arguments)


@attrs.frozen(eq=False)
class Uneven:
    """Promises a start of whole rows' worth of weights, and has any number."""

    declares = Declares(start_multiples=lambda layout: np.array([shape[0] for shape in layout.shapes]))

    @hookimpl
    def initial_topology(self, layout, random, arrays):
        return random_topology(layout, [max(1, size // 2) for size in layout.sizes], random, arrays)


class TestStructuredRigL(StrategyTests):
    strategy = hyperparameters(StructuredRigL)
    max_examples = 5


def test_the_test_kit_checks_that_start_counts_are_declared_multiples():
    (start,) = (promise for promise in STRATEGY_PROMISES if promise.name == "start")
    result = check_promise(start, StrategySubject.of(Uneven()), examples=100)
    assert (result.status, "multiples of" in result.reason) == (Status.BROKEN, True)
    assert check_promise(start, StrategySubject.of(StructuredRigL()), examples=40).status is Status.KEPT


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_run_keeps_the_number_of_weights_in_each_group_throughout(backend, tmp_path):
    if backend == "torch":
        pytest.importorskip("torch")
    few = ("--set", "strategy.group=8", "--set", "strategy.schedule={steps = 3, until = 0.9}")
    model = ("--model", "lenet-32-16", "--data", "digits", "--epochs", "1", "--sparsity", "0.75")
    result = train(*model, "--backend", backend, "--strategy", "srigl", *few, "--out", "run", cwd=tmp_path)
    topologies = list(replay(RunFolder(tmp_path / "run")))
    assert len(topologies) - 1 == result["reallocations"] > 2
    assert topologies[0].positions.tolist() != topologies[-1].positions.tolist()
    assert topologies[-1].sha256() == result["topology_sha256"]
    for each in topologies:
        assert_even(each, 8)


def test_the_command_line_refuses_groups_that_do_not_fit_with_a_sentence(tmp_path):
    wrong = ("--strategy", "srigl", "--set", "strategy.group=7", "--out", "run")
    sentence = said(sparsecore("train", "--model", "lenet-32-16", "--data", "digits", *wrong, cwd=tmp_path))
    assert "groups of 7 do not divide the fan-in of 'layer1.weight', 64" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::sparsecore.errors.SparsityWarning")
@pytest.mark.parametrize(("network", "shape"), [("mlp", (6,)), ("convnet", (2, 8, 8))])
def test_sparsify_keeps_the_fan_in_of_ones_own_model(network, shape):
    pytest.importorskip("torch")
    import sparsify_examples

    from sparsecore_torch import sparsify

    model = getattr(sparsify_examples, network)()
    optimizer = sparsify_examples.sgd(model)
    strategy = StructuredRigL(group=2, schedule=Every(steps=2))
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.5, total_steps=20)
    before = training.topology
    sparsify_examples.train(model, optimizer, range(8), shape=shape)
    assert training.updates == 4
    assert training.topology.positions.tolist() != before.positions.tolist()
    for each in (before, training.topology):
        assert_even(each, 2)
