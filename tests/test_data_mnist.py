"""MNIST's files: every layout gives the same arrays, and every damaged file one sentence."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from sparsecore.data.mnist import FashionMnist, Mnist, read_idx
from sparsecore.errors import InputError

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RANDOM.integers(0, 256, (7, 4, 3), np.uint8),
    "train-labels-idx1-ubyte": np.array([0, 9, 1, 2, 3, 3, 9], np.uint8),
    "t10k-images-idx3-ubyte": RANDOM.integers(0, 256, (2, 4, 3), np.uint8),
    "t10k-labels-idx1-ubyte": np.array([5, 0], np.uint8),
}
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = ARRAYS


def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, changes=None, ending="", squeeze=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {**ARRAYS, **(changes or {})}.items():
        (folder / f"{name}{ending}").write_bytes(squeeze(idx(array)))
    return folder


@pytest.mark.parametrize("place", ["{name}/raw", "raw", "."])
@pytest.mark.parametrize(("ending", "squeeze"), [("", bytes), (".gz", gzip.compress)])
@pytest.mark.parametrize(("dataset", "name"), [(Mnist(), "MNIST"), (FashionMnist(), "FashionMNIST")])
def test_every_layout_gives_the_arrays_that_were_written(tmp_path, place, ending, squeeze, dataset, name):
    write(tmp_path / place.format(name=name), ending=ending, squeeze=squeeze)
    images = dataset.load(tmp_path)
    assert (images.shape, images.classes) == ((4, 3, 1), 10)
    for split, part in [(images.train, "train"), (images.test, "t10k")]:
        np.testing.assert_array_equal(split.images[..., 0], ARRAYS[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(split.labels, ARRAYS[f"{part}-labels-idx1-ubyte"])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
        assert split.images.flags.writeable
        assert split.images.flags.c_contiguous


@pytest.mark.parametrize("name", ARRAYS)
def test_an_idx_file_cut_anywhere_is_refused_by_name(tmp_path, name):
    folder = write(tmp_path / "raw")
    whole = (folder / name).read_bytes()
    for size in range(len(whole)):
        (folder / name).write_bytes(whole[:size])
        with pytest.raises(InputError, match=f"raw.{name}"):
            Mnist().load(tmp_path)


def test_a_compressed_file_cut_anywhere_is_refused_by_name(tmp_path):
    write(tmp_path, ending=".gz", squeeze=gzip.compress)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=path.name):
            Mnist().load(tmp_path)


def test_a_compressed_file_damaged_anywhere_is_refused_or_reads_the_same(tmp_path):
    # bytes of the gzip header that mean nothing (the time, the system) may change
    path = tmp_path / "labels.gz"
    array = ARRAYS[TRAIN_LABELS]
    whole = gzip.compress(idx(array))
    sentences = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        try:
            result = read_idx(path, 1)
        except InputError as error:
            sentences.append(str(error))
        else:
            assert 4 <= place < 10
            np.testing.assert_array_equal(result, array)
    assert len(sentences) >= len(whole) - 6
    assert all(str(path) in sentence for sentence in sentences)


def damaged(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damaged(TRAIN_IMAGES, idx(ARRAYS[TRAIN_LABELS])), "starts with 00 00 08 01, expected 00 00 08 03"),
        (damaged(TRAIN_IMAGES, idx(ARRAYS[TRAIN_IMAGES], kind=9)), "starts with 00 00 09 03, expected 00 00 08 03"),
        (damaged(TRAIN_IMAGES, b""), "starts with nothing"),
        (damaged(TRAIN_IMAGES, idx(ARRAYS[TRAIN_IMAGES]) + b"\0"), r"has 85 bytes .* promises 7 × 4 × 3 = 84"),
        (damaged(TRAIN_IMAGES, idx(ARRAYS[TRAIN_IMAGES])[:8] + b"\xff" * 8), "promises 7 × 4294967295 × 4294967295"),
        (damaged(TRAIN_IMAGES, idx(np.zeros((0, 4, 3), np.uint8))), "has no images"),
        (damaged(TRAIN_IMAGES, idx(np.zeros((7, 0, 3), np.uint8))), r"images of shape \(7, 0, 3\), expected"),
        (damaged(TRAIN_LABELS, idx(np.zeros(6, np.uint8))), f"has 7 images, but .*{TRAIN_LABELS} has 6 labels"),
        (damaged(TRAIN_LABELS, idx(np.full(7, 10, np.uint8))), f"{TRAIN_LABELS} has the label 10, expected 0 to 9"),
        (damaged(TEST_IMAGES, idx(np.zeros((2, 3, 4), np.uint8))), "training images of 4 × 3 × 1, but test .* 3 × 4 ×"),
        (lambda folder: (folder / TEST_LABELS).unlink(), f"{TEST_LABELS} was not found; looked for .*MNIST.raw"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path, damage, sentence):
    damage(write(tmp_path))
    with pytest.raises(InputError, match=sentence) as error:
        Mnist().load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_raw_file_named_as_compressed_is_refused(tmp_path):
    write(tmp_path, ending=".gz")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz cannot be read: Not a gzipped file"):
        Mnist().load(tmp_path)


def test_a_data_path_that_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the data folder .*nowhere does not exist"):
        Mnist().load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        Mnist().load(tmp_path / "file")
    with pytest.raises(InputError, match="does not exist"):
        Mnist().load(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="cannot be read"):
        Mnist().load(Path("a\0b"))


def test_a_folder_with_the_name_of_a_file_is_not_read_as_that_file(tmp_path):
    write(tmp_path)
    (tmp_path / TRAIN_IMAGES).unlink()
    (tmp_path / TRAIN_IMAGES).mkdir()
    with pytest.raises(InputError, match=f"{TRAIN_IMAGES} was not found"):
        Mnist().load(tmp_path)


def test_a_folder_or_file_without_permission_is_refused_by_name(tmp_path):
    folder = write(tmp_path / "closed")
    (folder / TRAIN_IMAGES).chmod(0)
    if os.access(folder / TRAIN_IMAGES, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match=f"{TRAIN_IMAGES} cannot be read: Permission denied"):
        Mnist().load(folder)
    folder.chmod(0)
    try:
        with pytest.raises(InputError, match=r"closed.*(cannot be read: Permission denied|not found)"):
            Mnist().load(folder)
    finally:
        folder.chmod(0o700)
