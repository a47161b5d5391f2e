"""All sparse tensors lie end to end in one space of positions."""

import math

import numpy as np
import pytest
from engine_examples import layouts
from hypothesis import given

from sparsecore.engine.topology import Layout
from sparsecore.errors import InputError


@given(layouts())
def test_tensors_are_concatenated_in_the_given_order(layout):
    assert layout.offsets[0] == 0
    assert layout.offsets[-1] == layout.size == sum(math.prod(shape) for shape in layout.shapes)
    for i, shape in enumerate(layout.shapes):
        assert layout.offsets[i + 1] - layout.offsets[i] == layout.sizes[i] == math.prod(shape)
    assert len(layout) == len(layout.names)


@given(layouts())
def test_index_finds_every_tensor_by_its_name(layout):
    assert [layout.index(name) for name in layout.names] == list(range(len(layout)))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'conv3'.*conv1, conv2"):
        Layout.of({"conv1": (2,), "conv2": (3,)}).index("conv3")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2**31 - 1,), np.int32), ((2**31,), np.int64), ((1 << 16, 1 << 15), np.int64), ((100, 100), np.int32)],
)
def test_positions_are_int32_below_two_to_the_31_and_int64_beyond(shape, dtype):
    assert Layout.of({"w": shape}).position_dtype == dtype


def test_a_layout_has_fewer_positions_than_int64_can_count():
    assert Layout.of({"a": (2**62,)}).size == 2**62
    with pytest.raises(InputError, match=r"fewer than 2\^63 positions"):
        Layout.of({"a": (2**62, 4)})


@pytest.mark.parametrize(
    ("names", "shapes", "sentence"),
    [
        ((), (), "at least one sparse tensor"),
        (("a", "b"), ((1,),), "2 names, 1 shapes"),
        (("a", "a"), ((1,), (2,)), "distinct"),
        (("a", "b"), ((1,), (2, 0)), r"'b' has the shape \(2, 0\)"),
        (("a",), ((-3,),), r"'a' has the shape \(-3,\)"),
    ],
)
def test_an_invalid_layout_is_refused_with_a_sentence(names, shapes, sentence):
    with pytest.raises(InputError, match=sentence):
        Layout(names, shapes)


def test_equal_layouts_are_equal_values():
    assert Layout(["a"], [[2, 3]]) == Layout.of({"a": (2, 3)})
    assert hash(Layout(["a"], [[2, 3]])) == hash(Layout.of({"a": (2, 3)}))
    assert Layout.of({"a": (2, 3)}) != Layout.of({"a": (3, 2)})


@pytest.mark.parametrize("shape", [(2.7, 3), 5, ("2",), ()])
def test_a_shape_is_a_tuple_of_whole_numbers(shape):
    with pytest.raises(InputError, match="shape"):
        Layout.of({"a": shape})
