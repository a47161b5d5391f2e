"""A trained network: all that its predictions depend on."""

import math
from collections.abc import Mapping

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.experiment.plugin_choice import PluginChoice
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Model
from sparsecore.learning.tied_model import with_ties
from sparsecore.run.checkpoint import Checkpoint, read_checkpoint
from sparsecore.run.folder import RunFolder
from sparsecore.run.identity import fingerprint
from sparsecore.run.setup import images_of
from sparsecore_cpu.runtime import Floats
from sparsecore_numpy import NumpyArrays


@attrs.frozen(eq=False)
class Tensor:
    """A parameter: the entries that exist.

    Attributes:
        shape: dense.
        positions: row-major within the tensor, ascending.
        values: one for each position.
    """

    shape: tuple[int, ...]
    positions: NDArray[np.integer]
    values: Floats

    @classmethod
    def whole(cls, array: Floats) -> "Tensor":
        """All entries."""
        return cls(array.shape, np.arange(array.size), array.ravel())

    def vector(self) -> NDArray[np.float64]:
        """In its dense shape, in double precision."""
        dense = np.zeros(self.shape)
        dense.reshape(-1)[self.positions] = self.values
        return dense

    def times(self, factors: NDArray[np.float64]) -> "Tensor":
        """The tensor with each output's weights multiplied by its factor."""
        outputs = self.positions // math.prod(self.shape[1:])
        return attrs.evolve(self, values=(self.values * factors[outputs]).astype(np.float32))


@attrs.frozen(eq=False)
class Pictures:
    """The images that a network was trained on.

    Attributes:
        shape: height, width and channels.
        classes: how many there are.
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
        pictures: what it takes.
        positions: of the weights that exist, ascending, in the layout of the sparse tensors.
        values: their values.
        dense: the other parameters and the running statistics, by name, in their shapes.
    """

    chosen: PluginChoice
    pictures: Pictures
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
    def of_run(cls, folder: RunFolder) -> "TrainedNetwork":
        """The network of a run as its checkpoint has it, whichever backend it was trained on.

        Raises:
            InputError: this is no run, it has not begun, it is damaged, or its data are others now.
        """
        experiment = Experiment.of({**folder.read_tables(), "backend": {"name": "cpu"}})
        if not folder.checkpoint.exists():
            raise InputError(f"the run {folder.path} has no checkpoint yet: it has not done an epoch")
        state, images = read_checkpoint(folder.checkpoint), images_of(experiment)
        if fingerprint(images) != state.facts["data"]:
            raise InputError(f"the images that the run {folder.path} was trained on have changed since")
        pictures = Pictures(images.shape, images.classes, images.mean, images.std)
        return cls.of_checkpoint(experiment.model, pictures, state)

    @classmethod
    def of_checkpoint(cls, chosen: PluginChoice, pictures: Pictures, state: Checkpoint) -> "TrainedNetwork":
        """The network in this state."""
        dense = {name: _single(array) for name, array in state.group("dense").items()}
        return cls(chosen, pictures, state.arrays["positions"], _single(state.arrays["learner/values"]), dense)

    @property
    def model(self) -> Model:
        """What computes."""
        return with_ties(self.chosen.plugin, self.parameters)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the model has learned."""
        parameters: tuple[Parameter, ...] = tuple(
            self.chosen.plugin.parameters(self.pictures.shape, self.pictures.classes)
        )
        return parameters

    @property
    def layout(self) -> Layout:
        """Of the sparse tensors."""
        return Layout.of({parameter.name: parameter.shape for parameter in self.parameters if parameter.sparse})

    @property
    def topology(self) -> Topology:
        """The weights that exist."""
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
