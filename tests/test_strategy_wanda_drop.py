"""wanda-drop prunes by |w|·‖x‖, and every backend measures ‖x‖ as the definition says."""

import attrs
import numpy as np
import pytest
from dense_oracles import drawn, floored, gathered, masks_of
from engine_examples import engine, normal_values
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError
from sparsecore.strategy import Every
from sparsecore_strategies.set import SparseEvolution
from sparsecore_strategies.wanda_drop import WandaDrop

ROOMY = Layout.of({"kernels": (5, 3, 2, 2), "matrix": (12, 8), "vector": (30,), "grouped": (6, 2, 3)})
INPUTS = {"kernels": 3, "matrix": 8, "vector": 30, "grouped": 6}
SET = SparseEvolution(start="uniform", schedule=Every(steps=1))


def norms(seed):
    return {name: np.random.default_rng([seed, size]).exponential(size=size) for name, size in INPUTS.items()}


def spread(name, per_input):
    """The norm of each position's input."""
    shape = ROOMY.shapes[ROOMY.index(name)]
    if len(shape) == 1:
        return per_input
    groups = len(per_input) // shape[1]
    rows = [per_input.reshape(groups, shape[1])[output * groups // shape[0]] for output in range(shape[0])]
    return np.repeat(np.array(rows).ravel(), int(np.prod(shape[2:])))


@given(st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.29, 0.5]), st.sampled_from(["output", "tensor"]))
def test_the_smallest_products_of_weights_and_norms_go_of_each_output_or_tensor(seed, fraction, scope):
    algorithm = engine(ROOMY, {"set": SET, "wanda": WandaDrop(fraction, scope)}, seed=seed)
    state = algorithm.start(0.5)
    weights, measured = drawn(ROOMY, seed, np.float64), norms(seed)
    values = gathered(state.topology, weights)
    _, got = algorithm.update(state, values, input_norms=measured.__getitem__)
    pruned = state.topology.at(got.pruned_positions)
    for name, mask in masks_of(state.topology).items():
        scores = abs(weights[name]) * spread(name, measured[name])
        shape = ROOMY.shapes[ROOMY.index(name)]
        outputs = shape[0] if scope == "output" and len(shape) > 1 else 1
        expected = []
        for output, active in enumerate(mask.reshape(outputs, -1)):
            places = np.flatnonzero(active) + output * (mask.size // outputs)
            order = places[np.argsort(scores[places], kind="stable")]
            expected += order[: floored(fraction, len(places))].tolist()
        assert pruned.local(name).tolist() == sorted(expected)


def test_the_norms_are_asked_for_in_the_steps_of_updates_alone():
    algorithm = engine(ROOMY, [attrs.evolve(SET, schedule=Every(steps=3)), WandaDrop()])
    state = algorithm.start(0.5, clock=Clock(total_steps=9))
    asked = []
    for _ in range(6):
        plan = algorithm.plan(state)
        asked.append(plan.wants_input_norms)
        state = algorithm.advance(state, normal_values(state.topology), input_norms=norms(0).__getitem__).state
    assert asked == [False, False, True, False, False, True]


def test_a_way_of_training_without_norms_is_refused():
    algorithm = engine(ROOMY, [SET, WandaDrop()])
    state = algorithm.start(0.5)
    with pytest.raises(InputError, match=r"'WandaDrop' asks for the norms of inputs.*input_norms="):
        algorithm.update(state, normal_values(state.topology))


def test_units_of_one_input_move_by_their_mean_magnitude_and_others_are_refused():
    from sparsecore.engine.units import as_units

    layout = Layout.of({"w": (4, 2, 3, 3)})
    algorithm = engine(layout, [SET, WandaDrop(0.5, "tensor")], units=as_units("kernels"))
    state = algorithm.start(0.5)
    values = np.repeat([1.0, 2.0, 3.0, 4.0], 9)
    _, got = algorithm.update(state, values, input_norms=lambda _: np.array([1.0, 1.0]))
    assert got.pruned.tolist() == [18]
    with pytest.raises(InputError, match=r"'w' has weights of several inputs \(2x2\)"):
        engine(layout, [SET, WandaDrop()], units=as_units("2x2"))
