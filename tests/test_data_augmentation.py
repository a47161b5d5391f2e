"""Augmentation against NumPy's own padding, image by image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.data.images import Batch, augmented
from sparsecore.errors import InputError


@st.composite
def images_and_batches(draw):
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    padding = draw(st.integers(0, min(height, width) - 1))
    examples, size = draw(st.integers(1, 5)), draw(st.integers(0, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = random.integers(0, 256, (examples, height, width, draw(st.integers(1, 4))), np.uint8)
    batch = Batch(
        rows=random.integers(0, examples, size),
        shifts=random.integers(0, 2 * padding + 1, (size, 2)),
        flips=random.random(size) < draw(st.sampled_from([0.0, 0.5, 1.0])),
        padding=padding,
    )
    return images, batch


def one_by_one(images, batch):
    height, width = images.shape[1:3]
    sides = ((batch.padding, batch.padding), (batch.padding, batch.padding), (0, 0))
    crops = np.empty((len(batch), *images.shape[1:]), np.uint8)
    for i, (row, (top, left), flip) in enumerate(zip(batch.rows, batch.shifts, batch.flips, strict=True)):
        crop = np.pad(images[row], sides, mode="reflect")[top : top + height, left : left + width]
        crops[i] = crop[:, ::-1] if flip else crop
    return crops


@given(images_and_batches())
def test_augmentation_is_reflect_padding_then_a_crop_then_a_mirror(case):
    images, batch = case
    before = images.copy()
    crops = augmented(images, batch)
    assert crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, one_by_one(images, batch))
    assert not np.shares_memory(crops, images)
    np.testing.assert_array_equal(images, before)


def test_without_padding_and_flips_a_batch_is_the_images_themselves():
    images = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3, 1)
    batch = Batch(np.array([3, 1, 1]), np.zeros((3, 2), np.int64), np.zeros(3, bool), 0)
    np.testing.assert_array_equal(augmented(images, batch), images[[3, 1, 1]])


def test_images_that_are_not_contiguous_are_augmented_alike():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 6, 5), np.uint8).transpose(0, 2, 3, 1)
    batch = Batch(np.array([2, 0]), np.array([[0, 3], [4, 1]]), np.array([True, False]), 2)
    np.testing.assert_array_equal(augmented(images, batch), augmented(images.copy(), batch))


@pytest.mark.parametrize("padding", [3, 4, 100])
def test_padding_that_reflection_cannot_reach_is_refused(padding):
    images = np.zeros((2, 5, 3, 1), np.uint8)
    batch = Batch(np.array([0]), np.zeros((1, 2), np.int64), np.zeros(1, bool), padding)
    with pytest.raises(InputError, match=rf"5×3 pixels cannot be padded by {padding}.*at most 2 pixels"):
        augmented(images, batch)
