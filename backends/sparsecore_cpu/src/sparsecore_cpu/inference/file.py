"""A trained network in one safetensors file, hardly larger than its parameters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.run.files import write_whole
from sparsecore_cpu.inference.network import Pictures, TrainedNetwork

_BITS = 7
_LAST = np.uint8(0x80)
_MOST_BYTES = 9
"""Of a gap below 2⁶³."""


def to_gaps(positions: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The bytes of strictly ascending positions, at least 0."""
    whole = np.concatenate([np.array([-1]), positions.astype(np.int64)])
    gaps = whole[1:] - whole[:-1] - 1
    digits = np.stack([gaps >> _BITS * place for place in range(_bytes_of(gaps))], axis=1)
    following = np.maximum.accumulate((digits > 0)[:, ::-1], axis=1)[:, ::-1]
    following[:, 0] = True  # a gap of 0 has a byte, too
    low = (digits & 0x7F).astype(np.uint8)
    last = following & ~np.pad(following[:, 1:], ((0, 0), (0, 1)))
    return np.where(last, low | _LAST, low)[following]


def from_gaps(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The positions.

    Raises:
        InputError: the bytes are not those of positions.
    """
    if not content.size:
        return np.zeros(0, np.int64)
    last = content >= _LAST
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not last[-1] or (ends - starts).max() >= _MOST_BYTES:
        raise InputError("the positions are damaged: a gap between them has no end")
    places = np.arange(content.size) - np.repeat(starts, ends - starts + 1)
    digits = (content & 0x7F).astype(np.int64) << _BITS * places
    return np.cumsum(np.add.reduceat(digits, starts) + 1) - 1


def _bytes_of(gaps: NDArray[np.int64]) -> int:
    largest = int(gaps.max(initial=0))
    return max(1, -(-largest.bit_length() // _BITS))


_FORMAT = "sparsecore network 1"
_ENTRY = "sparsecore"


def write_network(network: TrainedNetwork, path: Path) -> None:
    """Write the file; one that is there is replaced.

    Raises:
        InputError: it cannot be written.
    """
    from safetensors.numpy import save

    pictures = network.pictures
    told = {"format": _FORMAT, "model": network.chosen.table(), "shape": pictures.shape, "classes": pictures.classes}
    arrays = {
        "positions": to_gaps(network.positions),
        "values": network.values,
        "mean": pictures.mean,
        "std": pictures.std,
        **{f"dense/{name}": array for name, array in network.dense.items()},
    }
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_ENTRY: json.dumps(told)})
    try:
        write_whole(path, bytes(content))
    except OSError as error:
        raise InputError(f"the network cannot be written to {path}: {error.strerror}") from error


def read_network(path: Path) -> TrainedNetwork:
    """The network in the file.

    Raises:
        InputError: there is none, it is damaged, or its model is not installed.
    """
    told, arrays = _content(path)
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise InputError(f"{path} has no network of this version: expected the format {_FORMAT!r}")
    try:
        pictures = Pictures(tuple(told["shape"]), told["classes"], arrays.pop("mean"), arrays.pop("std"))
        positions, values, model = from_gaps(arrays.pop("positions")), arrays.pop("values"), told["model"]
    except KeyError as error:
        raise InputError(f"the network {path} is damaged: it has no {error}") from error
    dense = {name.removeprefix("dense/"): array for name, array in arrays.items()}
    return TrainedNetwork(PluginChoice.of("model", model), pictures, positions, values, dense)


def _content(path: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError:
        raise InputError(f"there is no file {path} to read a network from") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"the network {path} is damaged: {error}") from error
