"""The protocol of a host backend's computation, and what implementations share: tape, loss, moments of batch norm."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from sparsecore.host.parameters import CachedArrays
from sparsecore.host.weights import WeightView
from sparsecore.learning.operations import EPSILON, STATISTICS_MOMENTUM, check_batch_statistics
from sparsecore.learning.protocols import Model, Totals

Channels = NDArray[np.float64]
"""One value for each channel, (channels,)."""


class Computation(Protocol):
    """Computes outputs and gradients for a learner that keeps its parameters in flat vectors.

    Parameters are :class:`sparsecore.host.weights.WeightView` by name, and arrays for running statistics. Images are
    normalized, (batch, height, width, channels).
    """

    def forward_backward(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the batch's mean loss to the parameters' gradients, and return the batch's totals.

        Args:
            model: the network.
            parameters: by name.
            images: normalized, (batch, height, width, channels).
            labels: (batch,), 0 to classes - 1.
        """
        ...

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """Logits with running statistics, (batch, classes).

        Args:
            model: the network.
            parameters: by name.
            images: normalized, (batch, height, width, channels).
        """
        ...

    def cached_arrays(self, weight: WeightView) -> CachedArrays:
        """The arrays that are kept for a weight from one step to the next.

        Args:
            weight: a sparse or another trained parameter, of the learner's present topology.

        Returns:
            All that is kept, the weight's own indices included; the ledger counts memory that arrays share once.
        """
        ...


class Differentiable(Protocol):
    """The output of an operation, which collects the loss's gradient during the backward pass."""

    @property
    def has_gradient(self) -> bool:
        """Whether an operation that reads it has contributed to its gradient."""
        ...

    def start_gradient(self, gradient: Any) -> None:
        """Begin the backward pass here.

        Args:
            gradient: the loss's gradient for this output, in its shape.
        """
        ...


Output = TypeVar("Output", bound=Differentiable)


class Tape(Generic[Output]):
    """Records the operations of one training step and runs their gradients in reverse order."""

    def __init__(self) -> None:
        self._steps: list[tuple[Output, Callable[[Output], None]]] = []

    def record(self, output: Output, backward: Callable[[Output], None]) -> None:
        """Record an operation.

        Args:
            output: its output.
            backward: passes the output's gradient on to the operation's inputs and weights.
        """
        self._steps.append((output, backward))

    def backward(self, output: Output, gradient: Any) -> None:
        """Run the backward pass from ``output``, whose gradient is given; the tape is empty afterwards.

        Args:
            output: the output of the last operation.
            gradient: the loss's gradient for it, of the same shape.
        """
        output.start_gradient(gradient)
        self.run_backward()

    def run_backward(self, *, keep: bool = False) -> None:
        """Run the backward pass from all outputs whose gradients have been given to them.

        Args:
            keep: whether the tape is kept for another backward pass, with the memory of all its operations.
        """
        if keep:
            for recorded, step in reversed(self._steps):
                if recorded.has_gradient:
                    step(recorded)
            return
        while self._steps:
            recorded, step = self._steps.pop()
            if recorded.has_gradient:
                step(recorded)
            del recorded, step  # their memory serves the operations before them


class NullTape(Tape[Any]):
    """Records nothing: in evaluation, an activation's memory is free as soon as the model has read it."""

    def record(self, output: Any, backward: Callable[[Any], None]) -> None:
        """Do nothing."""


def cross_entropy(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    """The cross-entropy of each example in nats, (batch,), from logits (batch, classes).

    Args:
        logits: (batch, classes).
        labels: (batch,), 0 to classes - 1.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - np.take_along_axis(shifted, labels[:, None], 1)[:, 0])


def mean_gradient(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    """The gradient of the batch's mean cross-entropy for the logits, (batch, classes).

    Args:
        logits: (batch, classes).
        labels: (batch,), 0 to classes - 1.
    """
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[np.arange(len(labels)), labels] -= 1
    return np.asarray(probabilities / len(labels))


def batch_totals(logits: NDArray[Any], labels: NDArray[np.int64]) -> Totals:
    """The sums over a batch: loss, correctly classified examples, examples.

    Args:
        logits: (batch, classes).
        labels: (batch,), 0 to classes - 1.
    """
    losses = cross_entropy(logits, labels)
    correct = int(np.count_nonzero(logits.argmax(axis=1) == labels))
    return Totals(float(losses.sum(dtype=np.float64)), correct, len(labels))


@attrs.frozen(eq=False)
class Moments:
    """Mean and variance of each channel.

    Attributes:
        mean: (channels,).
        variance: the biased variance of a batch, or the running one, (channels,).
        epsilon: is added to variances.
    """

    mean: Channels
    variance: Channels
    epsilon: float = EPSILON

    @property
    def inverse_deviation(self) -> Channels:
        """1/√(variance + ε), (channels,)."""
        return np.asarray(1.0 / np.sqrt(self.variance + self.epsilon))


def batch_moments(compute: Callable[[], Moments], count: int, mean: NDArray[Any], variance: NDArray[Any]) -> Moments:
    """The moments of a training batch, towards which the running ones are moved in place.

    Args:
        compute: computes the batch's mean and biased variance.
        count: values per channel in the batch.
        mean: running means, (channels,).
        variance: running variances, (channels,).

    Raises:
        InputError: the batch has one value per channel.
    """
    check_batch_statistics(count)
    moments = compute()
    mean += (STATISTICS_MOMENTUM * (moments.mean - mean)).astype(mean.dtype)
    unbiased = moments.variance * (count / (count - 1))
    variance += (STATISTICS_MOMENTUM * (unbiased - variance)).astype(variance.dtype)
    return moments


def running_moments(mean: NDArray[Any], variance: NDArray[Any]) -> Moments:
    """The running moments in float64, for evaluation.

    Args:
        mean: running means, (channels,).
        variance: running variances, (channels,).
    """
    return Moments(mean.astype(np.float64), variance.astype(np.float64))
