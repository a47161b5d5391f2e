"""A writer of pickles as Python 2 and its NumPy wrote them (protocol 2), opcode by opcode, for tests."""

import pickle
import struct

import numpy as np


def python2_pickle(value):
    """The pickle of bytes (as str of Python 2), int, bool, None, tuples, lists, dicts, NumPy arrays and numbers."""
    return pickle.PROTO + b"\x02" + _code(value) + pickle.STOP


def _code(value):
    return _WRITERS[type(value)](value)


def _bytes(value):
    if len(value) < 256:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value
    return pickle.BINSTRING + struct.pack("<i", len(value)) + value


def _list(items):
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_code, items)) + pickle.APPENDS


def _dict(entries):
    pairs = b"".join(_code(key) + _code(value) for key, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def _tuple(items):
    return pickle.MARK + b"".join(map(_code, items)) + pickle.TUPLE


def _global(module, name):
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _dtype(dtype):
    made = _global("numpy", "dtype") + _code((dtype.str[1:].encode(), 0, 1)) + pickle.REDUCE
    return made + _code((3, dtype.str[:1].encode(), None, None, None, -1, -1, 0)) + pickle.BUILD


def _array(array):
    empty = pickle.MARK + _global("numpy", "ndarray") + _code((0,)) + _code(b"b") + pickle.TUPLE
    made = _global("numpy.core.multiarray", "_reconstruct") + empty + pickle.REDUCE
    state = (_code(1), _code(array.shape), _dtype(array.dtype), _code(False), _bytes(array.tobytes()))
    return made + pickle.MARK + b"".join(state) + pickle.TUPLE + pickle.BUILD


def _scalar(number):
    state = pickle.MARK + _dtype(number.dtype) + _bytes(number.tobytes()) + pickle.TUPLE
    return _global("numpy.core.multiarray", "scalar") + state + pickle.REDUCE


_WRITERS = {
    bytes: _bytes,
    list: _list,
    dict: _dict,
    tuple: _tuple,
    np.ndarray: _array,
    np.int64: _scalar,
    bool: lambda value: pickle.NEWTRUE if value else pickle.NEWFALSE,
    type(None): lambda _: pickle.NONE,
    int: lambda value: pickle.BININT + struct.pack("<i", value),
}
