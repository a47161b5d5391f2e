"""A trained network in one safetensors file, hardly larger than its parameters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.experiment.chosen import Chosen
from sparsecore.run.files import write_whole
from sparsecore_cpu.inference.gaps import from_gaps, to_gaps
from sparsecore_cpu.inference.network import Network, Pictures

_FORMAT = "sparsecore network 1"
_ENTRY = "sparsecore"


def write_network(network: Network, path: Path) -> None:
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


def read_network(path: Path) -> Network:
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
    return Network(Chosen.of("model", model), pictures, positions, values, dense)


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
