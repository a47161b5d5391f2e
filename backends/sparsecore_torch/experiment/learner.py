"""The learner of the torch backend: a network in training, on N sparse values and one vector of other parameters."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.inputs import inputs_of
from sparsecore_torch.experiment.network import TorchNetwork
from sparsecore_torch.experiment.optimizers import OptimizerState
from sparsecore_torch.tensors import allocated_bytes


class RunningTotals:
    """Running sums of the loss, the number of correct predictions, and the number of examples.

    Attributes:
        vector: the three sums, float64, (3,), on the device.

    Args:
        device: that adds them up.
    """

    def __init__(self, device: torch.device) -> None:
        self.vector = torch.zeros(3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            losses: of each example, in nats, (batch,).
            logits: (batch, classes).
            labels: int64, (batch,).
        """
        self.vector[0] += losses.sum(dtype=torch.float64)
        self.vector[1] += (logits.argmax(1) == labels).sum()
        self.vector[2] += len(labels)

    def add_totals(self, others: "RunningTotals") -> None:
        """Add other sums.

        Args:
            others: on the same device.
        """
        self.vector += others.vector

    def read(self) -> Totals:
        """Return the sums; the host waits for the device.

        Returns:
            The loss in nats, the number of correct predictions and that of examples.
        """
        loss, correct, examples = self.vector.tolist()
        return Totals(loss, int(correct), int(examples))


class TorchLearner:
    """A network in training; implements :class:`sparsecore.learning.protocols.Learner`.

    In training the host never waits for the device.

    Args:
        task: the network, its start values, the data and the optimizer.
        config: how the network is computed.
    """

    def __init__(self, task: Task, config: DeviceConfig) -> None:
        if config.device.type == "cpu":
            keep_freed_memory()
        self._config = config
        self._network = TorchNetwork(task, config)
        vectors = {"values": self._network.values, "dense": self._network.dense}
        self._optimizer = OptimizerState(vectors, task.optimizer)
        self._images = inputs_of(task.images, config)
        self._totals = RunningTotals(config.device)

    @property
    def values(self) -> Tensor:
        """The N sparse values; not to be written to, and valid until the next call that changes them."""
        return self._network.values.detach()

    def train(self, batch: Batch, learning_rate: float) -> None:
        """Compute the gradients of a batch, and take an optimizer step."""
        self.backward(batch)
        self.optimizer_step(learning_rate)

    def upcoming(self, plan: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches of a plan, whose images may be loaded before they are asked for."""
        return self._images.upcoming(plan)

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients.

        Args:
            batch: the whole batch, of which each rank takes its part.
            dense: whether gradients of all positions are computed, too; they take D entries for as long as they are
                held.

        Returns:
            None, or from a tensor's name to its dense gradient, (D_i,), row-major.
        """
        if not dense:
            self._forward_backward(batch, self._network.training_logits)
            return None
        view = self._network.dense_view()
        self._forward_backward(batch, lambda images: self._network.dense_training_logits(view, images))
        with self._config.parallel.communicating():
            self._network.take_gradients(view)
        return view.gradient

    def optimizer_step(self, learning_rate: float) -> None:
        """Take one optimizer step by the gradients."""
        self._optimizer.step(float(learning_rate))

    def _forward_backward(self, batch: Batch, forward: Callable[[Tensor], Tensor]) -> None:
        config, totals = self._config, RunningTotals(self._config.device)
        images, labels = self._images.of_plan(config.parallel.part(batch))
        self._optimizer.zero_grad()
        with config.computing(), config.parallel.communicating():
            logits = forward(images).to(config.dtype)
            losses = functional.cross_entropy(logits, labels, reduction="none")
            torch.autograd.backward(config.parallel.loss(losses, len(batch)))
            totals.add(losses, logits, labels)
            config.parallel.total(totals.vector)
        self._totals.add_totals(totals)

    def totals(self) -> Totals:
        """Return the sums since :meth:`reset_totals`."""
        return self._totals.read()

    def reset_totals(self) -> None:
        """Set the sums to zero."""
        self._totals = RunningTotals(self._config.device)

    @torch.no_grad()
    def evaluate(self, split: Split) -> Totals:
        """Return the sums over a split, with running statistics and without augmentation.

        Args:
            split: of the data set; any other is copied to the device at each call. Ranks share the work.
        """
        config, totals = self._config, RunningTotals(self._config.device)
        with config.computing(), config.parallel.communicating():
            for images, labels in self._images.of_split(split):
                logits = self._network.evaluation_logits(images).to(config.dtype)
                totals.add(functional.cross_entropy(logits, labels, reduction="none"), logits, labels)
            config.parallel.total(totals.vector)
        return totals.read()

    def set_values(self, values: Tensor) -> None:
        """Replace the N sparse values, for a perturbation; optimizer state stays.

        Args:
            values: (N,).

        Raises:
            InputError: they have another shape.
        """
        check_shape("values", values, self.values.shape)
        self.values.copy_(values)

    def reallocate(self, reallocation: Reallocation) -> None:
        """Move to the new topology and its values; optimizer state follows the weights, zero where a weight grew."""
        carried = {name: reallocation.carry(buffer) for name, buffer in self._optimizer.vectors_of("values").items()}
        self._move(reallocation.after)
        self.values.copy_(as_tensor(reallocation.values))
        for name, buffer in self._optimizer.vectors_of("values").items():
            buffer.copy_(carried[name])

    def other_parameters(self) -> dict[str, NDArray[Any]]:
        """Return copies of the parameters that are not sparse, running statistics among them, by name."""
        return {name: tensor.numpy(force=True).copy() for name, tensor in self._network.other_parameters().items()}

    def memory(self) -> Ledger:
        """Return the bytes of the trained parameters and of what training keeps for each of them."""
        parameters = (self._network.values, self._network.dense)
        weights, positions = sum(map(len, parameters)), as_tensor(self._network.topology.positions)
        states = list(self._optimizer.buffers().values())
        entries = sum(len(buffer) for buffer in states if buffer.shape)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        size = self._network.values.itemsize
        return Ledger(
            values=Bytes(weights * size, allocated_bytes(parameters)),
            indices=Bytes(len(positions) * positions.itemsize, allocated_bytes([positions])),
            gradients=Bytes(weights * size, allocated_bytes(gradients)),
            optimizer_state=Bytes(entries * size, allocated_bytes(states)),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all buffers but the topology's positions, enough to go on bit for bit."""
        return {name: buffer.numpy(force=True).copy() for name, buffer in self._buffers().items()}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a saved state.

        Args:
            topology: the active positions that the state was saved with.
            state: what :meth:`state` returned.

        Raises:
            InputError: a buffer is missing or has another shape; nothing has changed.
        """
        sparse = {"values", *(f"values.{name}" for name in self._optimizer.vectors_of("values"))}
        for name, buffer in self._buffers().items():
            if name not in state:
                raise InputError(f"the saved state has no buffer named {name!r}; it has: {', '.join(sorted(state))}")
            check_shape(name, state[name], (topology.size,) if name in sparse else buffer.shape)
        self._move(topology)
        for name, buffer in self._buffers().items():
            buffer.copy_(torch.from_numpy(np.array(state[name])))

    def _move(self, topology: Topology) -> None:
        if topology.size != self._network.topology.size:
            self._network.resize(topology.size)
            self._optimizer.replace("values", self._network.values)
        self._network.topology = topology

    def _buffers(self) -> dict[str, Tensor]:
        """Return all buffers that are saved, as vectors that share their memory."""
        network = self._network
        running = {f"running.{name}": buffer for name, buffer in network.running.items()}
        parameters = {"values": self.values, "dense": network.dense.detach()}
        named = {**parameters, **self._optimizer.buffers(), **running, "totals": self._totals.vector}
        # a number is saved as a vector of one: safetensors for NumPy has no arrays without an axis
        return {name: buffer.view(-1) for name, buffer in named.items()}


def check_shape(name: str, given: Any, expected: Sequence[int]) -> None:
    """Check the shape of a saved buffer.

    Args:
        name: of the buffer.
        given: an array.
        expected: its shape.

    Raises:
        InputError: the array has another one.
    """
    if tuple(given.shape) != tuple(expected):
        raise InputError(f"{name} must have the shape {tuple(expected)}; given {tuple(given.shape)}")


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1
_LARGEST_ON_HEAP = 2**30


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for later use, in the whole process; buffers then cost no page faults.

    Returns:
        Whether the C library could be configured so; glibc can.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_ON_HEAP))
