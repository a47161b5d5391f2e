"""The protocols of learning: what a model is, and what the training loop requires of a backend.

A model is written once, as a function over :class:`Operations` and a dict of parameters. A backend supplies the
operations with their gradients, an optimizer and evaluation, on a tensor type of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.arrays import Array, Arrays, Gradient, OwnArray
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.engine.young_weights import YoungWeights
from sparsecore.learning.ledger import Ledger
from sparsecore.learning.operations import Operations, Tensor
from sparsecore.learning.optimizers import Adam, AdamW, Optimizer, Sgd
from sparsecore.learning.parameters import Parameter, Ties
from sparsecore.learning.ranks import Ranks

__all__ = [
    "Adam",
    "AdamW",
    "Backend",
    "Learner",
    "Model",
    "Operations",
    "Optimizer",
    "Sgd",
    "Task",
    "Tensor",
    "Totals",
]


class Model(Protocol):
    """A network: its parameters, and its forward pass."""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The parameters for images of (height, width, channels) and so many classes.

        Args:
            image_shape: height, width and channels of the images.
            classes: the number of classes.
        """
        ...

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The forward pass.

        Args:
            ops: the operations of a backend.
            parameters: by name.
            images: normalized images.

        Returns:
            Logits, (batch, classes).
        """
        ...


def with_ties(model: Model, parameters: Sequence[Parameter]) -> Model:
    """The model with its tied parameters in their dense shapes, as backends run it.

    Args:
        model: the network.
        parameters: its parameters for the images that it is used with.

    Returns:
        A model whose forward pass receives the values of tied parameters, or the model itself where there are none.
    """
    ties = {parameter.name: parameter.ties for parameter in parameters if parameter.ties is not None}
    return _TiedModel(model, ties) if ties else model


@attrs.frozen(eq=False)
class _TiedModel:
    model: Model
    ties: Mapping[str, Ties]

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """The parameters of the inner model."""
        return self.model.parameters(image_shape, classes)

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The inner model on tied weights in place of their values."""
        tied = {name: ops.tied(parameters[name], ties.shape, ties.key) for name, ties in self.ties.items()}
        return self.model.forward(ops, {**parameters, **tied}, images)


@attrs.frozen(eq=False)
class Task:
    """All that a backend needs to start learning.

    Attributes:
        model: the network.
        parameters: its parameters, in the model's order; those with ``sparse`` are the tensors of the topology.
        other_parameters: initial values of the parameters that are not sparse, by name, float64, in their shapes.
        topology: the active positions, on the backend.
        values: the initial values of the active positions, (N,), on the backend, in its dtype.
        images: the data set.
        optimizer: the update rule.
        young: which steps weights take that have grown recently, if the rule has a bias correction.
    """

    model: Model
    parameters: tuple[Parameter, ...]
    other_parameters: Mapping[str, NDArray[np.float64]]
    topology: Topology
    values: Array
    images: Images
    optimizer: Optimizer
    young: YoungWeights = YoungWeights()

    @property
    def corrects_young_weights(self) -> bool:
        """Whether young weights take other steps than the optimizer's, which makes their ages part of the state."""
        return self.young.changes_steps and self.optimizer.has_bias_correction


@attrs.frozen
class Totals:
    """Sums over examples.

    Attributes:
        loss: the cross-entropies, in nats.
        correct: the number of examples whose largest logit is that of their label.
        examples: the number of examples.
    """

    loss: float = 0.0
    correct: int = 0
    examples: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.loss + other.loss, self.correct + other.correct, self.examples + other.examples)


class Learner(Protocol):
    """A network in training: the buffers of one run, which change in place.

    A learner may also have a method ``upcoming(plan)``: given the iterator of an epoch's batches, it returns one
    of the same batches in the same order, which may have loaded their images by the time that they are asked for.

    A method ``backward_at(batch, candidates)`` spares dense gradients where strategies ask for those of a few
    positions: it does what :meth:`backward` does, and returns the gradients at the positions of a topology of inactive
    ones, in their order (:mod:`sparsecore.learning.gradients`).

    A method ``momentum(name)`` returns SGD's momentum of the active weights of a tensor, (N_i,), read-only, or None
    with other optimizers, for strategies that ask for it, as SNFS does.

    A method ``measure_inputs()`` serves strategies that ask for the norms of the layers' inputs: it makes the next
    backward pass measure them, and returns a function from a tensor's name to them, which is called after that pass
    (:data:`sparsecore.engine.arrays.InputNorms`).
    """

    @property
    def values(self) -> Array:
        """The sparse values, (N,), read-only and valid until the next call that changes them."""
        ...

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Call :meth:`backward` and :meth:`optimizer_step`.

        Args:
            batch: the training images.
            learning_rate: η of the optimizer step.
        """
        ...

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients of the mean loss over a batch; its loss and hits are added to :meth:`totals`.

        Args:
            batch: the training images.
            dense: whether to return the dense gradients of the sparse tensors, too.

        Returns:
            The dense gradients, (size of the tensor,) by the tensor's name, which take memory for as long as they are
            held; None unless they were requested.
        """
        ...

    def optimizer_step(self, learning_rate: float) -> None:
        """Take one optimizer step with the gradients of the last :meth:`backward`.

        Args:
            learning_rate: η of this step; momentum, weight decay and the like are those of the task's optimizer.
        """
        ...

    @property
    def weight_gradient(self) -> Array:
        """The gradient of the sparse values, (N,), from :meth:`backward` to :meth:`optimizer_step`; read-only.

        It is used for strategies that ask for it, and :meth:`set_weight_gradient` for those that change it.
        """
        ...

    def set_weight_gradient(self, weight_gradient: OwnArray) -> None:
        """Replace the gradient of the sparse values before :meth:`optimizer_step`.

        Args:
            weight_gradient: (N,), on the backend, in its dtype; it is copied.

        Raises:
            InputError: it has another shape.
        """
        ...

    def totals(self) -> Totals:
        """The sums since :meth:`reset_totals`."""
        ...

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        ...

    def evaluate(self, split: Split) -> Totals:
        """The sums over all examples of a split, with running statistics and without augmentation.

        Args:
            split: images and labels of the task's height, width and channels; it may be the test images or any others.

        Returns:
            Sums of this call alone; :meth:`totals`, parameters and running statistics stay as they are.
        """
        ...

    def set_values(self, values: OwnArray) -> None:
        """Replace the sparse values, and keep the optimizer's state.

        Args:
            values: (N,), on the backend, in its dtype; they are copied.

        Raises:
            InputError: they have another shape.
        """
        ...

    def reallocate(self, reallocation: Reallocation) -> None:
        """Replace the topology and its values; optimizer state follows its weights and is zero for grown ones.

        SGD's momentum goes over by :meth:`sparsecore.engine.reallocation.Reallocation.carry_momentum`.

        Args:
            reallocation: from the learner's present topology to the new one, with the N values after it.
        """
        ...

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters that are not sparse, including running statistics, by name and in their shapes."""
        ...

    def memory(self) -> Ledger:
        """The bytes of the trained parameters, their gradients, indices and optimizer state."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """All buffers except the topology's positions, on the host: enough to resume training bit for bit.

        The sparse values, (N,), are named ``values``; all other names are the backend's own.
        """
        ...

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Resume from the buffers that :meth:`state` returned.

        Args:
            topology: the topology that they belong to.
            state: the buffers by name.

        Raises:
            InputError: a buffer is missing or has another shape.
        """
        ...


class Backend(Protocol):
    """A plugin of the group ``sparsecore.backends``: arrays and learning.

    A backend whose learners take ``Task.young`` into account has the attribute ``corrects_young_weights = True``; no
    other one is given what changes steps.

    A backend may also have a method ``foreign(kind, name, options)``, which returns a plugin that wraps an object of
    another library, such as a module of PyTorch, or None where the name selects a plugin of sparsecore.
    """

    @property
    def arrays(self) -> Arrays:
        """The array operations of the engine."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype of values, by NumPy's name."""
        ...

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; a backend without this attribute trains in one.

        :meth:`Learner.train` and :meth:`Learner.evaluate` are collective: all ranks call them with the same arguments,
        and their totals are sums over all ranks. The other methods may be called by any rank alone.
        """
        ...

    def learner(self, task: Task) -> Learner:
        """A network ready to train.

        Args:
            task: its topology and values are of this backend's arrays; the learner copies what it changes.
        """
        ...
