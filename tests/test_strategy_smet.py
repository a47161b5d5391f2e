"""SMET drops and grows as its authors' code does, and its grown weights start gently under Adam."""

import math

import numpy as np
import pytest
from engine_examples import engine, normal_values

from sparsecore.engine.schedules import Clock, Every
from sparsecore.engine.topology import Layout
from sparsecore.strategy import YoungWeights
from sparsecore_strategies.smet import MemoryEfficient

LAYOUT = Layout.of({"matrix": (30, 20), "kernels": (8, 8, 3, 3), "small": (12, 4)})


def rate(step, total):
    """The authors' drop fraction: half a cosine from 0.2 to 0.005."""
    return 0.005 + (0.2 - 0.005) * (1 + math.cos(math.pi * step / total)) / 2


def test_updates_drop_and_grow_as_the_authors_code():
    algorithm = engine(LAYOUT, [MemoryEfficient(schedule=Every(steps=10))], seed=3)
    state = algorithm.start(0.8, clock=Clock(total_steps=100))
    for update in range(1, 10):
        for _ in range(9):
            state = algorithm.advance(state, normal_values(state.topology, update)).state
        values = normal_values(state.topology, 100 + update)
        before, advance = state.topology, algorithm.advance(state, values)
        state, moved = advance.state, advance.reallocation
        for name in LAYOUT.names:
            own = values[before.slots(name)]
            kept = max(1, int(len(own) * (1 - rate(10 * update, 100))))
            largest = set(before.local(name)[np.argsort(abs(own))[len(own) - kept :]].tolist())
            stayed = set(before.local(name).tolist()) & set(moved.after.local(name).tolist())
            assert stayed == largest  # so that nothing that was dropped has grown again
            assert len(moved.after.local(name)) == len(own)
        assert not moved.values[moved.grown_slots].any()
    assert state.clock.updates == 9


def test_what_grows_is_drawn_anew_for_each_seed():
    grown = []
    for seed in (0, 0, 1):
        algorithm = engine(LAYOUT, [MemoryEfficient()], seed=seed)
        state = algorithm.start_at(engine(LAYOUT, []).start(0.8).topology, clock=Clock(total_steps=100))
        _, moved = algorithm.update(state, normal_values(state.topology, 0))
        grown.append(moved.grown_positions.tolist())
    assert grown[0] == grown[1] != grown[2]


def test_grown_weights_count_their_own_steps_and_warm_up():
    assert engine(LAYOUT, [MemoryEfficient()]).young_weights() == YoungWeights(own_steps=True, warm_up=100)
    assert engine(LAYOUT, [MemoryEfficient(warm_up=0)]).young_weights() == YoungWeights(own_steps=True)
    given = YoungWeights(warm_up=7)
    assert engine(LAYOUT, [MemoryEfficient()], young=given).young_weights() == given


@pytest.mark.parametrize("arguments", [{"warm_up": -1}, {"drop_fraction": 1.5}])
def test_hyperparameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        MemoryEfficient(**arguments)
