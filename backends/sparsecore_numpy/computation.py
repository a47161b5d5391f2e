"""A forward and a backward pass."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsecore.learning import Model, Totals
from sparsecore_numpy import loss, normalization
from sparsecore_numpy.ledger import Kept
from sparsecore_numpy.machine import Machine
from sparsecore_numpy.operations import NumpyOperations
from sparsecore_numpy.tape import Forgetful, Tape, Tensor
from sparsecore_numpy.weights import Weight
from sparsecore_numpy.workers import single_threaded_blas


class Computation(Protocol):
    """What computes a network's outputs and gradients for a learner that keeps its parameters in flat vectors.

    Parameters are :class:`sparsecore_numpy.weights.Weight`, and arrays for running statistics; images are
    normalized, (batch, height, width, channels).
    """

    def backpropagate(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the mean loss to the parameters'; the sums over the batch."""
        ...

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """With running statistics, (batch, classes)."""
        ...

    def kept(self, weight: Weight) -> Kept:
        """What it keeps of a weight from one step to the next."""
        ...


class NumpyComputation:
    """With nothing but NumPy."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def backpropagate(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """See :class:`Computation`."""
        tape = Tape()
        ops = NumpyOperations(self._machine, tape, normalization.of_batch)
        with single_threaded_blas():
            logits = model.forward(ops, parameters, Tensor(images, differentiable=False))
            totals = measured(logits.data, labels)
            tape.backward(logits, loss.mean_gradient(logits.data, labels))
        return totals

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """See :class:`Computation`."""
        ops = NumpyOperations(self._machine, Forgetful(), normalization.running)
        with single_threaded_blas():
            logits: Tensor = model.forward(ops, parameters, Tensor(images, differentiable=False))
        return logits.data

    def kept(self, weight: Weight) -> Kept:
        """Where its entries lie, in the orders in which it was made dense so far."""
        return Kept(weight.indices)


def measured(logits: NDArray[Any], labels: NDArray[np.int64]) -> Totals:
    """The sums over some examples."""
    losses = loss.cross_entropy(logits, labels)
    return Totals(float(losses.sum(dtype=np.float64)), loss.hits(logits, labels), len(labels))
