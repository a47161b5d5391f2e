"""Changes of shape on the CPU backend, and their gradients, are torch's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("sparsecore_cpu._kernels")

from cpu_examples import MACHINES, drawn, in_kernels, on
from torch.nn import functional
from torch_oracles import check_against_torch, check_halves_against_torch, in_halves

from sparsecore.errors import InputError
from sparsecore_cpu.pooling import max_pool2d
from sparsecore_cpu.shapes import (
    concatenate,
    from_tokens,
    pad2d,
    select_channels,
    slice_channels,
    split_channels,
    to_tokens,
    unflatten,
    upsample_nearest2d,
)
from sparsecore_cpu.window import Padding

LANES = MACHINES[0].kernels.lanes
few = settings(max_examples=25)

batches = st.sampled_from([1, LANES - 1, LANES, LANES + 1]) | st.integers(1, 40)


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Images or vectors of any batch and at least two channels."""
    sides = draw(st.sampled_from([(), (1, 1), (3, 2), (7, 5)]))
    return drawn(draw(st.integers(0, 2**32)), draw(batches), *sides, draw(st.integers(2, 11)))


@st.composite
def images(draw: st.DrawFn) -> Any:
    """Images of any batch, sides and channels."""
    sides = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return drawn(draw(st.integers(0, 2**32)), draw(batches), *sides, draw(st.integers(1, 11)))


def agree(ours: Any, theirs: Any, x: Any) -> None:
    """Images in float32 and in bfloat16."""
    check_against_torch(ours, theirs, x)
    check_halves_against_torch(ours, theirs, x)


@few
@given(tensors(), st.data())
def test_concatenation_of_slices_in_any_order_equals_torch_s(x: Any, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, x.shape[-1] - 1))

    def ours(ops: Any, x: Any, _: Any) -> Any:
        first, second = split_channels(ops, x, [cut, x.form.channels - cut])
        return concatenate(ops, [second, ops.relu(x), first, x])

    def theirs(x: Any, _: Any) -> Any:
        first, second = x.split([cut, x.shape[1] - cut], 1)
        return torch.cat([second, functional.relu(x), first, x], 1)

    agree(ours, theirs, x)


@few
@given(tensors(), st.data())
def test_selected_channels_equal_torch_s(x: Any, data: st.DataObject) -> None:
    channels = data.draw(st.permutations(range(x.shape[-1])))[: data.draw(st.integers(1, x.shape[-1]))]
    agree(lambda ops, x, _: select_channels(ops, x, channels), lambda x, _: x[:, channels], x)


@few
@given(images())
def test_flattening_in_either_order_equals_torch_s(x: Any) -> None:
    agree(lambda ops, x, _: ops.flatten(x, channels_first=True), lambda x, _: x.flatten(1), x)
    agree(lambda ops, x, _: ops.flatten(x), lambda x, _: x.permute(0, 2, 3, 1).flatten(1), x)


@few
@given(images())
def test_images_become_tokens_and_images_again_as_by_torch(x: Any) -> None:
    height, width, channels = x.shape[1:]
    agree(lambda ops, x, _: to_tokens(ops, x), lambda x, _: x.flatten(2).transpose(1, 2).flatten(0, 1), x)
    there_and_back = lambda ops, x, _: from_tokens(ops, ops.relu(to_tokens(ops, x)), height, width)  # noqa: E731
    agree(there_and_back, lambda x, _: functional.relu(x), x)
    refolded = lambda ops, x, _: unflatten(ops, ops.flatten(x, channels_first=True), channels, width, height)  # noqa: E731
    agree(refolded, lambda x, _: x.flatten(1).reshape(len(x), channels, width, height), x)


@few
@given(images(), st.tuples(*[st.integers(0, 3)] * 4))
def test_zero_padding_equals_torch_s(x: Any, sides: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = sides
    agree(
        lambda ops, x, _: pad2d(ops, x, Padding(top, bottom, left, right)),
        lambda x, _: functional.pad(x, (left, right, top, bottom)),
        x,
    )


@few
@given(images(), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_nearest_upsampling_equals_torch_s(x: Any, scale: tuple[int, int]) -> None:
    agree(
        lambda ops, x, _: upsample_nearest2d(ops, x, scale),
        lambda x, _: functional.interpolate(x, scale_factor=scale),
        x,
    )


@pytest.mark.parametrize("make", [on, lambda name, threads: on(name, threads, np.uint16)], ids=["float32", "bfloat16"])
def test_threads_change_no_bit(make: Any) -> None:
    def forward(ops: Any, x: Any, _: Any) -> Any:
        whole = concatenate(ops, [pad2d(ops, x, Padding(2, 2, 1, 2)), upsample_nearest2d(ops, x, (2, 2))])
        return ops.flatten(slice_channels(ops, whole, 2, 7), channels_first=True)

    x, direction = in_halves(drawn(0, LANES + 1, 4, 3, 4)), drawn(1, LANES + 1, 8 * 6 * 5)
    name = MACHINES[0].kernels.name
    one, *others = (in_kernels(make(name, threads), forward, x, [], direction) for threads in (1, 2, 5))
    for other in others:
        np.testing.assert_array_equal(other.output, one.output)
        np.testing.assert_array_equal(other.by_input, one.by_input)


REFUSED = {
    "nothing to concatenate": ("last axis only; given none", lambda ops, _: concatenate(ops, [])),
    "other sides": (
        r"given \(2, 3, 4, 5\), \(2, 1, 2, 5\)",
        lambda ops, x: concatenate(ops, [x, max_pool2d(ops, x, 2)]),
    ),
    "an empty slice": ("5 channels have no slice from 3 to 3", lambda ops, x: slice_channels(ops, x, 3, 3)),
    "a slice beyond the end": ("5 channels have no slice from 3 to 6", lambda ops, x: slice_channels(ops, x, 3, 6)),
    "slices of too few": (
        "5 channels cannot be split into slices of 2, 2",
        lambda ops, x: split_channels(ops, x, [2, 2]),
    ),
    "no such channel": ("numbers from 0 to 4", lambda ops, x: select_channels(ops, x, [5])),
    "a channel twice": ("can be selected once", lambda ops, x: select_channels(ops, x, [1, 1])),
    "tokens of vectors": (r"given a tensor of \(2, 60\)", lambda ops, x: to_tokens(ops, ops.flatten(x))),
    "images of images": ("is not one vector for each pixel", lambda ops, x: from_tokens(ops, x, 1, 1)),
    "images of too few tokens": ("images of 2×2", lambda ops, x: from_tokens(ops, ops.flatten(x), 2, 2)),
    "images of other features": ("images of 3×4×6", lambda ops, x: unflatten(ops, ops.flatten(x), 6, 3, 4)),
    "padding of vectors": ("padding takes images", lambda ops, x: pad2d(ops, ops.flatten(x), Padding(1))),
    "no upsampling": ("the scale must be", lambda ops, x: upsample_nearest2d(ops, x, 0)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shapes_that_do_not_fit_are_refused_with_a_sentence(case: str) -> None:
    message, forward = REFUSED[case]
    with pytest.raises(InputError, match=message):
        in_kernels(on("baseline"), lambda ops, x, _: forward(ops, x), drawn(0, 2, 3, 4, 5), [], drawn(0))
