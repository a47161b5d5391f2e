"""One's own arrays in an .npz file."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecore.data.npz import Npz
from sparsecore.errors import InputError

# classes that are missing and channels that look like rows have tests of their own
pytestmark = pytest.mark.filterwarnings("ignore::sparsecore.errors.InputWarning")

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "x_train": RANDOM.integers(0, 256, (5, 3, 4), np.uint8),
    "y_train": np.array([0, 1, 2, 1, 0]),
    "x_test": RANDOM.integers(0, 256, (2, 3, 4), np.uint8),
    "y_test": np.array([4, 0]),
}


def write(path, **changes):
    np.savez(path, **{name: array for name, array in {**ARRAYS, **changes}.items() if array is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("given_as", ["file", "file in folder", "data-dir file", "data-dir folder"])
def test_every_way_to_name_the_file_gives_its_arrays(tmp_path, save, given_as):
    path = tmp_path / "mine.npz"
    save(path, **ARRAYS)
    (tmp_path / "notes.txt").touch()
    images = {
        "file": lambda: Npz(file=str(path)).load(None),
        "file in folder": lambda: Npz(file="mine.npz").load(tmp_path),
        "data-dir file": lambda: Npz().load(path),
        "data-dir folder": lambda: Npz().load(tmp_path),
    }[given_as]()
    assert (images.shape, images.classes) == ((3, 4, 1), 5)
    for split, part in [(images.train, "train"), (images.test, "test")]:
        np.testing.assert_array_equal(split.images[..., 0], ARRAYS[f"x_{part}"])
        np.testing.assert_array_equal(split.labels, ARRAYS[f"y_{part}"])


@given(st.sampled_from(["u1", "i2", ">i4", "<u8"]), st.integers(1, 4), st.sampled_from("CF"))
def test_any_integers_are_labels_and_any_channels_are_kept(tmp_path_factory, dtype, channels, order):
    images = np.asarray(RANDOM.integers(0, 256, (5, 3, 4, channels), np.uint8), order=order)
    labels = ARRAYS["y_train"].astype(dtype)
    path = tmp_path_factory.mktemp("npz") / "mine.npz"
    data = Npz().load(write(path, x_train=images, y_train=labels, x_test=images, y_test=labels))
    np.testing.assert_array_equal(data.train.images, images)
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.train.labels.dtype == np.int64
    assert data.train.images.flags.c_contiguous
    assert data.classes == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"x_test": None, "y_train": None}, "lacks y_train, x_test; it has x_train, y_test"),
        ({"x_train": ARRAYS["x_train"] / 255}, r"x_train of .*: images of dtype float64, expected uint8"),
        ({"x_test": ARRAYS["x_test"].astype(np.int8)}, r"x_test of .*: images of dtype int8, expected uint8"),
        ({"x_train": np.zeros((5, 12), np.uint8)}, r"images of shape \(5, 12\), expected"),
        ({"x_train": np.zeros((5, 1, 3, 4, 1), np.uint8)}, r"images of shape \(5, 1, 3, 4, 1\), expected"),
        ({"x_train": np.uint8(3)}, r"images of shape \(\), expected"),
        ({"x_train": np.zeros((5, 3, 4, 0), np.uint8)}, r"images of shape \(5, 3, 4, 0\), expected"),
        ({"x_test": np.zeros((0, 3, 4), np.uint8), "y_test": np.zeros(0, int)}, "x_test of .* has no images"),
        ({"x_test": np.zeros((2, 4, 3), np.uint8)}, "training images of 3 × 4 × 1, but test images of 4 × 3 × 1"),
        ({"x_test": np.zeros((2, 3, 4, 3), np.uint8)}, "training images of 3 × 4 × 1, but test images of 3 × 4 × 3"),
        ({"y_train": np.array([0, 1, 2])}, "x_train of .* has 5 images, but y_train of .* has 3 labels"),
        ({"y_test": np.array([0, -1])}, "y_test of .* has the label -1, expected 0 to"),
        ({"y_test": np.array([0, 2**62])}, "has the label 4611686018427387904, expected 0 to 999999"),
        ({"y_test": np.array([0, 2**64 - 1], np.uint64)}, "has the label 18446744073709551615, expected 0 to 999999"),
        ({"y_test": np.array([0.0, 1.0])}, "labels of dtype float64, expected integers"),
        ({"y_test": np.array([True, False])}, "labels of dtype bool, expected integers"),
        ({"y_test": np.array([[0], [1]])}, r"labels of shape \(2, 1\), expected \(examples,\)"),
        ({"y_test": np.array([0, None])}, "Object arrays cannot be loaded"),
    ],
)
def test_wrong_arrays_are_refused_in_a_sentence(tmp_path, changes, sentence):
    path = write(tmp_path / "mine.npz", **changes)
    with pytest.raises(InputError, match=sentence) as error:
        Npz().load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_in_the_file_is_unpickled(tmp_path):
    class Calls:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    path = write(tmp_path / "mine.npz", y_test=np.array([Calls(), Calls()], dtype=object))
    with pytest.raises(InputError, match="Object arrays cannot be loaded"):
        Npz().load(path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, save):
    path = tmp_path / "mine.npz"
    save(path, **ARRAYS)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"mine\.npz"):
            Npz().load(path)


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_damaged_anywhere_is_refused_or_reads_the_same(tmp_path, save):
    path = tmp_path / "mine.npz"
    save(path, **ARRAYS)
    whole = path.read_bytes()
    sentences = []
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x24
        path.write_bytes(damaged)
        try:
            data = Npz().load(path)
        except InputError as error:
            sentences.append(str(error))
        else:
            np.testing.assert_array_equal(data.train.images[..., 0], ARRAYS["x_train"])
            np.testing.assert_array_equal(data.test.labels, ARRAYS["y_test"])
    assert len(sentences) > 100
    assert all("mine.npz" in sentence for sentence in sentences)


def test_a_file_that_is_not_an_archive_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", ARRAYS["x_train"])
    with pytest.raises(InputError, match=r"one\.npy is not a whole \.npz archive"):
        Npz().load(tmp_path / "one.npy")


def test_an_ambiguous_file_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"needs its option file, or a --data-dir with an \.npz file"):
        Npz().load(None)
    with pytest.raises(InputError, match=r"must have exactly one \.npz file.*; it has none"):
        Npz().load(tmp_path)
    write(tmp_path / "one.npz")
    write(tmp_path / "two.npz")
    with pytest.raises(InputError, match=r"must have exactly one \.npz file.*; it has one\.npz, two\.npz"):
        Npz().load(tmp_path)
    assert Npz(file="two.npz").load(tmp_path).classes == 5


@pytest.mark.parametrize("name", ["nowhere", "nowhere/mine.npz", "one.npz/below.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "one.npz")
    for load in (lambda: Npz().load(tmp_path / name), lambda: Npz(file=str(tmp_path / name)).load(None)):
        with pytest.raises(InputError, match=rf"{name} cannot be read: (No such file|Not a directory)"):
            load()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Npz(file=str(tmp_path)).load(None)
