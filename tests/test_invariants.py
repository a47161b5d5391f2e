"""A plugin that breaks a promise is stopped at the step that broke it, by name."""

import attrs
import numpy as np
import pytest
from engine_examples import ARRAYS, TWO_TENSORS, engine, normal_values, plugin, topology

from sparsecore.engine.state import per_weight
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InvariantError

PRUNES_TEN = plugin(prune=lambda topology: np.arange(topology.size) >= 10)


def update_with(**answers):
    """An update in which the plugin 'broken' answers so, above one that prunes ten weights of 'first'."""
    algorithm = engine(TWO_TENSORS, {"pruning": PRUNES_TEN, "broken": plugin(**answers)})
    state = algorithm.start(0.8)
    return algorithm.update(state, normal_values(state.topology))


def broken(hook, sentence):
    return pytest.raises(InvariantError, match=rf"^plugin 'broken' broke a promise in '{hook}': it .*{sentence}")


def starting_at(positions, dtype=np.int32):
    return lambda layout: Topology.of(layout, np.array(positions, dtype), ARRAYS)


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (lambda: "anything", "'anything', not a topology"),
        (lambda: topology(Layout.of({"other": (200,)}), [1, 150]), "not a topology of the network's layout"),
        (starting_at([1, 2, 200]), "positions 1 to 200; the layout has 0 to 199"),
        (starting_at([-1, 2, 150]), "positions -1 to 150; the layout has 0 to 199"),
        (starting_at([5, 2, 150]), "position 2 after 5"),
        (starting_at([2, 2, 150]), "position 2 twice"),
        (starting_at([1, 150], np.int64), "positions of int64; expected int32"),
        (starting_at([1, 150], np.float64), "positions of float64; expected int32"),
        (starting_at([1, 2, 3]), "left no weight in second"),
        (starting_at([]), "left no weight in first, second"),
    ],
)
def test_a_broken_start_topology_is_an_error_that_names_the_plugin(start, sentence):
    with broken("initial_topology", sentence):
        engine(TWO_TENSORS, {"broken": plugin(initial_topology=start)}).start(0.8)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.ones(39, np.bool_), r"shape \(39,\); expected one bool a weight, 40"),
        (np.ones(41, np.bool_), r"shape \(41,\)"),
        (np.ones((40, 1), np.bool_), r"shape \(40, 1\)"),
        (np.ones(40, np.int64), "expected one bool a weight"),
        (np.ones(40, np.float32), "expected one bool a weight"),
        (np.arange(10), "expected one bool a weight"),
        (np.array([True] * 40, object), "expected one bool a weight"),
        ([True] * 40, "expected one bool a weight"),
        (True, "True; expected one bool a weight"),
        ("all", "'all'; expected one bool a weight"),
    ],
)
def test_a_broken_pruning_mask_is_an_error_that_names_the_plugin(mask, sentence):
    with broken("prune", sentence):
        update_with(prune=lambda: mask)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (np.array([10, 1]), "11 weights in all; 10 are to grow"),
        (np.array([0, 0]), "0 weights in all; 10 are to grow"),
        (np.array([11, -1]), "-1 weights to 'second'"),
        (np.array([81, 0]), "81 weights to 'first', which has room for 80"),
        (np.array([2**63 + 10, 0], np.uint64), "weights to 'first', which has room"),
        (np.array([10]), "one whole number a tensor, 2"),
        (np.array([[10, 0]]), "one whole number a tensor, 2"),
        (np.array([10.0, 0.0]), "one whole number a tensor, 2"),
        (np.array([np.nan, 0.0]), "one whole number a tensor, 2"),
        (np.array([True, False]), "one whole number a tensor, 2"),
        (10, "one whole number a tensor, 2"),
        ("all", "one whole number a tensor, 2"),
    ],
)
def test_broken_shares_are_an_error_that_names_the_plugin(counts, sentence):
    with broken("allocate", sentence):
        update_with(allocate=lambda: counts)


def free(occupied, tensor):
    offset, size = occupied.layout.offsets[tensor], occupied.layout.sizes[tensor]
    return np.setdiff1d(np.arange(offset, offset + size, dtype=np.int32), occupied.positions)


def honest(occupied, counts):
    return np.concatenate([free(occupied, tensor)[:count] for tensor, count in enumerate(counts)])


def changed(change):
    return lambda occupied, counts: change(honest(occupied, counts), occupied)


def with_entry(slot, position):
    def change(grown, occupied):
        grown[slot] = position(occupied) if callable(position) else position
        return grown

    return changed(change)


def test_the_correct_growth_behind_the_broken_ones_is_accepted():
    assert update_with(grow=honest)[1].pruned_count == 10


@pytest.mark.parametrize(
    ("grow", "sentence"),
    [
        (changed(lambda grown, _: grown[:-1]), "grew 6 weights in 'second'; 7 were allocated"),
        (changed(lambda grown, _: grown[:0]), "grew 0 weights in 'first'; 3 were allocated"),
        (changed(lambda grown, _: grown[:, None]), r"shape \(10, 1\)"),
        (changed(lambda grown, _: grown.tolist()), "expected a vector of positions"),
        (changed(lambda grown, _: grown[::-1].copy()), "position .* after .*; positions ascend"),
        (changed(lambda grown, _: np.repeat(grown[:5], 2)), "position .* twice"),
        (changed(lambda grown, _: grown.astype(np.int64)), "positions of int64; expected int32"),
        (changed(lambda grown, _: grown.astype(np.float32)), "positions of float32; expected int32"),
        (with_entry(-1, 200), "the layout has 0 to 199"),
        (with_entry(0, -1), "positions -1 to"),
        (changed(lambda _, occupied: free(occupied, 0)[:10]), "grew 10 weights in 'first'; 3 were allocated"),
    ],
)
def test_broken_growth_is_an_error_that_names_the_plugin(grow, sentence):
    with broken("grow", sentence):
        update_with(grow=grow)


@pytest.mark.parametrize("slot", [0, 5, 10, 19, 20, 39])
def test_growing_where_a_weight_is_or_just_was_active_is_an_error_that_names_the_plugin(slot):
    def grow(occupied, counts):
        position = occupied.positions[slot]
        tensor = int(position >= 100)
        others = [free(occupied, i)[: count - (i == tensor)] for i, count in enumerate(counts)]
        return np.sort(np.concatenate([*others, [position]])).astype(np.int32)

    tensor = "first" if slot < 20 else "second"
    with broken("grow", f"grew at position .* of '{tensor}', which is or just was active"):
        update_with(grow=grow)


VALUES = [
    (lambda size: np.zeros(size + 1, np.float32), "expected"),
    (lambda _: np.zeros(0, np.float32), "expected"),
    (lambda size: np.zeros((size, 1), np.float32), "expected"),
    (lambda size: np.zeros(size, np.float64), "of float32"),
    (lambda size: np.zeros(size, np.int32), "of float32"),
    (lambda size: [0.0] * size, "of float32"),
    (lambda _: 0.0, "0.0; expected"),
    (lambda size: np.full(size, np.nan, np.float32), "not finite, in 'first'"),
    (lambda size: np.full(size, -np.inf, np.float32), "not finite, in 'first'"),
    (lambda size: np.r_[np.zeros(size - 1), np.inf].astype(np.float32), "not finite, in 'second'"),
]


@pytest.mark.parametrize(("answer", "sentence"), VALUES)
def test_broken_initial_values_are_an_error_that_names_the_plugin(answer, sentence):
    with broken("initial_values", sentence):
        update_with(initial_values=lambda grown: answer(grown.size))


@pytest.mark.parametrize(("answer", "sentence"), VALUES)
def test_broken_start_values_are_an_error_that_names_the_plugin(answer, sentence):
    algorithm = engine(TWO_TENSORS, {"broken": plugin(start_values=lambda values: answer(len(values)))})
    state = algorithm.start(0.8)
    with broken("start_values", sentence):
        algorithm.start_values(state, normal_values(state.topology))


@pytest.mark.parametrize(("answer", "sentence"), VALUES)
def test_a_broken_perturbation_is_an_error_that_names_the_plugin(answer, sentence):
    algorithm = engine(TWO_TENSORS, {"broken": plugin(perturb=lambda values: answer(len(values)))})
    state = algorithm.start(0.8)
    with broken("perturb", sentence):
        algorithm.advance(state, normal_values(state.topology))


@pytest.mark.parametrize(("answer", "sentence"), VALUES)
def test_a_broken_gradient_is_an_error_that_names_the_plugin(answer, sentence):
    broken_one = plugin(perturb_gradient=lambda weight_gradient: answer(len(weight_gradient)))
    algorithm = engine(TWO_TENSORS, {"broken": broken_one})
    state = algorithm.start(0.8)
    with broken("perturb_gradient", sentence):
        algorithm.perturbed_gradient(state, normal_values(state.topology), normal_values(state.topology, 1))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda size: np.zeros(size + 1), "expected 10 numbers"),
        (lambda _: 0.0, "0.0; expected 10 numbers"),
        (lambda size: np.full(size, np.nan), "not finite, in 'first'"),
    ],
)
def test_a_broken_momentum_is_an_error_that_names_the_plugin(answer, sentence):
    with broken("initial_momentum", sentence):
        update_with(initial_momentum=lambda grown: answer(grown.size))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [(lambda size: np.ones(size + 1, bool), "one bool a weight, 40"), (np.ones, "one bool")],
)
def test_a_broken_choice_of_what_keeps_its_value_is_an_error_that_names_the_plugin(answer, sentence):
    with broken("keep_regrown", sentence):
        update_with(keep_regrown=lambda topology: answer(topology.size))


@attrs.frozen(eq=False)
class Ages:
    ages: object = per_weight()


@attrs.frozen(eq=False)
class Counter:
    count: object


@pytest.mark.parametrize("hook", ["adjust", "remember"])
def test_a_strategy_state_of_another_type_than_at_the_start_is_an_error_that_names_the_plugin(hook):
    with broken("strategy_state", "returned a Counter; expected nothing, as it has no initial_strategy_state"):
        update_with(**{hook: lambda: Counter(1)})
    with broken("strategy_state", "returned a Counter; expected a Ages, as before"):
        update_with(initial_strategy_state=lambda topology: Ages(np.zeros(topology.size)), **{hook: lambda: Counter(1)})


def test_a_strategy_state_cannot_be_changed_in_place():
    ages = {"initial_strategy_state": lambda topology: Ages(np.zeros(topology.size))}
    with pytest.raises(ValueError, match="read-only"):
        update_with(**ages, adjust=lambda strategy_state: written_zero(ages=strategy_state.ages))


@pytest.mark.parametrize("vector", ["values", "sources", "survives", "momentum"])
def test_an_observer_cannot_change_an_update(vector):
    with pytest.raises(ValueError, match="read-only"):
        update_with(
            initial_momentum=lambda grown: np.ones(grown.size),
            reallocated=lambda reallocation: written_zero(vector=getattr(reallocation, vector)),
        )


@pytest.mark.parametrize(
    ("strategy_state", "sentence"),
    [
        (3.0, "returned 3.0; a strategy state is an attrs value"),
        ({"ages": 1}, "returned {'ages': 1}; a strategy state is an attrs value"),
        (Ages, "a strategy state is an attrs value"),
        (Ages(np.zeros(39)), r"'ages' = .* shape \(39,\); expected one entry a weight, 40"),
        (Ages(np.zeros(0)), r"'ages' = .* shape \(0,\)"),
        (Ages([]), r"'ages' = \[\]; expected one entry a weight"),
        (Ages(None), "'ages' = None; expected one entry a weight"),
        (Counter(float("nan")), "'count' = nan; expected a finite number"),
        (Counter(2**63), "'count' = 9223372036854775808; expected a finite number"),
        (Counter(np.int64(3)), "'count' = int64 of int64, .*; expected a finite number"),
        (Counter([1]), r"'count' = \[1\]; expected a finite number"),
        (Counter(np.array(["a"])), "'count' = ndarray of <U1"),
    ],
)
@pytest.mark.parametrize("hook", ["initial_strategy_state", "adjust", "remember"])
def test_a_broken_strategy_state_is_an_error_that_names_the_plugin(hook, strategy_state, sentence):
    with broken("strategy_state", sentence):
        update_with(**{hook: lambda: strategy_state})


def test_a_broken_promise_names_the_plugin_that_broke_it_in_a_taller_stack():
    stack = {"below": PRUNES_TEN, "broken": plugin(prune=lambda: "all"), "above": plugin(prune=lambda: None)}
    algorithm = engine(TWO_TENSORS, stack)
    state = algorithm.start(0.8)
    with broken("prune", "'all'"):
        algorithm.update(state, normal_values(state.topology))


def written_zero(**arguments):
    (array,) = arguments.values()
    array[:] = 0


WRITERS = {
    "adjust pruned": {"adjust": lambda pruned: written_zero(pruned=pruned)},
    "adjust survivors": {"adjust": lambda survivors: written_zero(survivors=survivors)},
    "allocate pruned": {"allocate": lambda pruned: written_zero(pruned=pruned)},
    "allocate room": {"allocate": lambda room: written_zero(room=room)},
    "grow counts": {"grow": lambda counts: written_zero(counts=counts)},
    "grow occupied": {"grow": lambda occupied: written_zero(positions=occupied.positions)},
    "prune values": {"prune": lambda values: written_zero(values=values)},
    "prune positions": {"prune": lambda topology: written_zero(positions=topology.positions)},
    "prune counts": {"prune": lambda topology: written_zero(counts=topology.counts)},
    "initial_values values": {"initial_values": lambda values: written_zero(values=values)},
}


@pytest.mark.parametrize("hook", WRITERS)
def test_a_plugin_that_writes_into_its_arguments_is_stopped_by_name(hook):
    with pytest.raises(ValueError, match="read-only") as stopped:
        update_with(**WRITERS[hook])
    assert any("of plugin 'broken'" in note for note in stopped.value.__notes__)


def test_a_perturbation_in_place_is_stopped():
    algorithm = engine(TWO_TENSORS, {"broken": plugin(perturb=lambda values: written_zero(values=values))})
    state = algorithm.start(0.8)
    with pytest.raises(ValueError, match="read-only"):
        algorithm.advance(state, normal_values(state.topology))
