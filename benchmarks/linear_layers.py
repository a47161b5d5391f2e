"""A large fully connected layer by itself: dense on torch, and sparse on the CPU backend."""

import numpy as np
import torch
from networks import topology_of
from torch import nn

from sparsecore.engine.topology import Layout
from sparsecore.host.computation import NullTape, Tape
from sparsecore.host.weights import WeightView
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Buffer, Form, Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_numpy import NumpyArrays

SIDE = 4096
"""Inputs, and outputs."""


class DenseLayer:
    """On torch."""

    def __init__(self, batch: int) -> None:
        self._weight = torch.randn(SIDE, SIDE, requires_grad=True)
        self._x = torch.randn(batch, SIDE, requires_grad=True)
        self._gradient = torch.randn(batch, SIDE)

    def forward(self) -> None:
        """Outputs, as in evaluation."""
        with torch.no_grad():
            nn.functional.linear(self._x, self._weight)

    def both(self) -> None:
        """Outputs and gradients."""
        self._weight.grad = self._x.grad = None
        nn.functional.linear(self._x, self._weight).backward(self._gradient)


class SparseLayer:
    """On the CPU backend, from activations in its own layout, as they lie between two layers."""

    def __init__(self, sparsity: float, shared: Runtime, batch: int) -> None:
        topology = topology_of(Layout.of({"layer": (SIDE, SIDE)}), sparsity, NumpyArrays())
        positions = topology.local("layer").astype(np.intp)
        values = np.random.default_rng(0).standard_normal(len(positions)).astype(np.float32)
        self._weight = WeightView((SIDE, SIDE), positions, values, np.zeros_like(values))
        self._machine, self._lists = shared, ListCache(shared.threads)
        self._form = Form.of_features(batch, SIDE)
        self._x, self._gradient = self._noise(), self._noise()

    def forward(self) -> None:
        """Outputs, as in evaluation."""
        ops = CpuOperations(self._machine, self._lists, NullTape(), of_batch)
        ops.linear(self._input(), self._weight).buffer()

    def both(self) -> None:
        """Outputs and gradients."""
        tape, x = Tape(), self._input()
        self._weight.reset_gradient()
        out = CpuOperations(self._machine, self._lists, tape, of_batch).linear(x, self._weight)
        out.buffer()
        tape.backward(out, self._gradient)
        x.gradient.total(self._machine, self._form)

    def _input(self) -> Activation:
        return Activation(self._machine, self._form, InputNode(self._x))

    def _noise(self) -> Buffer:
        buffer = self._machine.buffers.take(self._form)
        by_vector = buffer.array.reshape(SIDE, -1)
        by_vector[:, : self._form.images] = np.random.default_rng(1).standard_normal((SIDE, self._form.images))
        by_vector[:, self._form.images :] = 0
        return buffer
