"""Parts of a layout: topologies, vectors and reallocations are split by tensor, and joined to what they were."""

import attrs
import numpy as np
import pytest
from engine_examples import TWO_TENSORS, active, engine, layouts, normal_values, topologies
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.partition import Partition, unchanged
from sparsecore.errors import InputError
from sparsecore_strategies.set import SparseEvolution


@st.composite
def partitions(draw):
    layout = draw(layouts())
    owners = draw(st.lists(st.integers(0, 2), min_size=len(layout), max_size=len(layout)))
    groups = [[name for name, own in zip(layout.names, owners, strict=True) if own == part] for part in range(3)]
    return Partition.of(layout, draw(st.permutations([group for group in groups if group])))


def entries(topology, vector):
    """{(tensor, position in it): entry}, which does not depend on the partition."""
    return {
        (name, int(place)): entry
        for name in topology.layout.names
        for place, entry in zip(topology.local(name), vector[topology.slots(name)], strict=True)
    }


@given(partitions(), st.data())
def test_the_parts_have_the_positions_and_entries_of_the_whole_and_join_to_it(partition, data):
    whole = data.draw(topologies(partition.layout))
    values = normal_values(whole)
    parts, vectors = partition.split(whole), partition.split_vector(values, whole)
    together = {}
    for own, vector in zip(parts, vectors, strict=True):
        together |= entries(own, vector)
    assert together == entries(whole, values)
    joined = partition.join(parts)
    assert joined.layout == whole.layout
    assert joined.bounds == whole.bounds
    assert active(joined) == active(whole)
    assert (partition.join_vectors(vectors, parts) == values).all()


@given(partitions(), st.data())
def test_reallocations_of_parts_join_to_one_that_splits_into_them(partition, data):
    parts = [data.draw(topologies(layout)) for layout in partition.parts]
    values = [normal_values(own, seed) for seed, own in enumerate(parts)]
    moved = []
    for own, given_values in zip(parts, values, strict=True):
        made = engine(own.layout, [SparseEvolution()], regrow_pruned=True)
        is_still = data.draw(st.booleans())
        _, reallocation = made.update(made.start_at(own), given_values)
        if data.draw(st.booleans()):
            chosen = np.full(int(reallocation.grown.sum()), 7 + len(moved))
            reallocation = attrs.evolve(reallocation, momentum=chosen)
        moved.append(unchanged(own, given_values) if is_still else reallocation)
    joined = partition.join_reallocations(moved)
    before, after = partition.join([one.before for one in moved]), partition.join([one.after for one in moved])
    assert active(joined.before) == active(before)
    assert active(joined.after) == active(after)
    # what is carried along says where each weight came from
    marks = [np.arange(1, own.size + 1) + 1000 * part for part, own in enumerate(parts)]
    carried = entries(after, joined.carry(partition.join_vectors(marks, parts)))
    expected = {}
    for one, own in zip(moved, marks, strict=True):
        expected |= entries(one.after, one.carry(own))
    assert carried == expected
    momentum = entries(after, joined.carry_momentum(partition.join_vectors(marks, parts)))
    expected = {}
    for one, own in zip(moved, marks, strict=True):
        expected |= entries(one.after, one.carry_momentum(own))
    assert momentum == expected
    assert joined.pruned_count == sum(one.pruned_count for one in moved)
    assert active(joined.grown_weights) == {
        int(place) + joined.after.layout.offsets[joined.after.layout.index(name)]
        for one in moved
        for name in one.after.layout.names
        for place in one.grown_weights.local(name)
    }
    for own, again in zip(moved, partition.split_reallocation(joined), strict=True):
        assert (own.after.positions == again.after.positions).all()
        assert (own.sources == again.sources).all()
        assert (own.survives == again.survives).all()
        assert (own.values == again.values).all()
        assert (own.pruned == again.pruned).all()
        assert (own.grown == again.grown).all()
        marks = np.arange(1, own.before.size + 1)
        assert (own.carry_momentum(marks) == again.carry_momentum(marks)).all()


@pytest.mark.parametrize("groups", [[["first"]], [["first", "second"], ["second"]], [["first", "second", "third"]]])
def test_a_tensor_is_in_exactly_one_part(groups):
    with pytest.raises(InputError, match="first, second"):
        Partition.of(TWO_TENSORS, groups)
