"""CIFAR's pickles: the folder, its files and the archive give the same arrays, and damaged ones a sentence."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
from python2_pickles import python2_pickle

from sparsecore.data.cifar import Cifar10, Cifar100
from sparsecore.errors import InputError

WRITERS = {"python 2": python2_pickle, "python 3": pickle.dumps, "protocol 2": lambda value: pickle.dumps(value, 2)}


def batch(seed, images, label_keys, classes):
    random = np.random.default_rng(seed)
    labels = {key: random.integers(0, classes, images).tolist() for key in label_keys}
    return {b"batch_label": b"one", **labels, b"data": random.integers(0, 256, (images, 3072), np.uint8)}


TEN = {f"data_batch_{i}": batch(i, i, [b"labels"], 10) for i in range(1, 6)} | {
    "test_batch": batch(6, 2, [b"labels"], 10)
}
HUNDRED = {
    "train": batch(0, 4, [b"coarse_labels", b"fine_labels"], 100),
    "test": batch(1, 2, [b"coarse_labels", b"fine_labels"], 100),
}
EDITIONS = {
    "cifar10": (Cifar10(), "cifar-10-batches-py", "cifar-10-python.tar.gz", TEN),
    "cifar100": (Cifar100(), "cifar-100-python", "cifar-100-python.tar.gz", HUNDRED),
}


def write(folder, batches, writer=pickle.dumps):
    folder.mkdir(parents=True, exist_ok=True)
    for name, entries in batches.items():
        (folder / name).write_bytes(writer(entries))
    (folder / "batches.meta").write_bytes(b"not read")
    return folder


def archive(path, folder, batches, writer=pickle.dumps):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {"batches.meta": b"not read", **{k: writer(v) for k, v in batches.items()}}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pixels(data):
    """Red, green and blue planes one after another, spelled out pixel by pixel."""
    images = np.empty((len(data), 32, 32, 3), np.uint8)
    for channel in range(3):
        for row in range(32):
            start = 1024 * channel + 32 * row
            images[:, row, :, channel] = data[:, start : start + 32]
    return images


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("layout", ["folder", "files", "archive"])
def test_every_layout_gives_the_arrays_that_were_written(tmp_path, edition, writer, layout):
    dataset, folder, packed, batches = EDITIONS[edition]
    if layout == "archive":
        archive(tmp_path / packed, folder, batches, WRITERS[writer])
    else:
        write(tmp_path / folder if layout == "folder" else tmp_path, batches, WRITERS[writer])
    images = dataset.load(tmp_path)
    labels = b"fine_labels" if edition == "cifar100" else b"labels"
    *train, test = batches.values()
    assert images.classes == (100 if edition == "cifar100" else 10)
    for split, parts in [(images.train, train), (images.test, [test])]:
        np.testing.assert_array_equal(split.images, pixels(np.concatenate([part[b"data"] for part in parts])))
        np.testing.assert_array_equal(split.labels, np.concatenate([part[labels] for part in parts]))
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
        assert split.images.flags.c_contiguous
        assert split.images.flags.writeable


def test_the_archive_is_read_without_writing_anything(tmp_path):
    archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", HUNDRED)
    Cifar100().load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-100-python.tar.gz"]


def test_text_keys_are_read_too(tmp_path):
    write(tmp_path, {name: {key.decode(): entry for key, entry in part.items()} for name, part in HUNDRED.items()})
    np.testing.assert_array_equal(Cifar100().load(tmp_path).test.labels, HUNDRED["test"][b"fine_labels"])


@pytest.mark.parametrize("writer", WRITERS)
def test_a_pickle_cut_anywhere_is_refused_by_name(tmp_path, writer):
    whole = WRITERS[writer](HUNDRED["test"])
    write(tmp_path, HUNDRED)
    for size in [*range(400), *range(400, len(whole) - 200, 97), *range(len(whole) - 200, len(whole))]:
        (tmp_path / "test").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"test cannot be read"):
            Cifar100().load(tmp_path)


def test_an_archive_cut_anywhere_is_refused_by_name(tmp_path):
    path = archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", HUNDRED)
    whole = path.read_bytes()
    for size in [*range(0, 600, 31), *range(600, len(whole), 499), *range(len(whole) - 9, len(whole))]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cifar-100-python\.tar\.gz"):
            Cifar100().load(tmp_path)


def test_an_archive_of_a_tar_that_was_cut_is_refused_by_name(tmp_path):
    path = archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", HUNDRED)
    tar = gzip.decompress(path.read_bytes())
    last_byte = tar.rindex(HUNDRED["test"][b"data"].tobytes()) + 2 * 3072
    for size in [*range(0, 3000, 67), *range(3000, last_byte, 499), last_byte]:
        path.write_bytes(gzip.compress(tar[:size], 1))
        with pytest.raises(InputError, match=r"cifar-100-python\.tar\.gz"):
            Cifar100().load(tmp_path)


def test_a_damaged_archive_is_not_accepted_as_complete(tmp_path):
    path = archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", HUNDRED)
    whole = path.read_bytes()
    for place in [*range(len(whole) - 8, len(whole)), *range(100, len(whole) - 8, 211)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cifar-100-python\.tar\.gz"):
            Cifar100().load(tmp_path)


def test_an_archive_that_lacks_files_names_them(tmp_path):
    batches = {name: part for name, part in TEN.items() if name not in {"data_batch_3", "test_batch"}}
    archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", batches)
    with pytest.raises(InputError, match=r"lacks cifar-10-batches-py/data_batch_3, cifar-10-batches-py/test_batch$"):
        Cifar10().load(tmp_path)


def test_a_link_or_folder_instead_of_a_file_in_the_archive_is_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo("cifar-100-python/train")
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        with pytest.raises(InputError, match=r"cifar-100-python\.tar\.gz"):
            Cifar100().load(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({b"fine_labels": [0, 100]}, "has the label 100, expected 0 to 99"),
        ({b"fine_labels": [0, -1]}, "has the label -1, expected 0 to 99"),
        ({b"fine_labels": [1]}, "has 2 images, but .*test has 1 labels"),
        ({b"fine_labels": []}, "has 2 images, but .*test has 0 labels"),
        ({b"fine_labels": ["a", "b"]}, "labels of dtype .*, expected integers"),
        ({b"fine_labels": [True, False]}, "labels of dtype bool, expected integers"),
        ({b"fine_labels": [[1], [2]]}, r"labels of shape \(2, 1\), expected \(examples,\)"),
        ({b"fine_labels": {}}, "it has a dict where an array or a list was expected"),
        ({b"data": np.zeros((2, 3071), np.uint8)}, r"data of shape \(2, 3071\), expected \(images, 3072\)"),
        ({b"data": np.zeros((0, 3072), np.uint8)}, "has no images"),
        ({b"data": np.zeros(3072, np.uint8)}, r"data of shape \(3072,\), expected"),
        ({b"data": np.zeros((2, 3072), np.int64)}, "images of dtype int64, expected uint8"),
        ({b"data": np.zeros((2, 3072))}, "array of dtype <f8, expected integers"),
    ],
)
def test_a_wrong_batch_is_refused_in_a_sentence(tmp_path, change, sentence):
    write(tmp_path, {**HUNDRED, "test": HUNDRED["test"] | change})
    with pytest.raises(InputError, match=sentence) as error:
        Cifar100().load(tmp_path)
    assert str(tmp_path / "test") in str(error.value)
    assert "\n" not in str(error.value)


def test_cifar_10_given_as_cifar_100_names_the_missing_files(tmp_path):
    write(tmp_path, {"train": TEN["data_batch_1"], "test": TEN["test_batch"]})
    with pytest.raises(InputError, match=r"train has no 'fine_labels'; it has b'batch_label', b'labels', b'data'"):
        Cifar100().load(tmp_path)


def test_a_folder_without_the_files_says_where_they_were_looked_for(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match=r"cifar-100-python was not found; looked for .*train, .*train, .*tar\.gz"):
        Cifar100().load(tmp_path)
    write(tmp_path / "cifar-10-batches-py", {"data_batch_1": TEN["data_batch_1"]})
    with pytest.raises(InputError, match=r"data_batch_2 cannot be read: No such file or directory"):
        Cifar10().load(tmp_path)
