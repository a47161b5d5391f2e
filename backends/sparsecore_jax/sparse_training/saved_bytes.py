"""A state dict as one array of bytes, for checkpointers of arrays alone: NumPy's .npz, with a JSON text in it."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError

KEY = "sparse_training"
"""The only key of a tree of arrays that has a state dict."""

_TEXT = "text"
_ARRAY = "array of the file"


def packed(state: Mapping[str, Any]) -> dict[str, NDArray[np.uint8]]:
    """Return a state dict as a tree of arrays.

    Args:
        state: nested dicts and lists of arrays of NumPy, numbers, strings, bools and None.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def plain(content: Any) -> Any:
        if isinstance(content, np.ndarray):
            name = f"a{len(arrays)}"
            arrays[name] = content
            return {_ARRAY: name}
        if isinstance(content, Mapping):
            return {key: plain(one) for key, one in content.items()}
        return [plain(one) for one in content] if isinstance(content, list | tuple) else content

    file = io.BytesIO()
    text = json.dumps(plain(state))
    np.savez(file, **{_TEXT: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
    return {KEY: np.frombuffer(file.getvalue(), np.uint8)}


def unpacked(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict that :func:`packed` has packed.

    Args:
        saved: a tree of arrays, of NumPy or JAX; a state dict that is not packed is returned as it is.

    Raises:
        InputError: the bytes are damaged.
    """
    if not isinstance(saved, Mapping) or KEY not in saved:
        return saved
    try:
        with np.load(io.BytesIO(np.asarray(saved[KEY]).tobytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(arrays.pop(_TEXT).tobytes().decode())
    except Exception as error:  # zip files, JSON and NumPy have their own
        raise InputError(f"the state of sparse training is damaged: {error}") from error

    def whole(content: Any) -> Any:
        if isinstance(content, dict):
            return arrays[content[_ARRAY]] if _ARRAY in content else {key: whole(one) for key, one in content.items()}
        return [whole(one) for one in content] if isinstance(content, list) else content

    restored: Mapping[str, Any] = whole(state)
    return restored
