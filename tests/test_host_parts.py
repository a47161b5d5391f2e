"""Updates on the host in parts and threads are those of a backend that has operations of its own alone."""

from typing import ClassVar

import numpy as np
import pytest
from engine_examples import topologies, values_of
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsecore.engine import host_parts
from sparsecore.engine.engine import Engine
from sparsecore.engine.schedules import Every, Piecewise
from sparsecore.engine.topology import Topology
from sparsecore.errors import NoRoomError
from sparsecore.host.arrays import NumpyArrays
from sparsecore_strategies.dpr import DynamicReallocation
from sparsecore_strategies.rigl import RigL
from sparsecore_strategies.set import SparseEvolution


class OwnOperations(NumpyArrays):
    """A backend that says nothing of its memory."""

    host: ClassVar[None] = None


class ThreeThreads(NumpyArrays):
    """A backend on the host that computes in three threads."""

    threads: ClassVar[int] = 3


STRATEGIES = (
    DynamicReallocation(target=1, initial_threshold=0.25),
    SparseEvolution(drop_fraction=0.4),
    SparseEvolution(drop_fraction=0.4, ranking="magnitude"),
    RigL(drop_fraction=Piecewise({0: 0.3}), schedule=Every(steps=3)),
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(host_parts, "_LEAST", 4)
    monkeypatch.setattr(host_parts, "_MANY", 0)


@given(st.data(), st.sampled_from(STRATEGIES), st.sampled_from([False, True, "keep"]), st.integers(0, 9))
def test_an_update_does_not_depend_on_parts_and_threads(data, strategy, regrow_pruned, seed):
    before = data.draw(topologies())
    assume(before.size > 1)
    values = data.draw(values_of(before))
    gradients = np.random.default_rng(seed).integers(-3, 4, before.layout.size).astype(values.dtype)
    by_name = dict(zip(before.layout.names, np.split(gradients, before.layout.offsets[1:-1]), strict=True))

    def updated(arrays):
        engine = Engine(before.layout, {"it": strategy}, arrays=arrays, seed=seed, regrow_pruned=regrow_pruned)
        state = engine.start_at(Topology.of(before.layout, before.positions, arrays))
        try:
            return engine.update(state, values, by_name.__getitem__)[1]
        except NoRoomError as error:
            return str(error)

    one, other = updated(ThreeThreads()), updated(OwnOperations())
    if isinstance(one, str):
        assert one == other
        return
    vectors = ("sources", "values", "survives", "pruned_positions", "grown_positions", "grown_values", "given_values")
    for name in vectors:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("after", "grown_weights", "pruned_weights"):
        assert getattr(one, name).sha256() == getattr(other, name).sha256()
        assert getattr(one, name).bounds == getattr(other, name).bounds


def test_parts_are_whole_tensors_of_a_least_size():
    assert host_parts.parts_of([0, 1, 2, 9, 9, 10]) == [(0, 3), (3, 5)]
    assert host_parts.parts_of([0, 0]) == [(0, 1)]
