"""The protocols of learning: what models may use, and what the training loop requires of a backend.

A model is written once, as a function over :class:`Operations` and a dict of parameters. A backend supplies the
operations with their gradients, an optimizer and evaluation, on a tensor type of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.data.images import Batch, Images, Split
from sparsecore.engine.arrays import Array, Arrays, Gradient, OwnArray
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.ledger import Ledger
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

Tensor: TypeAlias = Any
"""A backend's own type of activations and parameters."""


class Operations(Protocol):
    """The operations that models are written in. Weights are (out, in, height, width) and (out, in)."""

    def conv2d(self, x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Cross-correlation without a bias.

        Args:
            x: images, (batch, in, height, width) in the backend's own memory layout.
            weight: (out, in, height, width).
            stride: in pixels, along both sides.
            padding: zeros on all four sides, in pixels.

        Raises:
            InputError: the kernel is larger than the padded images.
        """
        ...

    def batch_norm(self, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalize each channel (or feature), by the batch in training and by running statistics in evaluation.

        In training ``mean`` and ``variance`` are moved by :data:`STATISTICS_MOMENTUM` towards the batch's mean and
        unbiased variance; ε is :data:`EPSILON`.

        Args:
            x: images, or vectors (batch, features).
            scale: (channels,).
            shift: (channels,).
            mean: the running means, (channels,).
            variance: the running variances, (channels,).

        Raises:
            InputError: a training batch has one value per channel.
        """
        ...

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); the gradient at 0 is 0."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x·weightᵀ + bias.

        Args:
            x: vectors, (batch, in).
            weight: (out, in).
            bias: (out,); None for no bias.

        Returns:
            Vectors, (batch, out).
        """
        ...

    def global_average_pool(self, x: Tensor) -> Tensor:
        """The mean over height and width of images.

        Args:
            x: images, (batch, channels, height, width) in the backend's own memory layout.

        Returns:
            Vectors, (batch, channels).
        """
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of two tensors.

        Args:
            x: images or vectors.
            y: a tensor of the same shape; nothing is broadcast.

        Raises:
            InputError: their shapes differ.
        """
        ...

    def flatten(self, x: Tensor) -> Tensor:
        """Images as vectors, in the order height, width, channel whatever the backend's own memory layout.

        Args:
            x: images.

        Returns:
            Vectors, (batch, height·width·channels), so that the weights of a linear layer mean the same on every
            backend.
        """
        ...

    def tied(self, values: Tensor, shape: tuple[int, ...], key: int) -> Tensor:
        """A weight of this dense shape whose entries share fewer values (HashedNets): entry p is ξ(p)·values[h(p)].

        The gradient of a value is the signed sum of the gradients of all entries that share it.

        Args:
            values: the shared values, (count,).
            shape: the dense shape of the weight.
            key: the key of the hash; see :func:`sparsecore.learning.parameters.hash_slots`.
        """
        ...


EPSILON = 1e-5
"""ε of batch norm."""

STATISTICS_MOMENTUM = 0.1
"""The weight of a batch's moments in the running statistics of batch norm."""


def check_batch_statistics(count: int) -> None:
    """Check that a training batch has several values per channel for batch norm.

    Args:
        count: values per channel: images times pixels, or vectors.

    Raises:
        InputError: there is one, whose variance is undefined.
    """
    if count < 2:
        raise InputError(
            "batch norm needs more than one value a channel to train, and this batch has one; "
            "where it is the last of an epoch, another batch size or limit helps"
        )


def check_kernel_fits(image: Sequence[int], kernel: Sequence[int], padding: int) -> None:
    """Check that a kernel fits into a padded image.

    Args:
        image: height and width in pixels.
        kernel: height and width in pixels.
        padding: zeros on all four sides, in pixels.

    Raises:
        InputError: the kernel is higher or wider.
    """
    if min(image[0] - kernel[0], image[1] - kernel[1]) + 2 * padding < 0:
        raise InputError(
            f"a kernel of {kernel[0]}×{kernel[1]} does not fit into images of {image[0]}×{image[1]} pixels "
            f"with a padding of {padding}"
        )


def check_equal_shapes(x: Sequence[int], y: Sequence[int]) -> None:
    """Check that two tensors that are to be added have the same shape: operations do not broadcast.

    Args:
        x: a shape.
        y: a shape.

    Raises:
        InputError: they differ.
    """
    if x != y:
        raise InputError(f"add takes two tensors of the same shape; given {tuple(x)} and {tuple(y)}")


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
    """

    model: Model
    parameters: tuple[Parameter, ...]
    other_parameters: Mapping[str, NDArray[np.float64]]
    topology: Topology
    values: Array
    images: Images
    optimizer: Optimizer


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


class Learner(Protocol):
    """A network in training: the buffers of one run, which change in place."""

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
    """A plugin of the group ``sparsecore.backends``: arrays and learning."""

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
