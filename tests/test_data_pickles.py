"""Pickles of arrays are read as NumPy would read them, and run nothing."""

import contextlib
import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from python2_pickles import python2_pickle

from sparsecore.data.pickles import array_of, read_pickle
from sparsecore.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
DTYPES = ["u1", "i1", "<i2", ">i4", "<i8", "<u8"]


def read_array(content, key=b"data"):
    return array_of(read_pickle(content, "a test")[key], "a test")


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.sampled_from(PROTOCOLS), st.sampled_from("CF"))
def test_arrays_of_every_protocol_and_order_come_back(seed, dtype, protocol, order):
    random = np.random.default_rng(seed)
    array = random.integers(0, 100, random.integers(0, 5, 2)).astype(dtype, order=order)
    got = read_array(pickle.dumps({b"data": array}, protocol))
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lists_of_integers_and_of_numpy_integers_come_back(protocol):
    entries = {b"data": [3, np.int64(-4), np.uint8(200)], b"other": [b"", b"\xff\0name", "wörd", 2**70]}
    content = pickle.dumps(entries, protocol)
    np.testing.assert_array_equal(read_array(content), [3, -4, 200])
    assert read_pickle(content, "a test")[b"other"] == entries[b"other"]


def test_arrays_that_python_2_wrote_come_back():
    images = np.random.default_rng(0).integers(0, 256, (2, 300), np.uint8)
    content = python2_pickle({b"data": images, b"labels": [1, np.int64(7)], b"filenames": [b"x" * 300, b"y"]})
    assert b"numpy.core.multiarray\n_reconstruct" in content
    np.testing.assert_array_equal(read_array(content), images)
    np.testing.assert_array_equal(read_array(content, b"labels"), [1, 7])
    assert read_pickle(content, "a test")[b"filenames"] == [b"x" * 300, b"y"]


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_numpy_reads_the_same_from_what_python_2_wrote():
    images = np.random.default_rng(0).integers(0, 256, (2, 300), np.uint8)
    content = python2_pickle({b"data": images, b"labels": [1, np.int64(7)]})
    theirs = pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(theirs[b"data"], images)
    assert theirs[b"labels"] == [1, 7]


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {path}",)),
        (eval, ("open({path!r}, 'w')",)),
        (open, ("{path}", "w")),
        (subprocess.Popen, (["touch", "{path}"],)),
        (np.save, ("{path}", 1)),
        (getattr, (b"", "decode")),
        (np.dtype, ("O",)),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_and_nothing_is_run(tmp_path, function, arguments, protocol):
    path = tmp_path / "was-run"
    calls = Calls(function, *(item.format(path=path) if isinstance(item, str) else item for item in arguments))
    content = pickle.dumps({b"data": calls, b"labels": [calls]}, protocol)
    with pytest.raises(InputError, match="a test cannot be read"):
        read_array(content)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"(ios\nsystem\n.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x10dtype.__class__\x93.",
        b"cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\nb.",
        b"\x80\x02\x82\x01.",
        b"Psome persistent id\n.",
    ],
)
def test_every_pickle_opcode_that_names_a_global_is_refused(content):
    with pytest.raises(InputError, match="a test cannot be read"):
        read_pickle(content, "a test")


def test_the_error_names_the_global_that_the_pickle_asks_for():
    with pytest.raises(InputError, match=r"^a test cannot be read: it names builtins\.eval, and only arrays, bytes"):
        read_pickle(pickle.dumps({b"data": Calls(eval, "1")}), "a test")


def test_a_pickle_cannot_change_what_later_pickles_mean():
    harm = b"cnumpy\ndtype\n}S'code'\nS'O'\nsb.", b"cnumpy\nndarray\n(N}S'array'\nI1\nstb.", b"c_codecs\nencode\n}b."
    for content in harm:
        with pytest.raises(InputError):
            read_pickle(content, "a test")
    np.testing.assert_array_equal(read_array(pickle.dumps({b"data": np.arange(3)}, 2)), [0, 1, 2])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (np.arange(3.0), r"array of dtype <f8, expected integers"),
        (np.array([None]), r"array of dtype \|O8, expected integers"),
        (np.array([(1, 2)], "u1,u1"), "expected integers"),
        (b"text", "it has a bytes where an array or a list was expected"),
        ([[1], [2, 3]], "cannot be read"),
    ],
)
def test_anything_but_an_array_of_integers_is_refused(entry, sentence):
    with pytest.raises(InputError, match=sentence):
        read_array(pickle.dumps({b"data": entry}, 2))


def test_an_array_whose_bytes_are_too_few_is_refused():
    whole = python2_pickle({b"data": np.zeros((2, 2), np.uint8)})
    content = whole.replace(b"U\x04\0\0\0\0", b"U\x03\0\0\0")
    assert len(content) == len(whole) - 1
    with pytest.raises(InputError, match="cannot reshape array of size 3"):
        read_array(content)


def test_a_pickle_of_something_else_than_a_dict_is_refused():
    with pytest.raises(InputError, match="a test is a pickle of a list, expected a dict"):
        read_pickle(pickle.dumps([1]), "a test")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_cut_anywhere_is_refused(protocol):
    whole = pickle.dumps({b"data": np.arange(300, dtype=np.uint8), b"labels": [1, 2]}, protocol)
    for size in range(len(whole)):
        with pytest.raises(InputError, match="a test"):
            read_pickle(whole[:size], "a test")


@given(st.data())
def test_a_pickle_damaged_anywhere_raises_nothing_else(data):
    protocol = data.draw(st.sampled_from([2, 4]))
    whole = bytearray(pickle.dumps({b"data": np.arange(9, dtype=np.uint8), b"labels": [1, np.int64(2)]}, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        for entry in read_pickle(bytes(whole), "a test").values():
            array_of(entry, "a test")


def test_a_damaged_memo_index_takes_no_memory():
    content = b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b"."
    assert "LONG_BINPUT" in [code.name for code, _, _ in pickletools.genops(content)]
    assert read_pickle(content, "a test") == {}
