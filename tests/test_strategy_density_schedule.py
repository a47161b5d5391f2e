"""The density schedule: the number of weights follows it on top of any strategy, on every backend and storage."""

import copy
from fractions import Fraction

import numpy as np
import pytest
from dense_oracles import drawn, gathered
from engine_examples import active, engine, plugin, topologies, topology
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError, InvariantError
from sparsecore_strategies.density_schedule import DensitySchedule
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.gmp import GradualPruning
from sparsecore_strategies.gradient_growth import GradientGrowth
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.soft_deepr import SoftDeepRewiring
from sparsecore_strategies.static import Static

ROOMY = Layout.of({"kernels": (8, 8, 3, 3), "matrix": (30, 20), "small": (12, 4)})
OFTEN = Every(steps=2)
BELOW = {
    "set": SparseEvolution(schedule=OFTEN),
    "dpr": DynamicReallocation(target=20, initial_threshold=0.2, schedule=OFTEN),
    "rigl": RigL(schedule=OFTEN),
    "static": Static(),
}


def run(stack, *, sparsity=0.8, total=40, layout=ROOMY, regrow_pruned=False):
    """The number of weights after each step, and the last topology."""
    algorithm = engine(layout, stack, seed=1, regrow_pruned=regrow_pruned)
    state = algorithm.start(sparsity, clock=Clock(total_steps=total))
    sizes = [state.topology.size]
    for step in range(total):
        values = gathered(state.topology, drawn(layout, step))
        state = algorithm.advance(state, values, 0.1, drawn(layout, step + 100).__getitem__).state
        sizes.append(state.topology.size)
    return sizes, state.topology


def expected(first, last, step, power, total=40):
    """n = n_f + (n_i - n_f)·(1 - p)^power, rounded towards the end, as the paper's equation spells it."""
    begin, end = total // 4, 3 * total // 4
    left = Fraction(1) if step < begin else Fraction(max(0, end - step), end - begin)
    return last + int(left**power * (first - last))


@pytest.mark.parametrize("below", BELOW)
@pytest.mark.parametrize(("shape", "power"), [("cubic", 3), ("linear", 1)])
@pytest.mark.parametrize("sparsity", [0.95, 0.5, 0.0])
def test_every_update_leaves_as_many_weights_as_the_schedule_says(below, shape, power, sparsity):
    own = OFTEN if below == "static" else None
    sizes, _ = run({below: BELOW[below], "d": DensitySchedule(sparsity=sparsity, shape=shape, schedule=own)})
    last = sum(max(1, int(size * (1 - Fraction(str(sparsity))))) for size in ROOMY.sizes)
    assert sizes[-1] == last
    for step in range(2, 40, 2):
        assert sizes[step] == expected(sizes[0], last, step, power), step


@pytest.mark.parametrize("below", ["set", "dpr", "rigl", "static", "gmp"])
def test_a_dense_network_becomes_sparser_as_the_schedule_says(below):
    stack = BELOW | {"gmp": GradualPruning(begin=0.7, until=0.9, schedule=OFTEN)}
    own = OFTEN if below in {"static", "gmp"} else None
    sizes, _ = run(
        {below: stack[below], "d": DensitySchedule(sparsity=0.9, schedule=own)}, sparsity=0.8 if below == "gmp" else 0.0
    )
    last = sum(max(1, int(size * Fraction(1, 10))) for size in ROOMY.sizes)
    assert (sizes[0], sizes[-1]) == (ROOMY.size, last)
    for step in range(2, 40, 2):
        assert sizes[step] == expected(sizes[0], last, step, 3), step


def test_a_strategy_that_counts_itself_what_grows_is_refused_below_the_schedule():
    with pytest.raises(InputError, match="'d' cannot be stacked on 'soft'"):
        engine(ROOMY, {"soft": SoftDeepRewiring(), "d": DensitySchedule()})
    engine(ROOMY, {"d": DensitySchedule(), "soft": SoftDeepRewiring()})


def test_without_a_schedule_of_its_own_the_updates_are_those_below_and_the_last_one_is_at_the_end():
    below = SparseEvolution(schedule=Every(steps=7))
    sizes, _ = run({"set": below, "d": DensitySchedule(sparsity=0.95, shape="linear")})
    changed = [step for step in range(1, 41) if sizes[step] != sizes[step - 1]]
    assert changed == [14, 21, 28, 30]
    sizes, _ = run({"static": Static(), "d": DensitySchedule(sparsity=0.95)})
    assert [step for step in range(1, 41) if sizes[step] != sizes[step - 1]] == [30]


@pytest.mark.parametrize("scope", ["tensor", "network"])
def test_towards_sparser_the_smallest_of_what_is_kept_are_pruned(scope):
    schedule = DensitySchedule(sparsity=0.95, schedule=OFTEN, scope=scope)
    algorithm = engine(ROOMY, {"static": Static(), "d": schedule})
    state = algorithm.start(0.8, clock=Clock(step=30, total_steps=40))
    values = gathered(state.topology, drawn(ROOMY))
    _, moved = algorithm.update(state, values)
    assert moved.grown.sum() == 0
    kept, gone = abs(values)[moved.survives], abs(values)[~moved.survives]
    if scope == "network":
        largest = [abs(values)[state.topology.slots(name)].max() for name in ROOMY.names]  # these always stay
        assert gone.max() < np.setdiff1d(kept, largest).min()
        return
    shares = moved.pruned / state.topology.counts
    assert np.ptp(shares) < 0.15  # in proportion, as far as whole weights allow
    for name in ROOMY.names:
        slots = state.topology.slots(name)
        own = abs(values)[slots]
        assert own[~moved.survives[slots]].max() < own[moved.survives[slots]].min()


def test_towards_denser_weights_grow_where_the_stack_says():
    stack = {"static": Static(), "g": GradientGrowth(), "d": DensitySchedule(sparsity=0.5)}
    algorithm = engine(ROOMY, stack)
    state = algorithm.start(0.8, clock=Clock(step=30, total_steps=40))
    gradient = drawn(ROOMY, 7)
    _, moved = algorithm.update(state, gathered(state.topology, drawn(ROOMY)), gradient.__getitem__)
    assert moved.pruned_count == 0
    for name, offset, count in zip(ROOMY.names, ROOMY.offsets, moved.grown, strict=False):
        steepness = abs(gradient[name]).ravel().copy()
        steepness[state.topology.local(name)] = -1
        assert set(np.argsort(-steepness)[:count] + offset) <= active(moved.after)


@given(topologies(), st.floats(0, 0.99), st.sampled_from(["set", "rigl", "static", "half"]), st.booleans())
def test_any_density_is_reached_from_any_topology(start, sparsity, below, regrow):
    half = plugin(prune=lambda values: abs(values) >= np.median(abs(values)))
    stack = {"below": BELOW.get(below, half), "d": DensitySchedule(sparsity=sparsity)}
    algorithm = engine(start.layout, stack, regrow_pruned=regrow)
    state = algorithm.start_at(start, clock=Clock(step=30, total_steps=40))
    values = gathered(start, drawn(start.layout))
    after, _ = algorithm.update(state, values, drawn(start.layout, 1).__getitem__)
    exact = 1 - Fraction(str(sparsity))
    assert after.topology.size == sum(max(1, int(size * exact)) for size in start.layout.sizes)
    assert (after.topology.counts >= 1).all()


@pytest.mark.parametrize("shapes", [((1,), (9,)), ((1,), (1,), (1, 1, 3, 3), (1,)), ((1,), (2,), (2,), (1,))])
@pytest.mark.parametrize("sparsity", [0.0625, 0.5])
def test_the_last_weight_of_each_tensor_counts_in_what_the_schedule_keeps(shapes, sparsity):
    layout = Layout.of({f"tensor{index}": shape for index, shape in enumerate(shapes)})
    start = topology(layout, range(layout.size))
    values = np.arange(1.0, layout.size + 1)  # the first tensor has the smallest weight, which half of all lose
    below = plugin(prune=lambda values: abs(values) > np.median(abs(values)))
    algorithm = engine(layout, {"below": below, "d": DensitySchedule(sparsity=sparsity)})
    after, _ = algorithm.update(algorithm.start_at(start, clock=Clock(step=30, total_steps=40)), values)
    assert after.topology.size == sum(max(1, int(size * (1 - sparsity))) for size in layout.sizes)
    assert (after.topology.counts >= 1).all()


def test_frozen_tensors_stay_as_dense_as_they_are():
    for sparsity in (0.0, 0.95):
        algorithm = engine(ROOMY, {"set": BELOW["set"], "d": DensitySchedule(sparsity=sparsity)})
        state = algorithm.start(0.8, clock=Clock(step=30, total_steps=40))
        values = gathered(state.topology, drawn(ROOMY))
        after, _ = algorithm.update(state, values, frozen=["matrix"])
        assert after.topology.counts[1] == state.topology.counts[1]
        assert (after.topology.counts[0] > state.topology.counts[0]) == (sparsity == 0.0)


@pytest.mark.parametrize(
    "hyperparameters", [{"sparsity": 1.0}, {"shape": "square"}, {"begin": 0.8}, {"scope": "layer"}]
)
def test_hyperparameters_out_of_range_are_refused(hyperparameters):
    with pytest.raises(ValueError, match=r"must be|begin"):
        DensitySchedule(**hyperparameters)


def test_the_hook_that_revises_pruning_gets_what_was_decided_and_its_result_is_checked():
    seen = []

    def revise(topology, survives):
        seen.append(survives.copy())
        return topology.all()

    below = plugin(prune=lambda topology: topology.all_but(np.arange(5)), target_size=lambda topology: topology.size)
    algorithm = engine(ROOMY, {"below": below, "above": plugin(revise_pruning=revise)})
    _, moved = algorithm.update(algorithm.start(0.8), np.ones(algorithm.start(0.8).topology.size))
    assert seen[0].sum() == len(seen[0]) - 5
    assert moved.pruned_count == 0
    broken = engine(ROOMY, {"broken": plugin(revise_pruning=lambda survives: survives[:-1])})
    with pytest.raises(InvariantError, match=r"'broken' broke a promise in 'revise_pruning'.*one bool a weight"):
        broken.update(broken.start(0.8), np.ones(broken.start(0.8).topology.size))


STORAGES = ["masked", "compact"]


def sparsified(storage, sparsity, kernels="dense"):
    torch = pytest.importorskip("torch")
    from sparsify_examples import mlp, sgd

    from sparsecore_torch import sparsify

    model = mlp()
    optimizer = sgd(model)
    strategy = ["set", DensitySchedule(sparsity=sparsity, schedule=OFTEN, shape="linear")]
    training = sparsify(
        model, optimizer, strategy=strategy, sparsity=0.8, total_steps=20, storage=storage, kernels=kernels
    )
    return torch, model, optimizer, training


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sparsity", [0.95, 0.0])
def test_a_pytorch_model_follows_the_schedule_and_resumes_bit_for_bit(storage, sparsity):
    torch, model, optimizer, training = sparsified(storage, sparsity)
    from sparsify_examples import train

    train(model, optimizer, range(11))
    halfway = training.topology.size
    saved = copy.deepcopy([one.state_dict() for one in (training, model, optimizer)])
    train(model, optimizer, range(11, 20))
    assert training.topology.size == {0.95: 3 + 6, 0.0: 72 + 120}[sparsity]
    assert training.topology.size != halfway != 14 + 24
    assert training.metrics()["DensitySchedule.target"] == training.topology.size
    _, other, second, again = sparsified(storage, sparsity)
    for one, state in zip((again, other, second), saved, strict=True):
        one.load_state_dict(state)
    assert again.topology.size == halfway
    train(other, second, range(11, 20))
    assert again.topology.sha256() == training.topology.sha256()
    assert torch.equal(again.values(), training.values())


@pytest.mark.parametrize("storage", STORAGES)
def test_the_sparse_kernels_follow_the_schedule(storage):
    pytest.importorskip("sparsecore_cpu._kernels")
    _, model, optimizer, training = sparsified(storage, 0.3, kernels="sparse")
    from sparsify_examples import train

    training.use_kernels("sparse")
    train(model, optimizer, range(20))
    torch, other, second, dense = sparsified(storage, 0.3)
    train(other, second, range(20))
    assert training.topology.size == dense.topology.size == 50 + 84
    torch.testing.assert_close(training.values(), dense.values(), rtol=1e-4, atol=1e-5)


def test_each_group_follows_a_schedule_of_its_own():
    pytest.importorskip("torch")
    from sparsify_examples import mlp, sgd, train

    from sparsecore_torch import sparsify

    model = mlp()
    optimizer = sgd(model)
    strategy = {"*": ["static", DensitySchedule(sparsity=0.95)], "2.*": ["static", DensitySchedule(sparsity=0.0)]}
    training = sparsify(model, optimizer, strategy=strategy, sparsity=0.8, total_steps=8)
    train(model, optimizer, range(8))
    assert training.topology.counts.tolist() == [3, 120]
    assert int(model[0].weight.count_nonzero()) <= 3
