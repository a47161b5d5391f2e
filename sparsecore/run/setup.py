"""Setting up a run from its experiment: data, model, engine, learner, and the state before the first step."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.batches import Augmentation, first_images, held_out, steps_per_epoch
from sparsecore.data.images import Images
from sparsecore.engine.arrays import Array
from sparsecore.engine.engine import Engine
from sparsecore.engine.randomness import Randomness
from sparsecore.engine.schedules import Clock
from sparsecore.engine.side_orders import check_side_orders
from sparsecore.engine.state import State
from sparsecore.engine.topology import Layout, Topology
from sparsecore.errors import InputError
from sparsecore.experiment.experiment import Experiment
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Learner, Task, with_ties
from sparsecore.plugins.discovery import guard_plugin_code
from sparsecore.run.folder import RunFolder
from sparsecore.run.initialization import WarmStart
from sparsecore.run.start_weights import NewRun, drawn_weights
from sparsecore.run.warm_start import warm_start_of

Initialized: TypeAlias = tuple[State, NDArray[Any], Mapping[str, NDArray[np.float64]]]
"""The state before the first step, the sparse values, and the other parameters by name."""

Initialize: TypeAlias = Callable[[Experiment, Engine, Clock], Initialized]


def random_initialization(new: NewRun) -> Initialize:
    """Initialize with a topology that the strategies choose, and random values of the experiment's seed.

    Args:
        new: the run, whose model has the distributions to draw from.

    Returns:
        A function of experiment, engine and the clock of the start; it raises an :class:`InputError` where the
        experiment has no sparsity, and warns where a strategy starts at another one.
    """

    def initialize(experiment: Experiment, engine: Engine, clock: Clock) -> Initialized:
        if experiment.sparsity is None:
            raise InputError("a run that starts from no other one needs its sparsity")
        weights = drawn_weights(new)
        dense = weights.dense(experiment.backend.plugin.dtype)
        state = engine.start(experiment.sparsity, clock=clock, values=dense)
        engine.warn_of_other_sparsity(state.topology, experiment.sparsity)
        values = weights.at(state.topology)
        return state, values.sparse, values.dense

    return initialize


def initialization_from(start: WarmStart, parameters: Sequence[Parameter]) -> Initialize:
    """Initialize with the topology and the values of a warm start.

    Args:
        start: positions and values of the network's layout, as :meth:`WarmStart.check` has found them.
        parameters: of the model.

    Returns:
        A function of experiment, engine and the clock of the start, which moves on to the epoch of rewound values; it
        raises an :class:`InputError` where the experiment's sparsity would have no effect or has been passed already.
    """

    def initialize(experiment: Experiment, engine: Engine, clock: Clock) -> Initialized:
        topology = Topology.of(engine.layout, engine.arrays.from_numpy(start.positions), engine.arrays)
        if experiment.start.gives_active:
            _check_sparsity(experiment, topology, engine)
        then = attrs.evolve(clock, step=start.values.epoch * clock.steps_per_epoch)
        values = start.all_values(topology, parameters, experiment.backend.plugin.dtype)
        state = engine.start_at(topology, sparsity=experiment.sparsity, clock=then, values=values)
        if experiment.sparsity is not None and not experiment.start.gives_active:
            engine.warn_of_other_sparsity(state.topology, experiment.sparsity)
        dense = {name: np.asarray(array, np.float64) for name, array in start.values.dense.items()}
        return state, start.values.sparse, dense

    return initialize


def _check_sparsity(experiment: Experiment, topology: Topology, engine: Engine) -> None:
    """Raise an :class:`InputError` where the given sparsity would have no effect on a warm start."""
    given = experiment.sparsity
    if given is None:
        return
    setting = "start.run" if experiment.start.active is None else "start.active"
    if not engine.becomes_sparser:
        raise InputError(
            f"sparsity = {given} is given, but {setting} already sets the sparsity, to {topology.sparsity:.4f}; "
            "`sparsity` may be given only for strategies that prune further, as the final value"
        )
    if given < topology.sparsity:
        raise InputError(
            f"sparsity = {given} is the sparsity at the end, but the run starts with a sparsity of "
            f"{topology.sparsity:.4f} already"
        )


@attrs.frozen(eq=False)
class Setup:
    """The parts of a run that do not change.

    Attributes:
        experiment: what is run.
        images: the data set, after images were held out and limited.
        augmentation: how training images are augmented.
        parameters: the parameters of the model.
        engine: the strategies over the layout of the sparse parameters.
        start: the state before the first step.
        values: the sparse values before the first step, (N,).
        other_parameters: the other parameters before the first step, by name, in their shapes.
        source: the warm start, if the seed does not draw all weights.
    """

    experiment: Experiment
    images: Images
    augmentation: Augmentation
    parameters: tuple[Parameter, ...]
    engine: Engine
    start: State
    values: Array
    other_parameters: Mapping[str, NDArray[np.float64]]
    source: WarmStart | None

    @property
    def dense_size(self) -> int:
        """The number of trained parameters outside the sparse tensors."""
        dense = (parameter for parameter in self.parameters if parameter.trained and not parameter.sparse)
        return sum(int(np.prod(parameter.shape)) for parameter in dense)

    def learner(self) -> Learner:
        """The network before the first step.

        Raises:
            InputError: the backend does not give young weights what the run says.
        """
        task = Task(
            model=with_ties(self.experiment.model.plugin, self.parameters),
            parameters=self.parameters,
            other_parameters=self.other_parameters,
            topology=self.start.topology,
            values=self.values,
            images=self.images,
            optimizer=self.experiment.optimizer,
            young=self.engine.young_weights(),
        )
        backend = self.experiment.backend
        if task.corrects_young_weights and not getattr(backend.plugin, "corrects_young_weights", False):
            raise InputError(
                f"young weights are to get {task.young}, and the backend {backend.name!r} gives them the optimizer's "
                "own steps; set reallocation.young to 'none', or take another backend"
            )
        with guard_plugin_code("backend", backend.name):
            learner: Learner = backend.plugin.learner(task)
        return learner


def set_up(experiment: Experiment, run: RunFolder | None = None) -> Setup:
    """Load the data, build model and engine, and initialize randomly or from given weights.

    Args:
        experiment: what is to be run.
        run: its folder, which keeps the warm start of a run that has begun.

    Raises:
        InputError: the data cannot be read, the model has no sparse tensor, a strategy cannot be registered or
            refuses the start, the model refuses the sparsity, there are no such weights to start from.
    """
    images = images_of(experiment)
    augmentation = Augmentation(experiment.data.crop, experiment.data.flip)
    images.check_augmentation(augmentation.padding, augmentation.flip)
    _check_labels(experiment, images)
    with guard_plugin_code("model", experiment.model.name):
        parameters = tuple(experiment.model.plugin.parameters(images.shape, images.classes))
    shapes = {parameter.name: parameter.shape for parameter in parameters if parameter.sparse}
    if not shapes:
        raise InputError(f"the model {experiment.model.name!r} has no sparse tensors")
    engine = experiment.engine(Layout.of(shapes), experiment.backend.plugin.arrays)
    orders = {parameter.name: order for parameter in parameters if (order := parameter.side_order) is not None}
    check_side_orders(engine, orders)
    steps = steps_per_epoch(len(images.train), experiment.training.batch_size)
    clock = Clock(steps_per_epoch=steps, total_steps=steps * experiment.training.epochs)
    new = NewRun(experiment, images, parameters, engine)
    source = warm_start_of(new, run)
    initialize = random_initialization(new) if source is None else initialization_from(source, parameters)
    start, sparse, dense = initialize(experiment, engine, clock)
    ask_model(experiment, start.topology.sparsity if experiment.sparsity is None else experiment.sparsity)
    given = engine.arrays.from_numpy(sparse.astype(experiment.backend.plugin.dtype))
    values = engine.start_values(start, given)
    if experiment.start.keeps_values and values is not given:
        raise InputError(
            "a strategy draws signs or values of its own at the start, as DeepR does, and would change the trained "
            "weights that the run is to start with; take another strategy"
        )
    return Setup(experiment, images, augmentation, parameters, engine, start, values, dense, source)


def _check_labels(experiment: Experiment, images: Images) -> None:
    """Raise an :class:`InputError` if images have several labels and the model is not a module of PyTorch."""
    labels = getattr(images.train, "labels", None)
    if labels is not None and labels.ndim > 1 and experiment.model.given is None:
        raise InputError(
            f"the data set {experiment.dataset.name!r} has {labels.shape[1]} labels an example, which a module of "
            f"PyTorch can be trained on (--backend torch), and the model {experiment.model.name!r} cannot"
        )


def images_of(experiment: Experiment) -> Images:
    """The experiment's data set, after images were held out and limited.

    Raises:
        InputError: they cannot be read.
    """
    folder = Path(experiment.data.dir) if experiment.data.dir else None
    with guard_plugin_code("dataset", experiment.dataset.name):
        images: Images = experiment.dataset.plugin.load(folder)
    if experiment.data.held_out is not None:
        images = held_out(images, experiment.data.held_out)
    if experiment.data.limit is not None:
        images = first_images(Randomness(experiment.seed), images, experiment.data.limit)
    if not len(images.test):
        raise InputError(
            f"the data set {experiment.dataset.name!r} has no test images; data.held_out = N tests on N training images"
        )
    return images


def ask_model(experiment: Experiment, sparsity: float) -> None:
    """Let the model refuse a sparsity, by its method ``check_sparsity`` if it has one.

    Args:
        experiment: has the model.
        sparsity: the share of inactive positions, in [0, 1).

    Raises:
        InputError: the model refuses it, as HashedNets refuse all but 0.
    """
    check = getattr(experiment.model.plugin, "check_sparsity", None)
    if check is not None:
        check(sparsity)
