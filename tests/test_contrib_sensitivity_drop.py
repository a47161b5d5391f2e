"""sensitivity-drop prunes what a transcription of the authors' code on dense masks prunes."""

import math

import numpy as np
import pytest
from dense_oracles import drawn, gathered, masks_of
from engine_examples import engine
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.schedules import Clock
from sparsecore.engine.topology import Layout
from sparsecore.strategy import Cosine, Every
from sparsecore_contrib.sensitivity_drop import SensitivityDrop
from sparsecore_strategies.set import SparseEvolution

ROOMY = Layout.of({"kernels": (5, 3, 2, 2), "matrix": (12, 8), "vector": (30,)})
SET = SparseEvolution(start="uniform", schedule=Every(steps=1))


def authors(weight, grad, mask, rate, criterion):
    """``pruners.py`` of the authors, in double precision: all entries are sorted, and the masked ones come first."""
    remove = math.ceil(round(rate * mask.sum(), 9))
    k = (~mask).sum() + remove
    score = {
        "snip": (abs(weight * grad) + 1e-5) * mask,
        "sensitivity": ((abs(grad) / (abs(weight) + 1e-8)) + 1) * mask,
        "reciprocal": ((abs(weight) / (abs(grad) + 1e-8)) + 1) * mask,
    }[criterion]
    left = mask.copy()
    left[np.argsort(score, kind="stable")[:k]] = False
    return left


@given(
    st.integers(0, 99),
    st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    st.sampled_from(["snip", "sensitivity", "reciprocal"]),
)
def test_the_lowest_scores_go_as_in_the_authors_code(seed, rate, criterion):
    algorithm = engine(ROOMY, {"set": SET, "drop": SensitivityDrop(criterion, rate)}, seed=seed)
    state = algorithm.start(0.5)
    weights, gradients = (drawn(ROOMY, one, np.float64) for one in (seed, seed + 100))
    values, gradient = (gathered(state.topology, one) for one in (weights, gradients))
    _, got = algorithm.update(state, values, weight_gradient=gradient)
    pruned = state.topology.at(got.pruned_positions)
    for name, mask in masks_of(state.topology).items():
        left = authors(weights[name], gradients[name], mask, rate, criterion)
        assert pruned.local(name).tolist() == np.flatnonzero(mask & ~left).tolist()


def test_weights_without_a_gradient_go_first_by_snip_and_last_by_their_reciprocal():
    values, gradient = np.array([0.1, 0.2, 3.0, 0.4]), np.array([1.0, 1.0, 0.0, 1.0])
    one = Layout.of({"only": (8,)})
    for criterion, gone in (("snip", 2), ("sensitivity", 2), ("reciprocal", 0)):
        algorithm = engine(one, {"set": SET, "drop": SensitivityDrop(criterion, 0.25)})
        state = algorithm.start(0.5)
        _, got = algorithm.update(state, values, weight_gradient=gradient)
        assert got.pruned_positions.tolist() == [state.topology.positions[gone]]


@pytest.mark.parametrize(("step", "dropped"), [(0, 40), (50, 20), (99, 1)])
def test_the_default_fraction_falls_from_a_half_along_a_cosine(step, dropped):
    one = Layout.of({"only": (160,)})
    assert SensitivityDrop().drop_fraction == Cosine(0.5)
    algorithm = engine(one, {"set": SET, "drop": SensitivityDrop()})
    state = algorithm.start(0.5, clock=Clock(step=step, total_steps=100))
    values = drawn(one)["only"][: state.topology.size]
    _, got = algorithm.update(state, values, weight_gradient=values[::-1].copy())
    assert got.pruned_count == dropped


def test_no_dense_gradient_is_asked_for():
    algorithm = engine(ROOMY, {"set": SET, "drop": SensitivityDrop()})
    plan = algorithm.plan(algorithm.start(0.5, clock=Clock(step=1, total_steps=9)))
    assert not plan.wants_gradient
