"""A trained network: all that its predictions depend on, read from a run or from a safetensors file of its own.

Inference is built on runs: this is the only module of the backend that imports the layers above ``learning``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.formats import KEY, NETWORK, Format
from sparsecore.host.arrays import NumpyArrays
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Model, with_ties
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.files import write_whole
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import data_fingerprint
from sparsecore.run.replay import check_settings
from sparsecore.run.sealed_files import read_entry, sealed_content, unsealed_facts
from sparsecore.run.setup import images_of
from sparsecore_cpu.runtime import Floats


@attrs.frozen(eq=False)
class FixedTensor:
    """A parameter that no longer changes.

    Attributes:
        shape: the dense shape.
        positions: row-major positions of the active entries, ascending, (count,).
        values: their values, float32, (count,).
    """

    shape: tuple[int, ...]
    positions: NDArray[np.integer]
    values: Floats

    @classmethod
    def whole(cls, array: Floats) -> "FixedTensor":
        """A tensor whose entries are all active.

        Args:
            array: float32, in the dense shape; a contiguous one is shared, not copied.
        """
        return cls(array.shape, np.arange(array.size), array.ravel())

    def to_array(self) -> NDArray[np.float64]:
        """The dense tensor in float64."""
        dense = np.zeros(self.shape)
        dense.reshape(-1)[self.positions] = self.values
        return dense

    def times(self, factors: NDArray[np.float64]) -> "FixedTensor":
        """The tensor with each output's weights multiplied by a factor, as batch norm is folded into them.

        Args:
            factors: one for each output, float64, (out,).

        Returns:
            A tensor with the same positions; the products are computed in float64 and rounded once.
        """
        outputs = self.positions // math.prod(self.shape[1:])
        return attrs.evolve(self, values=(self.values * factors[outputs]).astype(np.float32))


@attrs.frozen(eq=False)
class ImageInfo:
    """What is known of the images that a network was trained on.

    Attributes:
        shape: height, width and channels.
        classes: the number of classes.
        mean: of each channel over the training images, in units of 0..255.
        std: the deviation, likewise.
    """

    shape: tuple[int, int, int]
    classes: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@attrs.frozen(eq=False)
class TrainedNetwork:
    """A trained network.

    Attributes:
        chosen: the model, and what selects it.
        pictures: the images that it takes.
        positions: the active positions in the layout of the sparse tensors, ascending, (N,).
        values: their values, float32, (N,).
        dense: the other parameters and the running statistics, by name, float32, in their shapes.

    Raises:
        InputError: positions, values or dense parameters are not those of the model.
    """

    chosen: PluginChoice
    pictures: ImageInfo
    positions: NDArray[np.integer]
    values: Floats
    dense: Mapping[str, Floats]

    def __attrs_post_init__(self) -> None:
        size, positions = self.layout.size, self.positions
        if len(positions) != len(self.values):
            raise InputError(f"there are {len(positions)} positions and {len(self.values)} values")
        if len(positions) and not (positions[0] >= 0 and positions[-1] < size and np.all(np.diff(positions) > 0)):
            raise InputError(f"the positions are not ascending ones of the {size} of the model {self.chosen.name!r}")
        for parameter in self.parameters:
            if not parameter.sparse:
                self._check(parameter)

    @classmethod
    def of_run(cls, path: Path) -> "TrainedNetwork":
        """The network of a run as its latest checkpoint has it, whichever backend it was trained on.

        Args:
            path: the run's folder.

        Raises:
            InputError: this is no run, it has no checkpoint yet, it is damaged, or its settings or data are others now.
        """
        folder = RunFolder(path)
        tables = folder.read_tables()
        experiment = Experiment.of({**tables, "backend": {"name": "cpu"}})
        if not folder.checkpoint.exists():
            raise InputError(f"the run {folder.path} has no checkpoint yet: it has not done an epoch")
        state = read_checkpoint(folder.checkpoint)
        check_settings(folder, tables, state.facts)
        images = images_of(experiment)
        if data_fingerprint(images) != state.facts.get("data"):
            raise InputError(f"the images that the run {folder.path} was trained on have changed since")
        pictures = ImageInfo(images.shape, images.classes, images.mean, images.std)
        return cls.of_checkpoint(experiment.model, pictures, state)

    @classmethod
    def of_checkpoint(cls, chosen: PluginChoice, pictures: ImageInfo, state: Checkpoint) -> "TrainedNetwork":
        """The network in the state of a checkpoint.

        Args:
            chosen: the model, and what selects it.
            pictures: the images that it was trained on.
            state: the checkpoint; values are rounded to float32.

        Raises:
            InputError: the checkpoint's parameters are not those of the model.
        """
        dense = {name: _single(array) for name, array in state.group("dense").items()}
        return cls(chosen, pictures, state.arrays["positions"], _single(state.arrays["learner/values"]), dense)

    @property
    def model(self) -> Model:
        """The model, with tied parameters in their dense shapes."""
        return with_ties(self.chosen.plugin, self.parameters)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the model."""
        parameters: tuple[Parameter, ...] = tuple(
            self.chosen.plugin.parameters(self.pictures.shape, self.pictures.classes)
        )
        return parameters

    @property
    def layout(self) -> Layout:
        """The layout of the sparse tensors."""
        return Layout.of({parameter.name: parameter.shape for parameter in self.parameters if parameter.sparse})

    @property
    def topology(self) -> Topology:
        """The active weights."""
        layout = self.layout
        return Topology.of(layout, self.positions.astype(layout.position_dtype), NumpyArrays())

    def _check(self, parameter: Parameter) -> None:
        given = self.dense.get(parameter.name)
        if given is None or given.shape != parameter.shape:
            raise InputError(
                f"{parameter.name} of the model {self.chosen.name!r} has the shape {parameter.shape}; "
                f"given {'none' if given is None else given.shape}"
            )


def _single(array: NDArray[np.generic]) -> Floats:
    return np.asarray(array, np.float32)


_BITS = 7
_LAST = np.uint8(0x80)
_MOST_BYTES = 9
"""Bytes of a gap below 2⁶³."""


def to_gaps(positions: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Encode strictly ascending positions as gaps: 7 bits a byte, the lowest first, the last byte of a gap marked.

    Args:
        positions: at least 0, (count,).

    Returns:
        The bytes: one for each gap below 128, two for one below 16,384, and so on.
    """
    whole = np.concatenate([np.array([-1]), positions.astype(np.int64)])
    gaps = whole[1:] - whole[:-1] - 1
    digits = np.stack([gaps >> _BITS * place for place in range(_bytes_of(gaps))], axis=1)
    following = np.maximum.accumulate((digits > 0)[:, ::-1], axis=1)[:, ::-1]
    following[:, 0] = True  # a gap of 0 has a byte, too
    low = (digits & 0x7F).astype(np.uint8)
    last = following & ~np.pad(following[:, 1:], ((0, 0), (0, 1)))
    return np.where(last, low | _LAST, low)[following]


def from_gaps(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Decode what :func:`to_gaps` encoded.

    Args:
        content: the bytes.

    Returns:
        The positions, int64, (count,).

    Raises:
        InputError: the last gap has no end, or a gap has more than nine bytes.
    """
    if not content.size:
        return np.zeros(0, np.int64)
    last = content >= _LAST
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not last[-1] or (ends - starts).max() >= _MOST_BYTES:
        raise InputError("the positions are damaged: a gap between them has no end")
    digit = np.arange(content.size) - np.repeat(starts, ends - starts + 1)
    digits = (content & 0x7F).astype(np.int64) << _BITS * digit
    return np.cumsum(np.add.reduceat(digits, starts) + 1) - 1


def _bytes_of(gaps: NDArray[np.int64]) -> int:
    largest = int(gaps.max(initial=0))
    return max(1, -(-largest.bit_length() // _BITS))


def write_network(network: TrainedNetwork, path: Path) -> None:
    """Write a network to a safetensors file, replacing one that exists.

    Args:
        network: the trained network.
        path: the file, which is written whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    pictures = network.pictures
    facts = {"model": network.chosen.table(), "shape": pictures.shape, "classes": pictures.classes}
    arrays: dict[str, NDArray[Any]] = {
        "positions": to_gaps(network.positions),
        "values": network.values,
        "mean": pictures.mean,
        "std": pictures.std,
        **{f"dense/{name}": array for name, array in network.dense.items()},
    }
    write_arrays(NETWORK, arrays, facts, path)


def write_arrays(file_format: Format, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any], path: Path) -> None:
    """Write arrays and facts to a safetensors file, replacing one that exists.

    Args:
        file_format: of the file.
        arrays: by name.
        facts: what JSON represents.
        path: the file, which is written whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_whole(path, sealed_content(file_format, json.dumps(facts, sort_keys=True), arrays))
    except OSError as error:
        raise InputError(f"the network cannot be written to {path}: {error.strerror}") from error


def network_from(facts: Mapping[str, Any], arrays: dict[str, NDArray[Any]], path: Path) -> TrainedNetwork:
    """The network of a file's content.

    Args:
        facts: what the file says in JSON.
        arrays: its tensors, by name; changed.
        path: a file that :func:`write_network` wrote.

    Raises:
        InputError: it is damaged, or its model is not installed.
    """
    try:
        pictures = ImageInfo(tuple(facts["shape"]), facts["classes"], arrays.pop("mean"), arrays.pop("std"))
        positions, values, model = from_gaps(arrays.pop("positions")), arrays.pop("values"), facts["model"]
    except KeyError as error:
        raise InputError(f"the network {path} is damaged: it has no {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"the network {path} is damaged: {error}") from error
    dense = {name.removeprefix("dense/"): array for name, array in arrays.items()}
    return TrainedNetwork(PluginChoice.of("model", model), pictures, positions, values, dense)


def read_arrays(path: Path, formats: Sequence[Format]) -> tuple[Format, dict[str, Any], dict[str, NDArray[Any]]]:
    """The format, the facts and the arrays of a safetensors file.

    Args:
        path: a file that :func:`write_arrays` wrote, or any other one.
        formats: those that it may have. In version 1 files have no checksum.

    Returns:
        Its format, the facts, as JSON represents them, and the arrays by name.

    Raises:
        InputError: there is none, it is damaged, or it has another format or version.
    """
    source = f"the network {path}"
    try:
        entry, arrays = read_entry(path, source)
    except FileNotFoundError:
        raise InputError(f"there is no file {path} to read a network from") from None
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from error
    file_format = next((one for one in formats if one.is_text(entry.get(KEY))), None)
    if file_format is None:
        raise InputError(
            f"{source} has no network for predictions: it has the format {entry.get(KEY)!r}; expected "
            f"{' or '.join(repr(one.text) for one in formats)}"
        )
    version = file_format.check(entry.get(KEY), source)
    return file_format, dict(entry) if version == 1 else unsealed_facts(entry, arrays, source), arrays
