"""The static baseline."""

from engine_examples import TWO_TENSORS, engine, normal_values

from sparsecore.engine.schedules import Clock
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.static import Static


def test_static_never_reallocates():
    algorithm = engine(TWO_TENSORS, [Static()])
    state = algorithm.start(0.8, clock=Clock(steps_per_epoch=10))
    values = normal_values(state.topology)
    start = state.topology
    for _ in range(300):
        advance = algorithm.advance(state, values, 0.1)
        assert advance.reallocation is None
        assert advance.values is values
        assert advance.state.topology is start
        state = advance.state
    assert state.clock == Clock(step=300, steps_per_epoch=10)


def test_static_above_another_strategy_stops_it():
    algorithm = engine(TWO_TENSORS, [DynamicReallocation(target=5), Static()])
    state = algorithm.start(0.8, clock=Clock(step=99))
    assert algorithm.advance(state, normal_values(state.topology)).reallocation is None
