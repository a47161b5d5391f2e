"""The learning half of a backend, as protocols: what models may use and what the training loop asks for.

A model is written once, as a function over :class:`Operations` and a dict of parameters. A backend supplies the
operations with their gradients, an optimizer and evaluation. What a ``Tensor`` is, is the backend's own business.
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
from sparsecore.learning.parameters import Parameter
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
"""A backend's own handle of an activation or a parameter."""


class Operations(Protocol):
    """The operations a model is written in. Weights are (out, in, height, width) and (out, in)."""

    def conv2d(self, x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Cross-correlation without a bias, zero padding on all four sides."""
        ...

    def batch_norm(self, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalize each channel (or feature), by the batch in training and by running statistics in evaluation.

        ε is 1e-5. In training ``mean`` and ``variance`` move by 0.1 towards the batch's mean and unbiased variance.
        """
        ...

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0); the gradient at 0 is 0."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x·weightᵀ + bias, for x of (batch, in)."""
        ...

    def global_average_pool(self, x: Tensor) -> Tensor:
        """The mean over height and width: (batch, channels)."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """X + y, of equal shapes."""
        ...

    def flatten(self, x: Tensor) -> Tensor:
        """Images as vectors, in the order height, width, channel whatever the backend's own layout."""
        ...

    def tied(self, values: Tensor, shape: tuple[int, ...], key: int) -> Tensor:
        """A weight of this shape, of fewer values: entry p is ξ(p)·values[h(p)] for the hash of this key.

        See :func:`sparsecore.learning.parameters.hash_slots`. The gradient of a value is the sum of those of all its
        entries, each times its sign.
        """
        ...


EPSILON = 1e-5
"""ε of batch norm."""

STATISTICS_MOMENTUM = 0.1
"""The weight of a batch's moments in the running statistics of batch norm."""


def check_batch_statistics(count: int) -> None:
    """Raise an :class:`InputError` unless a training batch has several values per channel for batch norm."""
    if count < 2:
        raise InputError(
            "batch norm needs more than one value a channel to train, and this batch has one; "
            "where it is the last of an epoch, another batch size or limit helps"
        )


def check_kernel_fits(image: Sequence[int], kernel: Sequence[int], padding: int) -> None:
    """Raise an :class:`InputError` unless a kernel fits into a padded image, both of (height, width)."""
    if min(image[0] - kernel[0], image[1] - kernel[1]) + 2 * padding < 0:
        raise InputError(
            f"a kernel of {kernel[0]}×{kernel[1]} does not fit into images of {image[0]}×{image[1]} pixels "
            f"with a padding of {padding}"
        )


def check_equal_shapes(x: Sequence[int], y: Sequence[int]) -> None:
    """Raise an :class:`InputError` unless the two tensors that are to be added have the same shape."""
    if x != y:
        raise InputError(f"add takes two tensors of the same shape; given {tuple(x)} and {tuple(y)}")


class Model(Protocol):
    """A network: its parameters, and its forward pass."""

    def parameters(self, image_shape: tuple[int, int, int], classes: int) -> tuple[Parameter, ...]:
        """What the network learns on images of (height, width, channels)."""
        ...

    def forward(self, ops: Operations, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits of (batch, classes)."""
        ...


@attrs.frozen(eq=False)
class Task:
    """All that a backend needs to start learning.

    Attributes:
        model: the network.
        parameters: what it learns, in the model's order; those with ``sparse`` are the tensors of the topology.
        dense: start values of the other parameters, by name, float64, in their shapes.
        topology: the active positions, on the backend.
        values: their start values, on the backend, in its dtype.
        images: the data.
        optimizer: the update rule.
    """

    model: Model
    parameters: tuple[Parameter, ...]
    dense: Mapping[str, NDArray[np.float64]]
    topology: Topology
    values: Array
    images: Images
    optimizer: Optimizer


@attrs.frozen
class Totals:
    """Sums over examples: the loss in nats, how many were classified correctly, how many there were."""

    loss: float = 0.0
    correct: int = 0
    examples: int = 0


class Learner(Protocol):
    """A network in training: the buffers of one run, and the only thing here that changes in place."""

    @property
    def values(self) -> Array:
        """The N sparse values; not to be written to, and valid until the next call that changes them."""
        ...

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Call :meth:`backward` and :meth:`optimizer_step`."""
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
        """Take one optimizer step with the gradients of the last :meth:`backward`."""
        ...

    def totals(self) -> Totals:
        """The sums since :meth:`reset_totals`."""
        ...

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        ...

    def evaluate(self, split: Split) -> Totals:
        """The sums over a split, with running statistics and without augmentation."""
        ...

    def set_values(self, values: OwnArray) -> None:
        """Replace the N sparse values (a perturbation); optimizer state stays."""
        ...

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; optimizer state is carried along, zero where a weight grew."""
        ...

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters that are not sparse, running statistics among them, by name and in their shapes."""
        ...

    def memory(self) -> Ledger:
        """Bytes of the trained parameters and what training keeps for each of them."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """All buffers but the topology's positions, on the host: enough to go on bit for bit.

        The N sparse values are named ``values``; all other names are the backend's own.
        """
        ...

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from ``state`` (of :meth:`state`) on ``topology``."""
        ...


class Backend(Protocol):
    """A plugin of the group ``sparsecore.backends``: arrays and learning."""

    @property
    def arrays(self) -> Arrays:
        """The array verbs."""
        ...

    @property
    def dtype(self) -> str:
        """The dtype of values, as NumPy names it."""
        ...

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; a backend that leaves this out trains in one.

        Of a learner, :meth:`Learner.train` and :meth:`Learner.evaluate` are called by all ranks, with the same
        arguments; what they sum up is the sum over all of them. The other methods may be called by any rank alone.
        """
        ...

    def learner(self, task: Task) -> Learner:
        """A network ready to train."""
        ...
