"""From an experiment to what runs: data, engine, learner and the state before the first step."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.arrays import Array
from sparsecore.clock import Clock
from sparsecore.data.batches import Augmentation, first_images, steps_per_epoch
from sparsecore.data.images import Images
from sparsecore.engine import Engine
from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.layout import Layout
from sparsecore.learning import Learner, Task
from sparsecore.parameters import Parameter
from sparsecore.randomness import Randomness
from sparsecore.state import State
from sparsecore.tied_model import with_ties
from sparsecore.topology import Topology


@attrs.frozen(eq=False)
class Setup:
    """The parts of a run that do not change.

    Attributes:
        experiment: what is run.
        images: the data, cut to the limit.
        augmentation: how training images are varied.
        parameters: what the model learns.
        engine: the strategies over the layout of the sparse ones.
        start: the state before the first step.
        values: the sparse values before the first step.
    """

    experiment: Experiment
    images: Images
    augmentation: Augmentation
    parameters: tuple[Parameter, ...]
    engine: Engine
    start: State
    values: Array

    @property
    def dense_size(self) -> int:
        """How many trained parameters are not sparse."""
        dense = (parameter for parameter in self.parameters if parameter.trained and not parameter.sparse)
        return sum(int(np.prod(parameter.shape)) for parameter in dense)

    def learner(self) -> Learner:
        """The network before the first step."""
        random = self.engine.random.within("initial values")
        task = Task(
            model=with_ties(self.experiment.model.plugin, self.parameters),
            parameters=self.parameters,
            dense={p.name: _dense_values(p, random) for p in self.parameters if not p.sparse},
            topology=self.start.topology,
            values=self.values,
            images=self.images,
            optimizer=self.experiment.optimizer,
        )
        learner: Learner = self.experiment.backend.plugin.learner(task)
        return learner


def set_up(experiment: Experiment) -> Setup:
    """Load the data, put the engine together and draw the start.

    Raises:
        InputError: the data cannot be read, the model has no sparse tensor, a strategy cannot be registered or
            refuses the start, the model refuses the sparsity.
    """
    getattr(experiment.model.plugin, "check_sparsity", _any_will_do)(experiment.sparsity)
    folder = Path(experiment.data.dir) if experiment.data.dir else None
    images: Images = experiment.dataset.plugin.load(folder)
    random = Randomness(experiment.seed)
    if experiment.data.limit is not None:
        images = first_images(random, images, experiment.data.limit)
    augmentation = Augmentation(experiment.data.crop, experiment.data.flip)
    augmentation.check(images.shape)
    parameters = experiment.model.plugin.parameters(images.shape, images.classes)
    shapes = {parameter.name: parameter.shape for parameter in parameters if parameter.sparse}
    if not shapes:
        raise InputError(f"the model {experiment.model.name!r} has no sparse tensors")
    engine = Engine(
        Layout.of(shapes),
        {strategy.name: strategy.plugin for strategy in experiment.strategies},
        arrays=experiment.backend.plugin.arrays,
        seed=experiment.seed,
        regrow_pruned=experiment.reallocation.regrow_pruned,
        units=experiment.reallocation.units,
    )
    steps = steps_per_epoch(len(images.train), experiment.training.batch_size)
    clock = Clock(steps_per_epoch=steps, total_steps=steps * experiment.training.epochs)
    start = engine.start(experiment.sparsity, clock=clock)
    drawn = initial_values(start.topology, parameters, engine.random).astype(experiment.backend.plugin.dtype)
    values = engine.start_values(start, engine.arrays.from_numpy(drawn))
    return Setup(experiment, images, augmentation, tuple(parameters), engine, start, values)


def initial_values(topology: Topology, parameters: tuple[Parameter, ...], random: Randomness) -> NDArray[np.float64]:
    """The start value of every active position, a function of (seed, tensor, position)."""
    sparse: Mapping[str, Parameter] = {parameter.name: parameter for parameter in parameters if parameter.sparse}
    draws = random.within("initial values")
    return np.concatenate(
        [
            sparse[name].initial(sparse[name].shape, topology.local(name), draws.within(name))
            for name in topology.layout.names
        ]
    )


def _any_will_do(sparsity: float) -> None:
    """What a model says of a sparsity that has nothing to say."""


def _dense_values(parameter: Parameter, random: Randomness) -> NDArray[np.float64]:
    positions = np.arange(int(np.prod(parameter.shape)))
    return parameter.initial(parameter.shape, positions, random.within(parameter.name)).reshape(parameter.shape)
