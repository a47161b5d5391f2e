"""An epoch's plan: every example once, and the same whatever the batch size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.data.batches import Augmentation, batches, first_images, held_out, steps_per_epoch
from sparsecore.data.images import Images, Split
from sparsecore.engine.randomness import Randomness
from sparsecore.errors import InputError

RUN = Randomness(7).child("data")
VARIED = Augmentation(padding=4, flip=True)


def joined(plan):
    plan = list(plan)
    return tuple(np.concatenate([getattr(batch, field) for batch in plan]) for field in ("rows", "shifts", "flips"))


def assert_equal_plans(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 300))
def test_the_batches_of_an_epoch_contain_every_example_once(examples, batch_size, epoch):
    plan = list(batches(RUN, epoch, examples, batch_size, VARIED))
    assert len(plan) == steps_per_epoch(examples, batch_size)
    assert [len(batch) for batch in plan[:-1]] == [batch_size] * (len(plan) - 1)
    assert 1 <= len(plan[-1]) <= batch_size
    assert sorted(joined(plan)[0]) == list(range(examples))


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 70), st.integers(0, 3))
def test_the_batch_size_does_not_change_what_happens_to_an_example(examples, one, other, epoch):
    plans = [joined(batches(RUN, epoch, examples, size, VARIED)) for size in (one, other)]
    assert_equal_plans(*plans)


@given(st.data(), st.integers(1, 60), st.integers(1, 20))
def test_an_epoch_resumes_in_the_middle(data, examples, batch_size):
    start = data.draw(st.integers(0, steps_per_epoch(examples, batch_size)))
    whole = list(batches(RUN, 2, examples, batch_size, VARIED))
    resumed = list(batches(RUN, 2, examples, batch_size, VARIED, start=start))
    assert len(resumed) == len(whole) - start
    for expected, got in zip(whole[start:], resumed, strict=True):
        assert_equal_plans(joined([expected]), joined([got]))
        assert got.padding == expected.padding == 4


def test_epochs_and_seeds_differ_in_order_crops_and_flips():
    plans = [
        joined(batches(Randomness(seed), epoch, 200, 50, VARIED)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 10)]
    ]
    for i, one in enumerate(plans):
        for other in plans[:i]:
            assert all((a != b).any() for a, b in zip(one, other, strict=True))


def test_crops_cover_every_corner_evenly_and_half_of_the_images_are_mirrored():
    _, shifts, flips = joined(batches(RUN, 0, 50_000, 50_000, Augmentation(padding=1, flip=True)))
    corners = np.bincount(shifts @ [3, 1], minlength=9)
    # nine corners of 5,556 each, standard deviation 70; five of them either way
    assert len(corners) == 9
    assert corners.min() > 5_200
    assert corners.max() < 5_910
    assert abs(flips.mean() - 0.5) < 0.012
    assert abs(np.corrcoef(shifts[:, 0], flips)[0, 1]) < 0.03


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True), Augmentation(padding=4)])
def test_disabled_augmentations_are_not_planned(augmentation):
    rows, shifts, flips = joined(batches(RUN, 0, 100, 30, augmentation))
    assert (shifts.any(), flips.any()) == (augmentation.padding > 0, augmentation.flip)
    assert (rows.dtype, shifts.dtype, flips.dtype) == (np.int64, np.int64, np.bool_)
    assert shifts.shape == (100, 2)


def test_flips_do_not_depend_on_the_padding():
    flipped = [joined(batches(RUN, 0, 100, 30, Augmentation(padding, True)))[2] for padding in (0, 4)]
    np.testing.assert_array_equal(*flipped)


@pytest.mark.parametrize(("examples", "batch_size"), [(0, 10), (10, 0), (10, -1)])
def test_an_epoch_without_examples_or_batches_is_refused(examples, batch_size):
    with pytest.raises(InputError, match=f"not {examples} examples and a batch size of {batch_size}"):
        batches(RUN, 0, examples, batch_size, VARIED)


@pytest.mark.parametrize("start", [-1, 5])
def test_a_start_outside_the_epoch_is_refused_at_once(start):
    with pytest.raises(InputError, match=f"an epoch of 4 batches cannot start at batch {start}"):
        batches(RUN, 0, 10, 3, VARIED, start=start)


def test_an_augmentation_is_checked_against_the_images():
    with pytest.raises(InputError, match="at least 0 pixels, not -1"):
        Augmentation(padding=-1)
    with pytest.raises(InputError, match="4×8 pixels cannot be padded by 4"):
        VARIED.check((4, 8, 1))
    VARIED.check((5, 5, 1))
    Augmentation().check((1, 1, 1))


def numbered(examples):
    images = np.broadcast_to(np.arange(examples, dtype=np.uint8)[:, None, None, None], (examples, 2, 2, 1))
    return Images(Split(images, np.arange(examples)), Split(images[:2], np.arange(2)), classes=examples)


@given(st.integers(1, 40), st.data())
def test_images_within_a_smaller_limit_are_within_a_larger_one(examples, data):
    limits = sorted(data.draw(st.tuples(st.integers(1, examples), st.integers(1, examples))))
    images = numbered(examples)
    fewer, more = (first_images(RUN, images, limit) for limit in limits)
    assert [len(fewer.train), len(more.train)] == limits
    np.testing.assert_array_equal(fewer.train.labels, more.train.labels[: limits[0]])
    assert len(set(more.train.labels)) == limits[1]
    np.testing.assert_array_equal(more.train.images[:, 0, 0, 0], more.train.labels)
    assert more.test is images.test
    assert more.classes == images.classes


@pytest.mark.parametrize("limit", [0, -3, 11])
def test_a_limit_outside_the_training_images_is_refused(limit):
    with pytest.raises(InputError, match=f"{limit} training images cannot be kept of 10: expected 1 to 10"):
        first_images(RUN, numbered(10), limit)


@given(st.integers(2, 40), st.data())
def test_held_out_images_replace_the_test_images_and_are_not_trained_on(examples, data):
    images = numbered(examples)
    count = data.draw(st.integers(1, examples - 1))
    parted = held_out(images, count)
    assert len(parted.test) == count
    assert sorted([*parted.train.labels, *parted.test.labels]) == list(range(examples))
    np.testing.assert_array_equal(parted.test.images[:, 0, 0, 0], parted.test.labels)
    np.testing.assert_array_equal(parted.train.images[:, 0, 0, 0], parted.train.labels)


@pytest.mark.parametrize("count", [0, -3, 10])
def test_holding_out_all_images_or_none_is_refused(count):
    with pytest.raises(InputError, match=f"{count} of 10 training images cannot be held out: expected 1 to 9"):
        held_out(numbered(10), count)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_channel_statistics_are_those_of_the_pixels(seed, channels):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (random.integers(1, 20), 3, 2, channels), np.uint8)
    images[..., 0] = 255
    split = Split(images, np.zeros(len(images), np.int64))
    data = Images(split, split, classes=1)
    np.testing.assert_allclose(data.mean, images.mean(axis=(0, 1, 2)), rtol=1e-12)
    expected = images.std(axis=(0, 1, 2))
    np.testing.assert_allclose(data.std, np.where(expected > 0, expected, 1.0), rtol=1e-12)


def test_channel_statistics_include_every_image_of_a_large_data_set():
    images = np.zeros((3000, 1, 1, 1), np.uint8)
    images[2000:] = 240
    data = Images(Split(images, np.zeros(3000, np.int64)), Split(images, np.zeros(3000, np.int64)), classes=1)
    np.testing.assert_allclose([data.mean[0], data.std[0]], [80.0, 240 * np.sqrt(2) / 3])
