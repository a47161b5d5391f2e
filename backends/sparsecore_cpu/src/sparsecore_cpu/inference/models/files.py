"""Files of programs: safetensors with nonzero entries of weights, their positions in about a byte each, and JSON."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.errors import InputError
from sparsecore.formats import MODEL
from sparsecore_cpu.inference.models.program import Call, ModelProgram
from sparsecore_cpu.inference.network import FixedTensor, from_gaps, to_gaps, write_arrays

_SPARSE = 0.75
"""The density below which values and positions take less memory than all entries."""


def write_program(program: ModelProgram, path: Path) -> None:
    """Write a program to a safetensors file, replacing one that exists.

    Args:
        program: the program.
        path: the file, which is written whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    facts = {
        "shape": program.shape,
        "dtype": program.dtype,
        "output": program.output,
        "weights": {name: weight.shape for name, weight in program.weights.items()},
        "calls": [
            [call.operation, call.operands, dict(call.attributes), call.shape, call.source] for call in program.calls
        ],
    }
    arrays: dict[str, NDArray[Any]] = {f"constants/{name}": array for name, array in program.constants.items()}
    for name, weight in program.weights.items():
        if len(weight.values) < _SPARSE * math.prod(weight.shape):
            arrays[f"positions/{name}"], arrays[f"values/{name}"] = to_gaps(weight.positions), weight.values
        else:
            arrays[f"dense/{name}"] = weight.to_array().astype(np.float32)
    write_arrays(MODEL, arrays, facts, path)


def program_from(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path) -> ModelProgram:
    """The program of a file's content.

    Args:
        facts: what the file says in JSON.
        arrays: its tensors, by name.
        path: the file, for error messages.

    Raises:
        InputError: something is missing or contradicts something else.
    """
    try:
        calls = tuple(
            Call(operation, tuple(operands), attributes, tuple(shape), source)
            for operation, operands, attributes, shape, source in facts["calls"]
        )
        weights = {name: _weight(name, tuple(shape), arrays) for name, shape in facts["weights"].items()}
        start = "constants/"
        constants = {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
        return ModelProgram(tuple(facts["shape"]), facts["dtype"], calls, facts["output"], weights, constants)
    except KeyError as error:
        raise InputError(f"the network {path} is damaged: it has no {error}") from error
    except (TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"the network {path} is damaged: {error}") from error


def _weight(name: str, shape: tuple[int, ...], arrays: Mapping[str, NDArray[Any]]) -> FixedTensor:
    if f"dense/{name}" in arrays:
        array = arrays[f"dense/{name}"]
        if array.shape != shape or array.dtype != np.float32:
            raise InputError(f"{name} has the shape {shape} in float32; given {array.shape} in {array.dtype}")
        return FixedTensor.whole(array)
    positions, values = from_gaps(arrays[f"positions/{name}"]), arrays[f"values/{name}"]
    if len(positions) != len(values) or values.dtype != np.float32:
        raise InputError(f"{name} has {len(positions)} positions and {len(values)} values in {values.dtype}")
    size = math.prod(shape)
    if len(positions) and not (positions[0] >= 0 and positions[-1] < size and np.all(np.diff(positions) > 0)):
        raise InputError(f"the positions of {name} are not ascending ones of its {size}")
    return FixedTensor(shape, positions, values)
