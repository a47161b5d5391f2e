"""A large fully connected layer by itself: dense on torch, and sparse on the CPU backend."""

import numpy as np
import torch
from torch import nn

from sparsecore.engine.engine import Engine
from sparsecore.engine.topology import Layout
from sparsecore.engine.units import as_units
from sparsecore.host.computation import NullTape, Tape
from sparsecore.host.weights import WeightView
from sparsecore_cpu.activations import Activation, InputNode
from sparsecore_cpu.batch_norm import of_batch
from sparsecore_cpu.operations import CpuOperations
from sparsecore_cpu.runtime import Buffer, Form, Runtime
from sparsecore_cpu.weighted import ListCache
from sparsecore_numpy import NumpyArrays
from sparsecore_strategies.static import Static

SIDE = 4096
"""Inputs, and outputs."""


class DenseLayer:
    """On torch.

    Args:
        batch: vectors.
        autocast: whether they are multiplied in bfloat16, as under ``torch.autocast``.
    """

    def __init__(self, batch: int, *, autocast: bool = False) -> None:
        self._precision = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
        self._weight = torch.randn(SIDE, SIDE, requires_grad=True)
        self._x = torch.randn(batch, SIDE, requires_grad=True)
        self._gradient = torch.randn(batch, SIDE)

    def forward(self) -> None:
        """Outputs, as in evaluation."""
        with torch.no_grad(), self._precision:
            nn.functional.linear(self._x, self._weight)

    def both(self) -> None:
        """Outputs and gradients."""
        self._weight.grad = self._x.grad = None
        with self._precision:
            outputs = nn.functional.linear(self._x, self._weight)
        outputs.backward(self._gradient.to(outputs.dtype))


class SparseLayer:
    """On the CPU backend, from activations in its own layout, as they lie between two layers.

    Args:
        sparsity: of its weights.
        shared: the runtime; one whose images are in bfloat16 rounds to it what it multiplies.
        batch: vectors.
        units: what is active as one, such as ``"16x32"``.
    """

    def __init__(self, sparsity: float, shared: Runtime, batch: int, units: str = "weights") -> None:
        layout, arrays = Layout.of({"layer": (SIDE, SIDE)}), NumpyArrays()
        engine = Engine(layout, [Static()], arrays=arrays, units=as_units(units))
        topology = engine.start(sparsity).topology
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
