"""All that a network in training consists of: one vector of sparse values, one of dense parameters, statistics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecore.engine.topology import Layout, Topology
from sparsecore.learning.parameters import Parameter
from sparsecore.learning.protocols import Model, Task
from sparsecore_torch.arrays import active_indices
from sparsecore_torch.experiment.compilation import Execution, Forward
from sparsecore_torch.experiment.device import Machine
from sparsecore_torch.experiment.layers import Layers
from sparsecore_torch.experiment.operations import DenseWeight, Normalization, SparseWeight, TorchOperations, by_running


@attrs.frozen(eq=False)
class Whole:
    """Tensors laid out densely, zeros where no weight is, and their gradients.

    Attributes:
        topology: where weights are.
        values: all D_i entries of each tensor, to be differentiated by.
        positions: all D_i positions of each tensor.
    """

    topology: Topology
    values: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    @classmethod
    def of(cls, topology: Topology, values: Tensor) -> "Whole":
        """The tensors that have these N values."""
        layout, ends = topology.layout, zip(topology.layout.offsets[:-1], topology.layout.offsets[1:], strict=True)
        positions = tuple(
            torch.arange(*end, dtype=topology.positions.dtype, device=topology.positions.device) for end in ends
        )
        dense = tuple(values.new_zeros(size) for size in layout.sizes)
        for name, tensor, inside in zip(layout.names, dense, _inside(topology), strict=True):
            tensor[inside] = values[topology.slots(name)]
        return cls(topology, tuple(tensor.requires_grad_() for tensor in dense), positions)

    def gradient(self, name: str) -> Tensor:
        """The dense gradient of a tensor, (D_i,)."""
        return _gradient(self.values[self.topology.layout.index(name)])

    def existing(self) -> Tensor:
        """The gradients of the weights that exist, (N,)."""
        both = zip(self.values, _inside(self.topology), strict=True)
        return torch.cat([_gradient(tensor)[inside] for tensor, inside in both])

    def each_gradient(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put what comes of it in the place of each gradient, in the order of the layout."""
        for tensor in self.values:
            tensor.grad = change(_gradient(tensor))


def _inside(topology: Topology) -> list[Tensor]:
    """The active positions of each tensor, counted from its own first one."""
    return [active_indices(topology, tensor) for tensor in range(len(topology.layout))]


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, requires_grad=False) if tensor.grad is None else tensor.grad


@attrs.frozen(eq=False)
class Anatomy:
    """What stays as it is while the network learns.

    Attributes:
        model: the network as a function.
        layout: the sparse tensors.
        trained: the other parameters that learn.
        statistics: the running statistics.
    """

    model: Model
    layout: Layout
    trained: tuple[Parameter, ...]
    statistics: tuple[Parameter, ...]

    @classmethod
    def of(cls, task: Task) -> "Anatomy":
        """Of the task's network."""
        others = [parameter for parameter in task.parameters if not parameter.sparse]
        return cls(
            task.model,
            task.topology.layout,
            tuple(parameter for parameter in others if parameter.trained),
            tuple(parameter for parameter in others if not parameter.trained),
        )

    def forward(self, normalization: Normalization, execution: Execution) -> Forward:
        """The function from images and the parts of all vectors to logits."""
        operations = TorchOperations(normalization, execution.tied_layers)
        program = execution.program(self.model, operations, self._names)

        layers = execution.layers

        def logits(
            images: Tensor,
            values: Sequence[Tensor],
            positions: Sequence[Tensor],
            dense: Sequence[Tensor],
            running: Sequence[Tensor],
        ) -> Tensor:
            return program(
                {**self._sparse(values, positions, layers), **self._dense(dense), **self._running(running)}, images
            )

        return execution.prepared(logits)

    @property
    def _names(self) -> tuple[str, ...]:
        """In the order of the parts."""
        return (*self.layout.names, *(parameter.name for parameter in (*self.trained, *self.statistics)))

    def _sparse(self, values: Sequence[Tensor], positions: Sequence[Tensor], layers: Layers) -> dict[str, SparseWeight]:
        layout = self.layout
        return {
            name: SparseWeight(values[i], positions[i], layout.offsets[i], layout.shapes[i], layers)
            for i, name in enumerate(layout.names)
        }

    def _dense(self, parts: Sequence[Tensor]) -> dict[str, DenseWeight]:
        return {
            parameter.name: DenseWeight(part.view(parameter.shape))
            for parameter, part in zip(self.trained, parts, strict=True)
        }

    def _running(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        return {parameter.name: part for parameter, part in zip(self.statistics, parts, strict=True)}


class Network:
    """The buffers, and the forward pass in training and in evaluation.

    Attributes:
        values: the N sparse values.
        dense: all other trained parameters, end to end.
        running: the running statistics, by name; each has memory of its own, as batch norm writes to them.
        topology: where the values lie.
    """

    def __init__(self, task: Task, machine: Machine) -> None:
        anatomy = Anatomy.of(task)
        self.topology = task.topology
        self.values = _parameter(task.values, machine)
        self.dense = _parameter(_end_to_end(anatomy.trained, task.dense), machine)
        self.running = {p.name: _buffer(task.dense[p.name], machine) for p in anatomy.statistics}
        self._machine = machine
        self._shapes = {parameter.name: parameter.shape for parameter in anatomy.trained}
        self._sizes = [int(np.prod(shape)) for shape in self._shapes.values()]
        self._forward = anatomy.forward(machine.sharing.normalization, machine.execution)
        self._training = machine.sharing.trained(self._forward, [self.values, self.dense])
        self._evaluation = anatomy.forward(by_running, machine.execution)

    def training_logits(self, images: Tensor) -> Tensor:
        """Logits of a batch; running statistics move."""
        return self._training(images, *self._parts())

    def evaluation_logits(self, images: Tensor) -> Tensor:
        """Logits by running statistics."""
        return self._evaluation(images, *self._parts())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not sparse, by name, in their shapes."""
        parts = zip(self._shapes.items(), self.dense.detach().split_with_sizes(self._sizes), strict=True)
        return {**{name: part.view(shape) for (name, shape), part in parts}, **self.running}

    def whole(self) -> Whole:
        """The sparse tensors laid out densely, to be given to :meth:`whole_logits`."""
        return Whole.of(self.topology, self.values.detach())

    def whole_logits(self, whole: Whole, images: Tensor) -> Tensor:
        """As :meth:`training_logits`, for gradients by all positions; no rank's are made whole by it."""
        return self._forward(images, whole.values, whole.positions, *self._others())

    def take_gradients(self, whole: Whole) -> None:
        """After a backward pass through :meth:`whole_logits`: gradients as :meth:`training_logits` leaves them."""
        mean = self._machine.sharing.mean
        whole.each_gradient(mean)
        self.values.grad = whole.existing()
        if self.dense.grad is not None:
            self.dense.grad = mean(self.dense.grad)

    def resize(self, size: int) -> None:
        """Another number of sparse values, all zero; a new parameter, which nothing of the old one hangs on."""
        self.values = torch.nn.Parameter(self.values.detach().new_zeros(size))
        self._training = self._machine.sharing.trained(self._forward, [self.values, self.dense])

    def _parts(self) -> tuple[Sequence[Tensor], ...]:
        # one split each: its gradient is one concatenation, where slices would each make a vector of N zeros
        counts = self.topology.counts.tolist()
        sparse = (self.values.split_with_sizes(counts), self.topology.positions.split_with_sizes(counts))
        return (*sparse, *self._others())

    def _others(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return self.dense.split_with_sizes(self._sizes), list(self.running.values())


def _parameter(start: Any, machine: Machine) -> torch.nn.Parameter:
    return torch.nn.Parameter(_buffer(start, machine))


def _buffer(start: Any, machine: Machine) -> Tensor:
    # a copy, whatever is given: buffers change in place
    return torch.as_tensor(start).to(device=machine.device, dtype=machine.dtype, copy=True)


def _end_to_end(parameters: Sequence[Parameter], start: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(np.ravel(start[parameter.name]) for parameter in parameters)])
