"""The learner of the torch backend: a network in training, on N sparse values and one vector of other parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sparsecore.data.images import Batch
from sparsecore.engine.arrays import Gradient, InputNorms
from sparsecore.engine.reallocation import Reallocation
from sparsecore.engine.topology import Topology
from sparsecore.learning.ledger import Bytes, Ledger
from sparsecore.learning.protocols import Task
from sparsecore.learning.saved_states import check_saved, check_shape
from sparsecore_torch.arrays import as_tensor
from sparsecore_torch.experiment.batch_learner import BatchLearner, RunningTotals
from sparsecore_torch.experiment.device import DeviceConfig
from sparsecore_torch.experiment.network import TorchNetwork, WideView
from sparsecore_torch.experiment.optimizers import MOMENTUM, OptimizerState
from sparsecore_torch.sparse_training.input_meters import InputMeters
from sparsecore_torch.tensors import allocated_bytes


class TorchLearner(BatchLearner):
    """A network in training; implements :class:`sparsecore.learning.protocols.Learner`.

    In training the host never waits for the device.

    Args:
        task: the network, its start values, the data and the optimizer.
        config: how the network is computed.
    """

    def __init__(self, task: Task, config: DeviceConfig) -> None:
        super().__init__(task, config)
        self._network = TorchNetwork(task, config)
        vectors = {"values": self._network.values, "dense": self._network.dense}
        self._meters: InputMeters | None = None
        self._optimizer = OptimizerState(vectors, task.optimizer, task.young if task.corrects_young_weights else None)

    @property
    def values(self) -> Tensor:
        """The N sparse values; not to be written to, and valid until the next call that changes them."""
        return self._network.values.detach()

    def backward(self, batch: Batch, *, dense: bool = False) -> Gradient | None:
        """Compute the gradients.

        Args:
            batch: the whole batch, of which each rank takes its part.
            dense: whether gradients of all positions are computed, too; they take D entries for as long as they are
                held.

        Returns:
            None, or from a tensor's name to its dense gradient, (D_i,), row-major.
        """
        if dense:
            view = self._network.wide_view()
            self._backward_by(view, batch)
            return view.gradient
        if self._meters is None:
            self._forward_backward(batch, self._network.training_logits)
        else:  # a view without further entries
            topology = self._network.topology
            self._backward_by(self._network.wide_view(topology.at(topology.positions[:0])), batch)
        return None

    def backward_at(self, batch: Batch, candidates: Topology) -> Tensor:
        """Compute the gradients, also at positions that are not active.

        Args:
            batch: the whole batch, of which each rank takes its part.
            candidates: the positions, which are trained with as weights that are zero.

        Returns:
            One entry for each of the positions, in their order, averaged over ranks.
        """
        view = self._network.wide_view(candidates)
        self._backward_by(view, batch)
        return view.other_gradient()

    def _backward_by(self, view: WideView, batch: Batch) -> None:
        meters, self._meters = self._meters, None
        self._forward_backward(batch, lambda images: self._network.wide_training_logits(view, images, meters))
        with self._config.parallel.communicating():
            self._network.take_gradients(view)
            if meters is not None:
                meters.total(self._config.parallel.total, self._config.device)

    def measure_inputs(self) -> InputNorms:
        """Measure the inputs of the sparse tensors in the next backward pass, of which nothing is compiled.

        Returns:
            From a tensor's name to the norms of its layer's inputs, (in,), valid after that pass.
        """
        self._meters = self._network.input_meters()
        return self._meters.norms

    def optimizer_step(self, learning_rate: float) -> None:
        """Take one optimizer step by the gradients."""
        self._optimizer.step(float(learning_rate))

    def _forward_backward(self, batch: Batch, forward: Callable[[Tensor], Tensor]) -> None:
        config, totals = self._config, RunningTotals(self._config.device)
        images, labels = self._inputs.of_plan(config.parallel.part(batch))
        self._optimizer.zero_grad()
        with config.computing(), config.parallel.communicating():
            logits = forward(images).to(config.dtype)
            losses = functional.cross_entropy(logits, labels, reduction="none")
            torch.autograd.backward(config.parallel.loss(losses, len(batch)))
            totals.add(losses, logits, labels)
            config.parallel.total(totals.vector)
        self._totals.add_totals(totals)

    def _evaluation_logits(self, images: Tensor) -> Tensor:
        return self._network.evaluation_logits(images)

    @property
    def weight_gradient(self) -> Tensor:
        """The gradient of the N sparse values, from :meth:`backward` to the optimizer's step; not to be written to."""
        gradient = self._network.values.grad
        return torch.zeros_like(self.values) if gradient is None else gradient

    def set_weight_gradient(self, weight_gradient: Tensor) -> None:
        """Replace the gradient of the N sparse values before the optimizer's step.

        Args:
            weight_gradient: (N,).

        Raises:
            InputError: it has another shape.
        """
        check_shape("weight_gradient", weight_gradient, self.values.shape)
        self._network.values.grad = weight_gradient.detach().to(self.values.dtype, copy=True)

    def momentum(self, name: str) -> Tensor | None:
        """Return SGD's momentum of a tensor's active weights, (N_i,); None with other optimizers and without one.

        Args:
            name: of the tensor.
        """
        buffer = self._optimizer.vectors_of("values").get(MOMENTUM)
        return None if buffer is None else buffer[self._network.topology.slots(name)]

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
        carried = {
            name: reallocation.carry_momentum(buffer) if name == MOMENTUM else reallocation.carry(buffer)
            for name, buffer in self._optimizer.vectors_of("values").items()
        }
        marks = self._optimizer.marks
        self._move(reallocation.after)
        self.values.copy_(as_tensor(reallocation.values))
        for name, buffer in self._optimizer.vectors_of("values").items():
            buffer.copy_(carried[name])
        if marks is not None:
            marks = reallocation.carry(marks)
            marks[as_tensor(reallocation.grown_slots)] = 1
            self._optimizer.set_marks(marks)

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
        buffers = self._buffers() | ({} if self._optimizer.marks is None else {"young": self._optimizer.marks})
        return {name: buffer.numpy(force=True).copy() for name, buffer in buffers.items()}

    def load_state(self, topology: Topology, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a saved state.

        Args:
            topology: the active positions that the state was saved with.
            state: what :meth:`state` returned.

        Raises:
            InputError: a buffer is missing or has another shape; nothing has changed.
        """
        sparse = {"values", *(f"values.{name}" for name in self._optimizer.vectors_of("values"))}
        buffers = self._buffers().items()
        shapes = {name: (topology.size,) if name in sparse else tuple(buffer.shape) for name, buffer in buffers}
        check_saved(state, shapes if self._optimizer.marks is None else {**shapes, "young": (topology.size,)})
        self._move(topology)
        for name, buffer in self._buffers().items():
            buffer.copy_(torch.from_numpy(np.array(state[name])))
        if self._optimizer.marks is not None:
            self._optimizer.set_marks(torch.from_numpy(np.array(state["young"])).to(self.values.device))

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
