"""scikit-learn's digits as a data set."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparsecore.data.digits import Digits


@pytest.fixture(scope="module")
def digits():
    return Digits().load(None)


def test_digits_are_split_once_and_no_image_is_lost(digits):
    assert (len(digits.train), len(digits.test), digits.classes, digits.shape) == (1437, 360, 10, (8, 8, 1))
    levels, labels = load_digits(return_X_y=True)
    images = np.concatenate([digits.train.images, digits.test.images]).reshape(1797, 64)
    ours = np.column_stack([images, np.concatenate([digits.train.labels, digits.test.labels])])
    theirs = np.column_stack([np.floor(levels * 255 / 16 + 0.5), labels])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_digits_keep_all_seventeen_levels(digits):
    assert digits.train.images.dtype == digits.test.images.dtype == np.uint8
    levels = np.unique(digits.train.images)
    assert len(levels) == 17
    assert {0, 128, 255} <= set(levels.tolist())


def test_every_digit_is_in_both_splits_about_as_often_as_in_all(digits):
    for split, least, most in [(digits.train, 120, 165), (digits.test, 20, 52)]:
        counts = np.bincount(split.labels, minlength=10)
        assert split.labels.dtype == np.int64
        assert least < counts.min() <= counts.max() < most


def test_the_split_of_digits_never_changes(digits):
    assert digits.test.labels[:12].tolist() == [2, 0, 9, 2, 5, 8, 9, 4, 5, 9, 6, 0]
    again = Digits().load(Path("/there/is/no/such/folder"))
    np.testing.assert_array_equal(again.train.images, digits.train.images)
