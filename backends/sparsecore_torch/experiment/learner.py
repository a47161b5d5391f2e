"""A network in training on torch."""

import ctypes
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sparsecore.data.images import Batch, Split
from sparsecore.engine.arrays import Gradient
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.errors import InputError
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore.learning.protocols import Task, Totals
from sparsecore_torch.experiment.device import Machine
from sparsecore_torch.experiment.inputs import Inputs
from sparsecore_torch.experiment.network import Network
from sparsecore_torch.experiment.optimizers import Descent
from sparsecore_torch.tensors import allocated_bytes


def ledger(network: Network, descent: Descent) -> Ledger:
    """Bytes of all trained parameters; where they lie is told by the engine's own positions."""
    parameters = (network.values, network.dense)
    weights, positions = sum(map(len, parameters)), network.topology.positions
    states = list(descent.state().values())
    entries = sum(len(buffer) for buffer in states if buffer.shape)
    size = network.values.itemsize
    return Ledger(
        values=Bytes(weights * size, allocated_bytes(parameters)),
        indices=Bytes(len(positions) * positions.itemsize, allocated_bytes([positions])),
        gradients=Bytes(
            weights * size, allocated_bytes(parameter.grad for parameter in parameters if parameter.grad is not None)
        ),
        optimizer_state=Bytes(entries * size, allocated_bytes(states)),
    )


class Sums:
    """The loss, the hits and the number of examples.

    Attributes:
        vector: the three, float64, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.vector = torch.zeros(3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            losses: of each example, in nats.
            logits: (batch, classes).
            labels: int64.
        """
        self.vector[0] += losses.sum(dtype=torch.float64)
        self.vector[1] += (logits.argmax(1) == labels).sum()
        self.vector[2] += len(labels)

    def add_sums(self, others: "Sums") -> None:
        """Add what others have summed up."""
        self.vector += others.vector

    def read(self) -> Totals:
        """The sums, on the host."""
        loss, correct, examples = self.vector.tolist()
        return Totals(loss, int(correct), int(examples))


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_LARGEST_ON_HEAP = 2**30


def keep_freed_memory() -> bool:
    """Keep it from now on, in the whole process; whether the C library can be told (glibc can)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ON_HEAP))


class TorchLearner:
    """See :class:`sparsecore.learning.protocols.Learner`. In training nothing waits for the device."""

    def __init__(self, task: Task, machine: Machine) -> None:
        if machine.device.type == "cpu":
            keep_freed_memory()
        self._machine = machine
        self._network = Network(task, machine)
        self._descent = Descent({"values": self._network.values, "dense": self._network.dense}, task.optimizer)
        self._inputs = Inputs(task.images, machine)
        self._sums = Sums(machine.device)

    @property
    def values(self) -> Tensor:
        """The N sparse values; not to be written to, and valid until the next call that changes them."""
        return self._network.values.detach()

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Gradients, and a step by them."""
        self.backward(batch)
        self.optimizer_step(learning_rate)

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients; the dense ones have D entries for as long as they are held."""
        if not dense:
            self._forward_backward(batch, self._network.training_logits)
            return None
        whole = self._network.whole()
        self._forward_backward(batch, lambda images: self._network.whole_logits(whole, images))
        with self._machine.sharing.meeting():
            self._network.take_gradients(whole)
        return whole.gradient

    def optimizer_step(self, learning_rate: float) -> None:
        """One optimizer step by the gradients."""
        self._descent.step(float(learning_rate))

    def _forward_backward(self, batch: Batch, forward: Callable[[Tensor], Tensor]) -> None:
        machine, sums = self._machine, Sums(self._machine.device)
        images, labels = self._inputs.of_plan(machine.sharing.part(batch))
        self._descent.forget_gradients()
        with machine.computing(), machine.sharing.meeting():
            logits = forward(images).to(machine.dtype)
            losses = functional.cross_entropy(logits, labels, reduction="none")
            torch.autograd.backward(machine.sharing.loss(losses, len(batch)))
            sums.add(losses, logits, labels)
            machine.sharing.total(sums.vector)
        self._sums.add_sums(sums)

    def totals(self) -> Totals:
        """The sums since :meth:`reset_totals`."""
        return self._sums.read()

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        self._sums = Sums(self._machine.device)

    @torch.no_grad()
    def evaluate(self, split: Split) -> Totals:
        """The sums over a split, with running statistics and without augmentation."""
        machine, sums = self._machine, Sums(self._machine.device)
        with machine.computing(), machine.sharing.meeting():
            for images, labels in self._inputs.of_split(split):
                logits = self._network.evaluation_logits(images).to(machine.dtype)
                sums.add(functional.cross_entropy(logits, labels, reduction="none"), logits, labels)
            machine.sharing.total(sums.vector)
        return sums.read()

    def set_values(self, values: Tensor) -> None:
        """Replace the N sparse values (a perturbation); optimizer state stays."""
        _check_shape("values", values, self.values)
        self.values.copy_(values)

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; optimizer state is carried along, zero where a weight grew."""
        carried = {name: reallocation.carry(buffer) for name, buffer in self._descent.vectors_of("values").items()}
        self._move(reallocation.after)
        self.values.copy_(reallocation.values)
        for name, buffer in self._descent.vectors_of("values").items():
            buffer.copy_(carried[name])

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters that are not sparse, running statistics among them, by name and in their shapes."""
        return {name: tensor.numpy(force=True).copy() for name, tensor in self._network.tensors().items()}

    def memory(self) -> Ledger:
        """Bytes of the trained parameters and what training keeps for each of them."""
        return ledger(self._network, self._descent)

    def state(self) -> dict[str, NDArray[Any]]:
        """All buffers but the topology's positions, on the host: enough to go on bit for bit."""
        return {name: buffer.numpy(force=True).copy() for name, buffer in self._buffers().items()}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from ``state`` (of :meth:`state`) on ``topology``."""
        self._move(topology)
        buffers = self._buffers()
        for name, buffer in buffers.items():
            if name not in state:
                raise InputError(f"the saved state has no buffer named {name!r}; it has: {', '.join(sorted(state))}")
            _check_shape(name, state[name], buffer)
        for name, buffer in buffers.items():
            buffer.copy_(torch.from_numpy(np.array(state[name])))

    def _move(self, topology: Topology) -> None:
        if topology.size != self._network.topology.size:
            self._network.resize(topology.size)
            self._descent.replace("values", self._network.values)
        self._network.topology = topology

    def _buffers(self) -> dict[str, Tensor]:
        """All that is saved, as vectors that share the memory of what they are of."""
        network = self._network
        running = {f"running.{name}": buffer for name, buffer in network.running.items()}
        parameters = {"values": self.values, "dense": network.dense.detach()}
        named = {**parameters, **self._descent.state(), **running, "totals": self._sums.vector}
        # a number is saved as a vector of one: safetensors' NumPy side knows no arrays without an axis
        return {name: buffer.view(-1) for name, buffer in named.items()}


def _check_shape(name: str, given: Any, expected: Tensor) -> None:
    if tuple(given.shape) != tuple(expected.shape):
        raise InputError(f"{name} must have the shape {tuple(expected.shape)}; given {tuple(given.shape)}")
