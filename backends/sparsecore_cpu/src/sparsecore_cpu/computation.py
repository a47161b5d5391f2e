"""A forward and a backward pass."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecore.learning import Model, Totals
from sparsecore_cpu import statistics
from sparsecore_cpu.activations import Activation, Given
from sparsecore_cpu.entries import Lists
from sparsecore_cpu.machine import Buffer, Form, Machine
from sparsecore_cpu.operations import CpuOperations, Forgetful, Tape
from sparsecore_numpy import loss
from sparsecore_numpy.computation import measured
from sparsecore_numpy.ledger import Kept
from sparsecore_numpy.weights import Weight


class CpuComputation:
    """See :class:`sparsecore_numpy.computation.Computation`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lists = Lists(machine.threads)

    def backpropagate(
        self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any], labels: NDArray[np.int64]
    ) -> Totals:
        """Add the gradients of the mean loss to the parameters'; the sums over the batch."""
        tape = Tape()
        ops = CpuOperations(self._machine, self._lists, tape, statistics.of_batch)
        logits = model.forward(ops, parameters, self._packed(images))
        outputs = self._unpacked(logits.buffer())
        tape.backward(logits, self._features(loss.mean_gradient(outputs, labels)))
        return measured(outputs, labels)

    def logits(self, model: Model, parameters: Mapping[str, Any], images: NDArray[Any]) -> NDArray[Any]:
        """With running statistics, (batch, classes)."""
        ops = CpuOperations(self._machine, self._lists, Forgetful(), statistics.running)
        return self._unpacked(model.forward(ops, parameters, self._packed(images)).buffer())

    def kept(self, weight: Weight) -> Kept:
        """Its positions, and the lists that were made of it."""
        lists = self._lists.of(weight)
        places = [array for one in lists for array in one.places]
        return Kept((*weight.indices, *places), tuple(one.values for one in lists))

    def _packed(self, images: NDArray[Any]) -> Activation:
        count, height, width, channels = images.shape
        buffer = self._machine.buffers.take(Form(count, height, width, channels))
        self._machine.kernels.pack(np.asarray(images, np.float32), buffer.handle, self._machine.threads)
        return Activation(self._machine, buffer.form, Given(buffer), differentiable=False)

    def _features(self, vectors: NDArray[Any]) -> Buffer:
        buffer = self._machine.buffers.take(Form.of_features(*vectors.shape))
        self._machine.kernels.pack(vectors[:, None, None], buffer.handle, 1)
        return buffer

    def _unpacked(self, features: Buffer) -> NDArray[Any]:
        vectors = np.empty((features.form.images, features.form.channels), np.float32)
        self._machine.kernels.unpack(features.handle, vectors[:, None, None], 1)
        return vectors
