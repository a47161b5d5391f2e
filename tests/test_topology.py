"""A topology is a set of positions, and the same thing as masks."""

import numpy as np
import pytest
from engine_examples import ARRAYS, layouts, normal_values, topologies, topology
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.engine.topology import Layout, from_masks
from sparsecore.errors import InputError


@given(topologies())
def test_masks_and_positions_convert_into_each_other(before):
    layout = before.layout
    masks = [before.mask(name) for name in layout.names]
    assert [mask.shape for mask in masks] == list(layout.shapes)
    flat = np.concatenate([mask.ravel() for mask in masks])
    assert np.flatnonzero(flat).tolist() == before.positions.tolist()
    again = from_masks(masks, layout.names, ARRAYS)
    assert again.layout == layout
    assert again.positions.dtype == layout.position_dtype
    assert again.sha256() == before.sha256()


@given(topologies())
def test_active_and_free_counts_add_up_to_each_tensor(before):
    assert (before.counts + before.room).tolist() == list(before.layout.sizes)
    assert before.counts.tolist() == [int(before.mask(name).sum()) for name in before.layout.names]
    assert before.size == len(before.positions) == before.counts.sum()
    assert before.sparsity == pytest.approx(before.room.sum() / before.layout.size)


@given(topologies())
def test_slots_give_the_range_of_a_tensors_weights(before):
    values = normal_values(before)
    dense = np.zeros(before.layout.size, np.float32)
    dense[before.positions] = values
    for i, (name, shape) in enumerate(zip(before.layout.names, before.layout.shapes, strict=True)):
        tensor = dense[before.layout.offsets[i] : before.layout.offsets[i + 1]]
        np.testing.assert_array_equal(values[before.slots(name)], tensor[before.mask(name).ravel()])
        np.testing.assert_array_equal(values[before.slots(name)], tensor[before.local(name)])
        assert before.mask(name).shape == shape


@given(layouts(), st.data())
def test_tensors_without_weights_have_empty_slots(layout, data):
    positions = sorted(data.draw(st.sets(st.integers(0, layout.size - 1))))
    sparse = topology(layout, positions)
    assert sparse.bounds[0] == 0
    assert sparse.bounds[-1] == len(positions)
    for i, name in enumerate(layout.names):
        wanted = [p - layout.offsets[i] for p in positions if layout.offsets[i] <= p < layout.offsets[i + 1]]
        assert sparse.local(name).tolist() == wanted


@given(topologies(), st.data())
def test_subset_and_all_but_are_complements(before, data):
    chosen = sorted(data.draw(st.sets(st.integers(0, before.size - 1))))
    mask = before.all_but(np.array(chosen, np.intp))
    assert mask.dtype == np.bool_
    assert np.flatnonzero(~mask).tolist() == chosen
    assert before.subset(~mask).positions.tolist() == [before.positions[slot] for slot in chosen]
    assert before.subset(mask).size == before.size - len(chosen)


def test_the_fingerprint_tells_positions_names_and_shapes_apart():
    layout = Layout.of({"a": (2, 3), "b": (4,)})
    others = [
        topology(layout, [0, 2, 6]),
        topology(layout, [0, 1]),
        topology(Layout.of({"a": (3, 2), "b": (4,)}), [0, 1, 6]),
        topology(Layout.of({"b": (2, 3), "a": (4,)}), [0, 1, 6]),
        topology(Layout.of({"a": (2, 3), "c": (4,)}), [0, 1, 6]),
    ]
    prints = {other.sha256() for other in others} | {topology(layout, [0, 1, 6]).sha256()}
    assert len(prints) == len(others) + 1


def test_the_fingerprint_does_not_depend_on_the_dtype_of_positions():
    layout = Layout.of({"a": (2, 3)})
    narrow = topology(layout, [0, 5])
    assert narrow.sha256() == narrow.at(np.array([0, 5], np.int64)).sha256()


def test_an_unknown_tensor_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="first"):
        topology(Layout.of({"first": (3,)}), [1]).mask("second")
